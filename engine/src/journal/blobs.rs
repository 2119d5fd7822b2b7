//! Large payloads as files named by their content.
//!
//! A file is complete and on disk before a row refers to it, and is removed
//! only by the writer, inside a transaction that sees no such row. So a row
//! never refers to a file that is not there, in this process or another.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{digest::Digest, error::JournalError, files::open_regular};

/// The files under one directory.
#[derive(Clone, Debug)]
pub(super) struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let store = Self {
            dir: dir.to_owned(),
        };
        make_dir(&store.dir)?;
        make_dir(&store.unfinished())?;
        Ok(store)
    }

    /// Stores `bytes`, unless they are there and intact. On disk when it
    /// returns.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        let folder = self.folder(digest);
        if !self.is_intact(digest, bytes) {
            if !folder.is_dir() {
                make_dir(&folder)?;
                sync_dir(&self.dir)?;
            }
            let (unfinished, mut file) = self.begin()?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished.0, &path)?;
        }
        // Also for a file that was there: whoever renamed it may not have
        // come to this yet.
        sync_dir(&folder)
    }

    /// Writes `len` bytes from `at` on into a file that is not kept: what SQLite
    /// says of a failed write leaves out what the system said.
    pub(super) fn try_write(&self, at: u64, len: usize) -> io::Result<()> {
        let (_unfinished, file) = self.begin()?;
        file.write_all_at(&vec![0; len], at)?;
        file.sync_all()
    }

    fn begin(&self) -> io::Result<(Unfinished, File)> {
        let name = format!("{:032x}", fastrand::u128(..));
        let unfinished = Unfinished(self.unfinished().join(name));
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished.0)?;
        Ok((unfinished, file))
    }

    /// Whether a file of this name and length is there.
    pub(super) fn has(&self, digest: &Digest, len: usize) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|found| found.len() == len as u64)
    }

    /// Reads what was stored, or says how it differs.
    pub(super) fn read(&self, digest: &Digest, len: u64) -> Result<Bytes, JournalError> {
        let damaged = |reason| JournalError::BlobDamaged {
            digest: *digest,
            reason,
        };
        let bytes = read(&self.path(digest)).map_err(|error| damaged(error.to_string()))?;
        if bytes.len() as u64 != len {
            return Err(damaged(format!("{} bytes instead of {len}", bytes.len())));
        }
        if Digest::of(&bytes) != *digest {
            return Err(damaged("its content does not fit its name".to_owned()));
        }
        Ok(bytes.into())
    }

    /// Removes a file. Only for the writer, which knows that nothing refers
    /// to it. A file that is not there is removed.
    pub(super) fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// At most `limit` files that have been there for longer than `age` and
    /// that `is_known` does not know.
    pub(super) fn strays(
        &self,
        age: Duration,
        limit: usize,
        mut is_known: impl FnMut(&Digest) -> Result<bool, JournalError>,
    ) -> Result<Vec<Digest>, JournalError> {
        let mut strays = Vec::new();
        for folder in list(&self.dir) {
            let Some(start) = folder.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            for file in list(&folder).filter(|file| is_older(file, age)) {
                let rest = file.file_name().and_then(|name| name.to_str());
                let Some(digest) = rest.and_then(|rest| format!("{start}{rest}").parse().ok())
                else {
                    continue;
                };
                if !is_known(&digest)? {
                    strays.push(digest);
                }
                if strays.len() >= limit {
                    return Ok(strays);
                }
            }
        }
        Ok(strays)
    }

    /// Removes what writers left behind that were stopped midway.
    pub(super) fn remove_unfinished(&self, age: Duration) {
        for file in list(&self.unfinished()).filter(|file| is_older(file, age)) {
            drop(Unfinished(file));
        }
    }

    fn is_intact(&self, digest: &Digest, bytes: &[u8]) -> bool {
        // Compared to what should be there; a damaged file is replaced.
        self.has(digest, bytes.len()) && read(&self.path(digest)).is_ok_and(|found| found == bytes)
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.dir.join(&digest.to_string()[..2])
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest).join(&digest.to_string()[2..])
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join("unfinished")
    }
}

/// A file that is removed unless it was renamed before.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already after a rename; what stays is found by the sweep.
        let _ = fs::remove_file(&self.0);
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(fs::OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a directory for its owner alone, unless it is there.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What is in a directory; nothing when it cannot be read.
pub(super) fn list(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn is_older(file: &Path, age: Duration) -> bool {
    let written = fs::metadata(file).and_then(|found| found.modified());
    written.is_ok_and(|at| {
        SystemTime::now()
            .duration_since(at)
            .is_ok_and(|passed| passed >= age)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&dir.path().join("blobs")).unwrap();
        (dir, store, Digest::of(b"large"))
    }

    #[test]
    fn what_was_stored_is_read_and_stored_once() {
        let (_dir, store, digest) = store();
        store.put(&digest, b"large").unwrap();
        store.put(&digest, b"large").unwrap();
        assert_eq!(store.read(&digest, 5).unwrap().as_ref(), b"large");
        assert!(store.has(&digest, 5));
        assert_eq!(list(&store.folder(&digest)).count(), 1);
        assert_eq!(list(&store.unfinished()).count(), 0);
    }

    #[test]
    fn damage_is_found_and_a_second_write_mends_it() {
        let (_dir, store, digest) = store();
        store.put(&digest, b"large").unwrap();
        for damage in [b"lArge".as_slice(), b"larg", b""] {
            fs::write(store.path(&digest), damage).unwrap();
            let found = store.read(&digest, 5);
            assert!(matches!(found, Err(JournalError::BlobDamaged { .. })));
        }
        store.put(&digest, b"large").unwrap();
        assert_eq!(store.read(&digest, 5).unwrap().as_ref(), b"large");
        store.remove(&digest).unwrap();
        assert!(matches!(
            store.read(&digest, 5),
            Err(JournalError::BlobDamaged { .. })
        ));
    }

    #[test]
    fn strays_are_files_nobody_knows_that_are_old_enough() {
        let (_dir, store, digest) = store();
        let known = Digest::of(b"known");
        store.put(&digest, b"large").unwrap();
        store.put(&known, b"known").unwrap();
        fs::write(store.unfinished().join("half"), b"lar").unwrap();
        let hour = Duration::from_secs(3_600);
        let strays = |age| store.strays(age, 10, |found| Ok(*found == known)).unwrap();
        assert_eq!(strays(hour), []);
        assert_eq!(strays(Duration::ZERO), [digest]);
        store.remove_unfinished(hour);
        assert_eq!(list(&store.unfinished()).count(), 1);
        store.remove_unfinished(Duration::ZERO);
        assert_eq!(list(&store.unfinished()).count(), 0);
    }
}
