//! The contents of the store: read-only folders named after the digest of
//! their files, written whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with};

use super::{
    error::{InstallError, io_error},
    pointer::{STORE, content_name, stored},
    receipt, signatures,
};
use crate::{
    digest::Digest,
    package::{Package, SIGNATURES, verify},
    statement::FileMode,
    trust::TrustRoot,
    verified::Verified,
};

/// What unfinished work is called.
const INCOMING: &str = ".incoming-";
const OUTGOING: &str = ".outgoing-";

/// The digest of every signed file of a package: one line for each, sorted by
/// path, with mode, size, SHA-256 and path. It follows from the signed statement
/// alone, and packages that differ in their signatures alone have the same.
pub fn tree_digest(package: &Package) -> Digest {
    let lines = package.files().map(|file| {
        let mode = match file.mode() {
            FileMode::Data => "0644",
            FileMode::Executable => "0755",
        };
        let (size, digest, path) = (file.size(), file.digest(), file.path());
        format!("{mode} {size} {digest}  {path}\n")
    });
    Digest::of(lines.collect::<String>().as_bytes())
}

/// Where the content with this digest lies, whether it is there or not.
pub(super) fn path_of(plugins_dir: &Path, tree: Digest) -> PathBuf {
    plugins_dir.join(STORE).join(content_name(tree))
}

/// Puts the verified bytes of a package into the store; returns what was read
/// back from there, which passed the same checks as what will load.
pub(super) fn put(
    package: &Verified<Package>,
    plugins_dir: &Path,
    root: &TrustRoot,
) -> Result<Verified<Package>, InstallError> {
    let target = path_of(plugins_dir, tree_digest(package));
    if let Some(present) = left_there(plugins_dir, &target, package, root)? {
        return Ok(present);
    }
    create_dir(&plugins_dir.join(STORE))?;
    let staged = private_dir(plugins_dir, INCOMING)?;
    let content = staged.path().join("package");
    write_package(package, &content)?;
    let verified = verify(&content, root)?;
    renameat_with(CWD, &content, CWD, &target, RenameFlags::NOREPLACE)
        .map_err(|error| io_error(&target, error))?;
    seal(&target)?;
    sync_dir(&plugins_dir.join(STORE))?;
    Ok(verified)
}

/// What an installation left that did not come to its end, or a removal while it was
/// loaded. No version refers to it, so what is damaged can go, unless somebody has
/// loaded it.
fn left_there(
    plugins_dir: &Path,
    target: &Path,
    package: &Verified<Package>,
    root: &TrustRoot,
) -> Result<Option<Verified<Package>>, InstallError> {
    if target.symlink_metadata().is_err() {
        return Ok(None);
    }
    signatures::add(plugins_dir, target, package, root)?;
    if let Some(present) = same_release(target, package, root) {
        seal(target)?;
        return Ok(Some(present));
    }
    if !is_in_use(target) {
        discard(plugins_dir, target)?;
        return Ok(None);
    }
    // The same files, signed as another release: they need not be put there again.
    signatures::put(plugins_dir, target, package.envelope())?;
    match same_release(target, package, root) {
        Some(present) => Ok(Some(present)),
        None => Err(InstallError::InUse {
            plugin: package.manifest().id.to_string(),
            version: package.manifest().version.to_string(),
        }),
    }
}

fn same_release(
    target: &Path,
    package: &Verified<Package>,
    root: &TrustRoot,
) -> Option<Verified<Package>> {
    let present = verify(target, root).ok()?;
    (present.statement_digest() == package.statement_digest()).then_some(present)
}

/// Removes something: out of sight in one step, then gone at leisure.
pub(super) fn discard(plugins_dir: &Path, target: &Path) -> Result<(), InstallError> {
    let outgoing = private_dir(plugins_dir, OUTGOING)?;
    make_writable(target);
    fs::rename(target, outgoing.path().join("package")).map_err(|error| io_error(target, error))?;
    sync_dir(target.parent().unwrap_or(plugins_dir))?;
    make_writable(outgoing.path());
    outgoing
        .close()
        .map_err(|error| io_error(plugins_dir, error))
}

/// Removes a content that nothing refers to, with its receipt. Does nothing and
/// says false while a process has it loaded.
pub(super) fn discard_content(plugins_dir: &Path, tree: Digest) -> Result<bool, InstallError> {
    let target = path_of(plugins_dir, tree);
    if is_in_use(&target) {
        return Ok(false);
    }
    receipt::remove(plugins_dir, tree)?;
    if target.symlink_metadata().is_ok() {
        discard(plugins_dir, &target)?;
    }
    Ok(true)
}

/// Whether some process has loaded the package: it holds a shared lock on the
/// folder for as long, see [`mark_in_use`].
pub(super) fn is_in_use(content: &Path) -> bool {
    open_folder(content)
        .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Marks a folder as in use until its descriptor is closed. Fails silently:
/// whoever is removing it right now has removed its name before.
pub(crate) fn mark_in_use(folder: &impl AsFd) {
    let _ = flock(folder, FlockOperation::NonBlockingLockShared);
}

/// Keeps an installed version from being collected until it is dropped. Costs a
/// descriptor.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "closing the descriptor unlocks")] OwnedFd);

impl InUse {
    /// For the version that the store knows as `link`. `None` for everything
    /// that is no link of the store, and for what cannot be opened.
    pub fn of(link: &Path) -> Option<Self> {
        let folder = open_folder(&stored(link)?).ok()?;
        mark_in_use(&folder);
        Some(Self(folder))
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
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

pub(super) fn write_file(
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
    write().map_err(|error| match error.downcast() {
        Ok(changed) => InstallError::Verify(changed),
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

pub(super) fn seal(folder: &Path) -> Result<(), InstallError> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555))
        .map_err(|error| io_error(folder, error))
}

/// Gives the owner back the right to rename a folder to another place.
pub(super) fn make_movable(folder: &Path) -> Result<(), InstallError> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .map_err(|error| io_error(folder, error))
}

/// A folder for unfinished work, for its owner alone whatever the umask is.
pub(super) fn incoming(plugins_dir: &Path) -> Result<tempfile::TempDir, InstallError> {
    private_dir(plugins_dir, INCOMING)
}

fn private_dir(plugins_dir: &Path, prefix: &str) -> Result<tempfile::TempDir, InstallError> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(plugins_dir)
        .map_err(|error| io_error(plugins_dir, error))
}

/// Removes what interrupted work left behind. The lock is held, so it is
/// nobody's work any more.
pub(super) fn sweep(plugins_dir: &Path) {
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
pub(super) fn make_writable(folder: &Path) {
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

pub(super) fn create_dir(dir: &Path) -> Result<(), InstallError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(dir).map_err(|error| io_error(dir, error))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), InstallError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| io_error(dir, error))
}
