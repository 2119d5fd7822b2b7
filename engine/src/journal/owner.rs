//! Who is alive.
//!
//! An open journal holds a lock on a file named by its id for as long as its
//! process lives. The kernel lets go of the lock when the process ends,
//! however it ends, so that a free lock means a dead owner.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    blobs::{list, make_dir},
    files::open_regular,
    record::OwnerId,
};

/// The directory of the lock files.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    dir: PathBuf,
}

/// A lock that shows that this owner is alive. Clones share it; the last one
/// to be dropped lets go of it.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    id: OwnerId,
    _lock: Arc<Lock>,
}

#[derive(Debug)]
struct Lock {
    _file: File,
    path: PathBuf,
}

impl Owner {
    pub(super) const fn id(&self) -> OwnerId {
        self.id
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays behind reads as a dead owner all the same.
        let _ = fs::remove_file(&self.path);
    }
}

impl Owners {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        make_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Becomes an owner.
    pub(super) fn join(&self, id: OwnerId) -> io::Result<Owner> {
        // Locked under another name first: nobody may find the file unlocked.
        let hidden = self.dir.join(format!("{id}.new"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&hidden)?;
        file.try_lock().map_err(io::Error::from)?;
        let path = self.path(id);
        fs::rename(&hidden, &path)?;
        let lock = Lock { _file: file, path };
        Ok(Owner {
            id,
            _lock: Arc::new(lock),
        })
    }

    /// Whether the owner is alive. In doubt it is.
    pub(super) fn is_alive(&self, id: OwnerId) -> bool {
        match open_regular(OpenOptions::new().read(true), &self.path(id)) {
            // Shared, so that two who ask at once do not see each other.
            Ok(file) => !matches!(file.try_lock_shared(), Ok(())),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Removes the files of the dead, also of those that died while they joined.
    /// Not while somebody else joins.
    pub(super) fn bury(&self) {
        let is_of_owner = |path: &PathBuf| {
            path.extension()
                .is_some_and(|end| end == "lock" || end == "new")
        };
        for path in list(&self.dir).filter(is_of_owner) {
            let file = open_regular(OpenOptions::new().read(true), &path);
            let is_free = file.is_ok_and(|file| {
                !matches!(
                    file.try_lock_shared(),
                    Err(TryLockError::WouldBlock | TryLockError::Error(_))
                )
            });
            if is_free {
                // An id is never used again, so nobody waits for this name.
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn path(&self, id: OwnerId) -> PathBuf {
        self.dir.join(format!("{id}.lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_alive_until_its_last_clone_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::open(dir.path()).unwrap();
        let id = OwnerId::random(1);
        assert!(!owners.is_alive(id));
        let owner = owners.join(id).unwrap();
        let clone = owner.clone();
        assert!(owners.is_alive(id));
        drop(owner);
        owners.bury();
        assert!(owners.is_alive(clone.id()));
        drop(clone);
        assert!(!owners.is_alive(id));
    }

    #[test]
    fn the_file_of_a_dead_owner_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let owners = Owners::open(dir.path()).unwrap();
        let id = OwnerId::random(1);
        let joining = owners.dir.join(format!("{id}.new"));
        fs::write(owners.path(id), b"").unwrap();
        fs::write(&joining, b"").unwrap();
        assert!(!owners.is_alive(id));
        owners.bury();
        assert!(!owners.path(id).exists());
        assert!(!joining.exists());
    }
}
