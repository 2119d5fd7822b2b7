//! The hashes of the tree in one file, which only grows.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    error::AuditError,
    files,
    merkle::{Hash, Nodes},
};

const HASH_LEN: u64 = size_of::<Hash>() as u64;

/// The file of hashes. Each has its place, so that writing one twice, as two
/// processes may, changes nothing.
pub(super) struct Tree {
    path: PathBuf,
    file: File,
    /// The place of the first hash that waits.
    next: u64,
    /// Hashes that are not written yet; kept when writing fails.
    waiting: Vec<u8>,
}

impl Tree {
    pub(super) fn create(path: &Path) -> Result<Self, AuditError> {
        let file = files::open_or_create(path).map_err(AuditError::io("open", path))?;
        Ok(Self::of(path, file))
    }

    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let file = files::open(path, false).map_err(AuditError::io("open", path))?;
        Ok(Self::of(path, file))
    }

    fn of(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file,
            next: 0,
            waiting: Vec::new(),
        }
    }

    /// From here on hashes are added.
    pub(super) fn go_on_at(&mut self, place: u64) {
        self.next = place;
        self.waiting.clear();
    }

    pub(super) fn push(&mut self, hash: &Hash) {
        self.waiting.extend_from_slice(hash);
    }

    pub(super) fn flush(&mut self) -> Result<(), AuditError> {
        self.file
            .write_all_at(&self.waiting, self.next * HASH_LEN)
            .map_err(AuditError::io("write", &self.path))?;
        self.next += self.waiting.len() as u64 / HASH_LEN;
        self.waiting.clear();
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        self.flush()?;
        self.file
            .sync_data()
            .map_err(AuditError::io("write", &self.path))
    }

    /// How many hashes the file holds.
    pub(super) fn len(&self) -> Result<u64, AuditError> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(AuditError::io("read", &self.path))?;
        Ok(metadata.len() / HASH_LEN)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `many` hashes from a place on.
    pub(super) fn read(&self, place: u64, many: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; many * size_of::<Hash>()];
        self.file.read_exact_at(&mut bytes, place * HASH_LEN)?;
        Ok(bytes)
    }
}

impl Nodes for Tree {
    fn node(&self, place: u64) -> io::Result<Hash> {
        let mut hash = Hash::default();
        self.file.read_exact_at(&mut hash, place * HASH_LEN)?;
        Ok(hash)
    }
}
