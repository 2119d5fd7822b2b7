//! Installed packages: `<plugins>/<name>/<version>/`.
//!
//! A package is verified where it comes from, and the verified bytes are
//! written to a new folder, which gets its name only when it is complete. An
//! interrupted installation leaves a folder whose name starts with a dot, that
//! nothing looks at and the next installation removes.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use miette::Diagnostic;
use orchestrator_manifest::{PluginName, Version};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    digest::Digest,
    durable::Lock,
    package::{Package, SIGNATURES, VerifyError, verify},
    trust::{TrustError, TrustStore},
    verified::Verified,
};

const LOCK_FILE: &str = ".lock";
/// What unfinished work is called.
const INCOMING: &str = ".incoming-";
const OUTGOING: &str = ".outgoing-";

/// What an operator may overrule when installing.
#[derive(Clone, Copy, Debug, Default)]
pub struct InstallOptions {
    /// Accept a release that is older than one that was installed before.
    pub allow_downgrade: bool,
}

/// A package in the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Installed {
    /// The plugin's identity.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Why a package was not installed or removed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum InstallError {
    /// The package does not verify.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Verify(#[from] VerifyError),
    /// The trust store cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Trust(#[from] TrustError),
    /// A newer release was installed before. An older release may have faults
    /// that the newer one mended.
    #[error(
        "release {serial} of plugin `{plugin}` is older than release {newest}, which this host has had"
    )]
    #[diagnostic(
        code("ORC-2150"),
        help("install a newer release, or go back on purpose with `--allow-downgrade`")
    )]
    Rollback {
        /// The plugin.
        plugin: String,
        /// The serial number of the package.
        serial: u64,
        /// The highest one so far.
        newest: u64,
    },
    /// The publisher wants it no longer installed. Its signature states until
    /// when it may be installed.
    #[error("this release of plugin `{plugin}` has expired")]
    #[diagnostic(
        code("ORC-2151"),
        help(
            "install a newer release; if there is none that has not expired, check this host's clock"
        )
    )]
    Expired {
        /// The plugin.
        plugin: String,
    },
    /// The same version is installed with other content. Mostly the package was
    /// signed again without a new version.
    #[error(
        "plugin `{plugin}` {version} is installed already, as release {present}, and this is release {given}"
    )]
    #[diagnostic(
        code("ORC-2152"),
        help("a version never changes: raise the version, or remove the installed one first")
    )]
    Different {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
        /// The installed release.
        present: Digest,
        /// The release that was to be installed.
        given: Digest,
    },
    /// The same version is installed and no longer verifies.
    #[error("the installed plugin `{plugin}` {version} no longer verifies")]
    #[diagnostic(
        code("ORC-2153"),
        help("find out what changed it, remove it, and install it again")
    )]
    Damaged {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
        /// What is wrong with it.
        source: VerifyError,
    },
    /// Nothing with that name and version is installed.
    #[error("`{0}` is not installed")]
    #[diagnostic(code("ORC-2154"), help("`orchestrator plugin list` shows what is"))]
    NotInstalled(String),
    /// Another process is installing or removing.
    #[error("another process is changing `{0}`")]
    #[diagnostic(code("ORC-2155"), help("wait for it and try again"))]
    Busy(String),
    /// The operating system refused.
    #[error("`{path}` cannot be changed")]
    #[diagnostic(
        code("ORC-2156"),
        help(
            "check that there is room and that the folder belongs to you; what was installed before is untouched"
        )
    )]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Verifies the package in `dir` and copies the verified bytes to
/// `plugins_dir`. Installing what is installed already does nothing.
///
/// # Errors
///
/// [`InstallError`]; what was installed before is then untouched.
pub fn install(
    dir: &Path,
    trust: &mut TrustStore,
    plugins_dir: &Path,
    options: InstallOptions,
) -> Result<Verified<Package>, InstallError> {
    create_dir(plugins_dir)?;
    let _lock = lock(plugins_dir)?;
    sweep(plugins_dir);
    let root = trust.root();
    let package = verify(dir, &root)?;
    let manifest = package.manifest();
    let (name, version) = (&manifest.id, manifest.version.to_string());
    let Some(release) = package.release() else {
        return Err(VerifyError::Unsigned {
            plugin: name.to_string(),
        }
        .into());
    };
    let target = plugins_dir.join(name.as_str()).join(&version);
    if target.symlink_metadata().is_ok() {
        return already_there(&target, &package, release.digest, trust);
    }
    if release.expires.is_some_and(|end| end < root.now()) {
        return Err(InstallError::Expired {
            plugin: name.to_string(),
        });
    }
    let newest = root.serial_floor(name);
    if release.serial < newest && !options.allow_downgrade {
        let (plugin, serial) = (name.to_string(), release.serial);
        return Err(InstallError::Rollback {
            plugin,
            serial,
            newest,
        });
    }
    let staged = private_dir(plugins_dir, INCOMING)?;
    let content = staged.path().join("package");
    write_package(&package, &content)?;
    // Read back through the same checks: what is installed is what loads.
    let verified = verify(&content, &root)?;
    // Before the rename: a crash in between must not make a step back possible.
    trust.record_serial(name, release.serial)?;
    publish(&content, &target)?;
    Ok(verified)
}

fn already_there(
    target: &Path,
    package: &Verified<Package>,
    given: Digest,
    trust: &TrustStore,
) -> Result<Verified<Package>, InstallError> {
    let manifest = package.manifest();
    let (plugin, version) = (manifest.id.to_string(), manifest.version.to_string());
    match verify(target, &trust.root()) {
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
/// its highest serial number are kept.
///
/// # Errors
///
/// [`InstallError::NotInstalled`] when there is nothing to remove.
pub fn remove(
    plugins_dir: &Path,
    name: &PluginName,
    version: Option<&Version>,
) -> Result<(), InstallError> {
    let _lock = lock(plugins_dir)?;
    sweep(plugins_dir);
    let mut target = plugins_dir.join(name.as_str());
    let mut shown = name.to_string();
    if let Some(version) = version {
        target = target.join(version.to_string());
        shown = format!("{name} {version}");
    }
    if target.symlink_metadata().is_err() {
        return Err(InstallError::NotInstalled(shown));
    }
    // Out of sight in one step, then gone at leisure.
    let outgoing = private_dir(plugins_dir, OUTGOING)?;
    make_writable(&target);
    fs::rename(&target, outgoing.path().join("package"))
        .map_err(|error| io_error(&target, error))?;
    let parent = plugins_dir.join(name.as_str());
    // Only succeeds when that was the last version.
    let _ = fs::remove_dir(&parent);
    sync_dir(plugins_dir)?;
    make_writable(outgoing.path());
    outgoing
        .close()
        .map_err(|error| io_error(plugins_dir, error))
}

/// Every package in the store, sorted by name; not verified.
///
/// # Errors
///
/// [`InstallError::Io`] when the folder cannot be listed. One that does not
/// exist is empty.
pub fn installed(plugins_dir: &Path) -> Result<Vec<Installed>, InstallError> {
    let mut found = Vec::new();
    for (name, folder) in folders(plugins_dir)? {
        if PluginName::parse(&name).is_err() {
            continue;
        }
        for (version, path) in folders(&folder)? {
            found.push(Installed {
                name: name.clone(),
                version,
                path,
            });
        }
    }
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(found)
}

fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>, InstallError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(dir, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error(dir, error))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().into_string();
        if let Ok(name) = name
            && is_folder
            && !name.starts_with('.')
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

fn write_package(package: &Package, content: &Path) -> Result<(), InstallError> {
    create_dir(content)?;
    for file in package.files() {
        let path = file.path().as_str();
        write_file(content, path, file.open()?, file.mode().installed())?;
    }
    write_file(content, SIGNATURES, package.envelope(), 0o444)?;
    seal_folders(content).map_err(|error| io_error(content, error))
}

fn write_file(
    content: &Path,
    path: &str,
    mut bytes: impl Read,
    mode: u32,
) -> Result<(), InstallError> {
    let target = content.join(path);
    if let Some(parent) = target.parent() {
        create_dir(parent)?;
    }
    let mut write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&target)?;
        io::copy(&mut bytes, &mut file)?;
        // The mode given above passes through the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|error| match error.downcast::<VerifyError>() {
        Ok(changed) => changed.into(),
        Err(error) => io_error(&target, error),
    })
}

/// Makes every folder read-only and durable. The topmost one stays writable
/// by its owner: a folder that is not cannot be renamed into place.
fn seal_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            seal_folders(&entry.path())?;
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o555))?;
        }
    }
    File::open(folder)?.sync_all()
}

fn publish(content: &Path, target: &Path) -> Result<(), InstallError> {
    let parent = target.parent().unwrap_or(target);
    create_dir(parent)?;
    renameat_with(CWD, content, CWD, target, RenameFlags::NOREPLACE)
        .map_err(|error| io_error(target, error.into()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o555))
        .map_err(|error| io_error(target, error))?;
    sync_dir(parent)?;
    sync_dir(parent.parent().unwrap_or(parent))
}

/// A folder for unfinished work, for its owner alone whatever the umask is.
fn private_dir(plugins_dir: &Path, prefix: &str) -> Result<tempfile::TempDir, InstallError> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(plugins_dir)
        .map_err(|error| io_error(plugins_dir, error))
}

/// Removes what interrupted work left behind. The lock is held, so it is
/// nobody's work any more.
fn sweep(plugins_dir: &Path) {
    let Ok(entries) = fs::read_dir(plugins_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(INCOMING) || name.starts_with(OUTGOING) {
            make_writable(&entry.path());
            // Whatever cannot be removed now is tried again next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Gives the owner back the right to remove what is in a folder.
fn make_writable(folder: &Path) {
    let is_folder = folder
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir());
    if !is_folder {
        return;
    }
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}

fn lock(plugins_dir: &Path) -> Result<Lock, InstallError> {
    let path = plugins_dir.join(LOCK_FILE);
    Lock::acquire(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => InstallError::Busy(plugins_dir.display().to_string()),
        _ => io_error(&path, error),
    })
}

fn create_dir(dir: &Path) -> Result<(), InstallError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(dir).map_err(|error| io_error(dir, error))
}

fn sync_dir(dir: &Path) -> Result<(), InstallError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| io_error(dir, error))
}

fn io_error(path: &Path, source: io::Error) -> InstallError {
    let path = path.display().to_string();
    InstallError::Io { path, source }
}
