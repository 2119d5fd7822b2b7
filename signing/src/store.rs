//! Installed packages.
//!
//! ```text
//! <plugins>/.store/sha256-<tree>/       the files, read-only, named after their digest
//! <plugins>/.store/sha256-<tree>.json   where they came from
//! <plugins>/<name>/<version>            a link to them: what is installed
//! <plugins>/<name>/.held-<version>      the same link, after a rollback
//! ```
//!
//! A package is verified where it comes from, and the verified bytes are
//! written to a new folder, which gets its name only when it is complete; then
//! the link is put in place by one rename. An interrupted installation leaves a
//! folder whose name starts with a dot, which the next one removes, or a content
//! that nothing refers to, which the next one uses and [`collect`] removes. Where
//! `<name>/<version>` is a folder, an older release of this program installed it;
//! it stays usable,
//! and [`migrate`] brings it to this form.

mod collect;
mod content;
mod error;
mod migrate;
mod pointer;
mod receipt;
mod signatures;

use std::{fs, io, os::unix::fs::symlink, path::Path, time::Duration};

use jiff::Timestamp;
use orchestrator_manifest::{PluginName, Version};
use rustix::fs::{CWD, RenameFlags, renameat_with};

pub(crate) use self::content::mark_in_use;
pub use self::{
    collect::{CollectOptions, Collected, Removed, collect},
    content::{InUse, tree_digest},
    error::InstallError,
    migrate::migrate,
    pointer::{Installed, installed, rolled_back, stored},
    receipt::{Receipt, Source, receipt},
};
use self::{
    content::{create_dir, discard, discard_content, sync_dir},
    error::io_error,
    pointer::{Spot, link_text, linked_tree, versions_of},
};
use crate::{
    digest::Digest,
    durable::{self, Lock},
    lock_file::LockFile,
    package::{Package, ReleaseInfo, VerifyError, verify, verify_named},
    trust::{Release, TrustRoot, TrustStore},
    verified::Verified,
};

const LOCK_FILE: &str = ".lock";
/// How long another process may take to install something.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an operator may overrule when installing.
#[derive(Clone, Copy, Debug)]
pub struct InstallOptions<'a> {
    /// Accept a release that is older than one that was installed before.
    pub allow_downgrade: bool,
    /// How long to wait for another process that changes the store.
    pub patience: Duration,
    /// Accept nothing but what is written down here.
    pub locked: Option<&'a LockFile>,
}

impl Default for InstallOptions<'_> {
    fn default() -> Self {
        Self {
            allow_downgrade: false,
            patience: PATIENCE,
            locked: None,
        }
    }
}

/// Verifies the package in `dir` and copies the verified bytes to
/// `plugins_dir`. Installing what is installed already does nothing; what was
/// rolled back is used again.
///
/// # Errors
///
/// [`InstallError`]; what was installed before is then untouched.
pub fn install(
    dir: &Path,
    trust: &mut TrustStore,
    plugins_dir: &Path,
    options: InstallOptions<'_>,
) -> Result<Verified<Package>, InstallError> {
    install_from(dir, &Source::folder(dir), trust, plugins_dir, options)
}

/// [`install`] of a package that was fetched from `source` to `dir`.
///
/// # Errors
///
/// As [`install`].
pub fn install_from(
    dir: &Path,
    source: &Source,
    trust: &mut TrustStore,
    plugins_dir: &Path,
    options: InstallOptions<'_>,
) -> Result<Verified<Package>, InstallError> {
    durable::create_dir(plugins_dir, 0o755).map_err(|error| io_error(plugins_dir, error))?;
    let _lock = lock_store(plugins_dir, options.patience)?;
    content::sweep(plugins_dir);
    // Whoever was waited for may have installed a newer release.
    trust.reload()?;
    let root = trust.root();
    // By where it comes from: a download lies in a folder that nobody knows.
    let package = verify_named(dir, source.location.clone(), &root)?;
    let manifest = package.manifest();
    let (name, version) = (&manifest.id, manifest.version.to_string());
    let Some(release) = package.release() else {
        return Err(VerifyError::Unsigned {
            plugin: name.to_string(),
        }
        .into());
    };
    if let Some(locked) = options.locked {
        locked.admit(&package, &root)?;
    }
    package.check_platform()?;
    let spot = Spot::of(plugins_dir, name.as_str(), &version);
    if spot.active.symlink_metadata().is_ok() {
        let verified = already_there(plugins_dir, &spot.active, &package, release.digest, &root)?;
        remember(&package, trust, plugins_dir)?;
        return Ok(verified);
    }
    check_age(name, release, &root, options)?;
    if spot.held.symlink_metadata().is_ok() {
        let verified = already_there(plugins_dir, &spot.held, &package, release.digest, &root)?;
        remember(&package, trust, plugins_dir)?;
        rename(&spot.held, &spot.active)?;
        return Ok(verified);
    }
    let verified = content::put(&package, plugins_dir, &root)?;
    // Before the link: a crash in between must not make a step back possible.
    remember(&package, trust, plugins_dir)?;
    let tree = tree_digest(&verified);
    let receipt = Receipt {
        plugin: name.clone(),
        version,
        statement: release.digest,
        source: source.location.clone(),
        archive: source.archive,
        installed_at: Timestamp::now(),
    };
    receipt::write(plugins_dir, tree, &receipt)?;
    publish(plugins_dir, tree, &spot.active)?;
    Ok(verified)
}

/// Notes that this host has the package. The installed versions of the plugin are
/// remembered as long as what comes to lie beside them.
fn remember(
    package: &Verified<Package>,
    trust: &mut TrustStore,
    plugins_dir: &Path,
) -> Result<(), InstallError> {
    let versions = versions_of(plugins_dir, &package.manifest().id)?;
    let receipts = versions
        .iter()
        .filter_map(|one| receipt(plugins_dir, one.tree?));
    let present: Vec<_> = receipts.map(|it| it.statement).collect();
    Ok(trust.record_beside([package], &present)?)
}

/// Refuses what is too old to be installed now.
fn check_age(
    name: &PluginName,
    release: &ReleaseInfo,
    root: &TrustRoot,
    options: InstallOptions<'_>,
) -> Result<(), InstallError> {
    root.check_not_expired()?;
    let plugin = name.to_string();
    if release.expires.is_some_and(|end| end < root.now()) {
        return Err(InstallError::Expired { plugin });
    }
    let (serial, newest) = (release.serial, root.serial_floor(name));
    if serial < newest && !options.allow_downgrade {
        return Err(InstallError::Rollback {
            plugin,
            serial,
            newest,
        });
    }
    let given = Release {
        name,
        serial,
        digest: release.digest,
    };
    if root.has_another_of_its_number(&given) && !options.allow_downgrade {
        return Err(VerifyError::SameSerial { plugin, serial }.into());
    }
    Ok(())
}

/// Gives a content its name.
fn publish(plugins_dir: &Path, tree: Digest, link: &Path) -> Result<(), InstallError> {
    let folder = link.parent().unwrap_or(plugins_dir);
    create_dir(folder)?;
    let staged = content::incoming(plugins_dir)?;
    let new = staged.path().join("link");
    symlink(link_text(tree), &new).map_err(|error| io_error(&new, error))?;
    rename(&new, link)?;
    sync_dir(plugins_dir)
}

/// In one step, over nothing, and durably.
fn rename(from: &Path, to: &Path) -> Result<(), InstallError> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|error| io_error(to, error))?;
    sync_dir(to.parent().unwrap_or(to))
}

/// What is installed under this name, which has to be this very release. It gets
/// the signatures that were added since.
fn already_there(
    plugins_dir: &Path,
    target: &Path,
    package: &Verified<Package>,
    given: Digest,
    root: &TrustRoot,
) -> Result<Verified<Package>, InstallError> {
    let manifest = package.manifest();
    let (plugin, version) = (manifest.id.to_string(), manifest.version.to_string());
    if let Some(content) = stored(target) {
        signatures::add(plugins_dir, &content, package, root)?;
    }
    match verify(target, root) {
        Ok(present) if present.statement_digest() == Some(given) => Ok(present),
        Ok(present) => Err(InstallError::Different {
            plugin,
            version,
            present: present.statement_digest().unwrap_or(given),
            given,
        }),
        Err(source) => Err(InstallError::Damaged {
            plugin,
            version,
            source,
        }),
    }
}

/// Removes one version of a plugin, or all of them. What it was granted and
/// its highest serial number are kept. Files that a process has loaded stay
/// until [`collect`] finds them unused.
///
/// # Errors
///
/// [`InstallError::NotInstalled`] when there is nothing to remove.
pub fn remove(
    plugins_dir: &Path,
    name: &PluginName,
    version: Option<&Version>,
) -> Result<(), InstallError> {
    let folder = plugins_dir.join(name.as_str());
    let not_installed = || {
        let version = version.map(|version| format!(" {version}"));
        InstallError::NotInstalled(format!("{name}{}", version.unwrap_or_default()))
    };
    if folder.symlink_metadata().is_err() {
        return Err(not_installed());
    }
    let _lock = lock_store(plugins_dir, PATIENCE)?;
    content::sweep(plugins_dir);
    let targets = match version {
        Some(version) => {
            let spot = Spot::of(plugins_dir, name.as_str(), &version.to_string());
            vec![spot.active, spot.held]
        }
        None => vec![folder.clone()],
    };
    let mut trees = Vec::new();
    let mut is_found = false;
    for target in targets {
        if target.symlink_metadata().is_err() {
            continue;
        }
        is_found = true;
        trees.extend(linked_tree(&target));
        for entry in fs::read_dir(&target).into_iter().flatten().flatten() {
            trees.extend(linked_tree(&entry.path()));
        }
        discard(plugins_dir, &target)?;
    }
    if !is_found {
        return Err(not_installed());
    }
    // Only succeeds when that was the last version.
    let _ = fs::remove_dir(&folder);
    sync_dir(plugins_dir)?;
    for tree in trees {
        discard_content(plugins_dir, tree)?;
    }
    Ok(())
}

/// What a rollback did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolledBack {
    /// The version that was used.
    pub from: String,
    /// The version that is used from now on.
    pub to: String,
}

/// Takes the highest version of a plugin out of use, so that the one below it
/// takes its place. The version stays in the store; installing it again brings
/// it back. What already runs is not touched.
///
/// It is the operator's decision, so the rule that serial numbers only rise does
/// not hold; whatever else the trust root asks for does.
///
/// # Errors
///
/// [`InstallError::NoPrevious`] when there is no lower version,
/// [`InstallError::Damaged`] when the lower version does not verify or is no
/// longer trusted.
pub fn roll_back(
    plugins_dir: &Path,
    name: &PluginName,
    trust: &TrustStore,
) -> Result<RolledBack, InstallError> {
    if plugins_dir.join(name.as_str()).symlink_metadata().is_err() {
        return Err(InstallError::NotInstalled(name.to_string()));
    }
    let _lock = lock_store(plugins_dir, PATIENCE)?;
    let mut versions = versions_of(plugins_dir, name)?;
    let Some(current) = versions.pop() else {
        return Err(InstallError::NotInstalled(name.to_string()));
    };
    let plugin = name.to_string();
    let Some(previous) = versions.pop() else {
        let current = current.version;
        return Err(InstallError::NoPrevious { plugin, current });
    };
    if let Err(source) = verify(&previous.path, &trust.root()) {
        let version = previous.version;
        return Err(InstallError::Damaged {
            plugin,
            version,
            source,
        });
    }
    let spot = Spot::of(plugins_dir, name.as_str(), &current.version);
    rename(&spot.active, &spot.held)?;
    Ok(RolledBack {
        from: current.version,
        to: previous.version,
    })
}

/// Keeps other processes out. They take their turn, though not for ever.
fn lock_store(plugins_dir: &Path, patience: Duration) -> Result<Lock, InstallError> {
    let path = plugins_dir.join(LOCK_FILE);
    Lock::wait(&path, patience).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => InstallError::Busy(plugins_dir.display().to_string()),
        _ => io_error(&path, error),
    })
}
