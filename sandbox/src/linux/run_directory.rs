//! Directories that live no longer than the host.

use std::{
    collections::hash_map::RandomState,
    ffi::CStr,
    fs::DirBuilder,
    hash::{BuildHasher, Hasher},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat,
        statat, unlinkat,
    },
    io::Errno,
    process::{geteuid, getpid},
};

use super::watcher::Watcher;
use crate::TreeError;

/// Hosts are told apart from whatever else lies in a run directory by this.
const PREFIX: &str = "host-";
/// How often a name is tried when another host sweeps or claims the same one.
const CLAIM_TRIES: usize = 16;
/// A tree that is deeper is left to the watcher.
const MAX_DEPTH: usize = 128;
/// How often a directory is emptied that a dying plugin still writes to.
const REMOVE_TRIES: usize = 4;

/// This host's own directory inside the run directory, for everything that needs a
/// path while the host lives. Cheap to clone; removed when the last clone and the
/// last directory in it are dropped, and also when the host is killed: a small
/// watcher process, started with the first directory, waits for that.
#[derive(Clone, Debug)]
pub struct RunDirectory(Arc<Claim>);

struct Claim {
    parent: OwnedFd,
    name: String,
    path: PathBuf,
    /// Its lock tells other hosts that this one lives.
    descriptor: OwnedFd,
    watcher: Mutex<Option<Watcher>>,
    next: AtomicU64,
}

impl RunDirectory {
    /// Claims a directory inside `parent`, which is made, with mode 0700, when it
    /// is missing. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// When `parent` belongs to somebody else, or others may write to it.
    pub fn claim(parent: &Path) -> Result<Self, TreeError> {
        let (parent_path, parent) = open_parent(parent)?;
        for _ in 0..CLAIM_TRIES {
            let random = RandomState::new().build_hasher().finish();
            let name = format!(
                "{PREFIX}{}-{:08x}",
                getpid().as_raw_nonzero(),
                random as u32
            );
            let path = parent_path.join(&name);
            let failed = failed("make", &path);
            match mkdirat(&parent, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made.map_err(&failed)?,
            }
            if let Some(descriptor) = lock(&parent, &name).map_err(&failed)? {
                return Ok(Self(Arc::new(Claim {
                    parent,
                    name,
                    path,
                    descriptor,
                    watcher: Mutex::new(None),
                    next: AtomicU64::new(0),
                })));
            }
        }
        let source = io::Error::from(Errno::AGAIN);
        Err(TreeError::Io {
            action: "claim a place in",
            path: parent_path,
            source,
        })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a directory, mode 0700, that is removed with all its content on drop.
    /// Blocks on the file system, and the first time until the watcher runs.
    ///
    /// # Errors
    ///
    /// When the file system refuses or the watcher does not start.
    pub fn private_directory(&self) -> Result<PrivateDirectory, TreeError> {
        self.watch()?;
        let name = self.0.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.0.path.join(&name);
        let failed = failed("make", &path);
        mkdirat(&self.0.descriptor, &name, Mode::RWXU).map_err(&failed)?;
        let run = self.clone();
        Ok(PrivateDirectory { path, name, run })
    }

    /// Starts the watcher unless it runs.
    fn watch(&self) -> Result<(), TreeError> {
        let mut watcher = self
            .0
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if watcher.is_none() {
            let started = Watcher::start(&self.0.path);
            *watcher = Some(started.map_err(|source| TreeError::Watcher { source })?);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(out)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What cannot be removed here, the watcher tries again.
        let _ = remove(&self.parent, &self.name);
    }
}

/// A directory of this host, mode 0700, removed with all its content on drop
/// (which blocks on the file system).
#[derive(Debug)]
pub struct PrivateDirectory {
    path: PathBuf,
    name: String,
    run: RunDirectory,
}

impl PrivateDirectory {
    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What cannot be removed here goes with the directory of the host.
        let _ = remove(&self.run.0.descriptor, &self.name);
    }
}

/// Removes what dead hosts left in the run directory `parent`, and returns how many
/// they were. Directories of living hosts are not touched. Blocks on the file system.
///
/// # Errors
///
/// When `parent` is not safe to use, or cannot be read. A directory that cannot be
/// removed is left for the next time.
pub fn sweep(parent: &Path) -> Result<usize, TreeError> {
    let (path, parent) = open_parent(parent)?;
    let entries = Dir::read_from(&parent).map_err(failed("read", &path))?;
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(failed("read", &path))?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if !name.starts_with(PREFIX) {
            continue;
        }
        // Held while removing, so that no host takes the directory for its own.
        if let Ok(Some(_locked)) = lock(&parent, name)
            && remove(&parent, name).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Opens `parent`, and refuses one that somebody else could put links into.
fn open_parent(parent: &Path) -> Result<(PathBuf, OwnedFd), TreeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
    let path = made
        .and_then(|()| parent.canonicalize())
        .map_err(|source| TreeError::Io {
            action: "make",
            path: parent.to_owned(),
            source,
        })?;
    let descriptor = open_directory(CWD, &path).map_err(failed("open", &path))?;
    let state = fstat(&descriptor).map_err(failed("inspect", &path))?;
    let refused = |reason| TreeError::UnsafeRunDirectory {
        path: path.clone(),
        reason,
    };
    if state.st_uid != geteuid().as_raw() {
        return Err(refused("belongs to another user"));
    }
    if Mode::from_raw_mode(state.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(refused("can be written by other users"));
    }
    Ok((path, descriptor))
}

/// Locks the directory `name`. `None` when another host holds the lock, or removed
/// the directory before it was locked.
fn lock(parent: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let directory = match open_directory(parent, name) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let ours = fstat(&directory)?;
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Ok(named) if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino) => Ok(None),
        named => named.map(|_| Some(directory)),
    }
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes the directory `name` with everything in it, following no link.
fn remove(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    remove_directory(parent, &name, MAX_DEPTH)
}

fn remove_directory(parent: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let directory = match open_directory(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // Read-only directories are part of every tree.
    fchmod(&directory, Mode::RWXU)?;
    for _ in 0..REMOVE_TRIES {
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match unlinkat(&directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => remove_directory(&directory, name, depth - 1)?,
                Err(errno) => return Err(errno),
            }
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Something was added meanwhile.
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::NOTEMPTY)
}

fn failed(action: &'static str, path: &Path) -> impl Fn(Errno) -> TreeError + use<> {
    let path = path.to_owned();
    move |errno| TreeError::Io {
        action,
        path: path.clone(),
        source: errno.into(),
    }
}
