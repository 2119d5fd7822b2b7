//! A private folder that a package is unpacked to.
//!
//! Whoever unpacks holds a lock on it. What a killed process left has no lock
//! any more, and whoever unpacks beside it next removes it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use orchestrator_manifest::PackagePath;
use rustix::{
    fs::{
        CWD, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, mkdirat, openat,
        renameat_with,
    },
    io::Errno,
};
use tempfile::TempDir;

use crate::{
    durable,
    package::{archive::ArchiveError, tree::beneath},
    statement::FileMode,
};

const PREFIX: &str = ".opkg-unpacking-";
const CONTENT: &str = "package";

/// The folder, its lock, and in it the folder of the package.
#[derive(Debug)]
pub(super) struct Staged {
    /// Goes away with this.
    _outer: TempDir,
    /// Held for as long as the folder is anybody's.
    _lock: File,
    content: OwnedFd,
    path: PathBuf,
}

impl Staged {
    /// Makes one in `dest`, which has to be there, after removing those that the
    /// dead left.
    pub(super) fn new(dest: &Path) -> Result<Self, ArchiveError> {
        sweep(dest).map_err(|error| write_error(dest, error))?;
        let (outer, lock) = locked(dest).map_err(|error| write_error(dest, error))?;
        let path = outer.path().join(CONTENT);
        let content = make_folder(&lock, CONTENT).map_err(|error| write_error(&path, error))?;
        Ok(Self {
            _outer: outer,
            _lock: lock,
            content,
            path,
        })
    }

    /// The folder of the package.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder whose parent is there already.
    pub(super) fn folder(&self, path: &str) -> Result<(), ArchiveError> {
        let (parent, name) = self.parent(path)?;
        let made = make_folder(&parent, name);
        made.map(drop).map_err(|error| self.error(path, error))
    }

    /// Makes an empty file whose folder is there already.
    pub(super) fn file(&self, path: &PackagePath, mode: FileMode) -> Result<File, ArchiveError> {
        let path = path.as_str();
        let (parent, name) = self.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = match mode {
            FileMode::Data => Mode::from_raw_mode(0o644),
            FileMode::Executable => Mode::from_raw_mode(0o755),
        };
        let file = openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| fchmod(&file, mode).map(|()| file));
        file.map(File::from)
            .map_err(|error| self.error(path, error))
    }

    /// Opens the folder of `path`; returns its name there. Every folder is
    /// opened beneath the package's own, through no link.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), ArchiveError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = beneath(&self.content, Path::new(folder), OFlags::DIRECTORY);
        let parent = parent.map_err(|error| self.error(path, error))?;
        Ok((parent, name))
    }

    pub(super) fn error(&self, path: &str, error: impl Into<io::Error>) -> ArchiveError {
        write_error(&self.path.join(path), error)
    }

    /// Gives the package's folder another name in the same file system, where
    /// nothing may be yet, once its bytes are on the disk.
    pub(super) fn keep(self, target: &Path) -> Result<(), ArchiveError> {
        make_durable(&self.content).map_err(|error| write_error(target, error))?;
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                let path = shown(target);
                return Err(ArchiveError::Exists { path });
            }
            Err(error) => return Err(write_error(target, error)),
        }
        let parent = target.parent().filter(|path| !path.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        // What is left of the private folder is empty, and swept by the next.
        synced.map_err(|error| write_error(parent, error))
    }
}

/// Writes everything to the disk at once: a package has up to 10,000 files.
#[cfg(target_os = "linux")]
fn make_durable(folder: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(folder)?)
}

#[cfg(not(target_os = "linux"))]
fn make_durable(_: &OwnedFd) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

fn make_folder(parent: impl std::os::fd::AsFd, name: &str) -> Result<OwnedFd, Errno> {
    mkdirat(&parent, name, Mode::RWXU)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = openat(&parent, name, flags, Mode::empty())?;
    // The mode given above passes through the umask.
    fchmod(&folder, Mode::from_raw_mode(0o755))?;
    Ok(folder)
}

/// A new folder for its owner alone, locked.
fn locked(dest: &Path) -> io::Result<(TempDir, File)> {
    loop {
        let outer = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(dest)?;
        let lock = open_folder(outer.path())?;
        // Until another process has swept the folder away, which it may do before the
        // lock tells it not to.
        durable::lock(&lock)?;
        let there = fs::symlink_metadata(outer.path());
        let ours = lock.metadata()?;
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok((outer, lock));
        }
    }
}

/// Removes what processes that were killed left in `dest`.
fn sweep(dest: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dest)? {
        let entry = entry?;
        let is_staged = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_staged || !entry.file_type()?.is_dir() {
            continue;
        }
        let Ok(lock) = open_folder(&entry.path()) else {
            continue;
        };
        // What belongs to others is not ours to remove, nor what is in use.
        let is_mine = lock.metadata()?.uid() == rustix::process::geteuid().as_raw();
        if is_mine && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Whatever cannot be removed now is tried again next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

pub(super) fn write_error(path: &Path, error: impl Into<io::Error>) -> ArchiveError {
    ArchiveError::Write {
        path: shown(path),
        source: error.into(),
    }
}
