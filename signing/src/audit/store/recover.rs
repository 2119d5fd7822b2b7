//! From a folder to a log that can be written: the newest checkpoint whose
//! hashes are there, and the records behind it.

use std::{fs::File, io, path::Path, sync::Arc};

use jiff::Timestamp;

use super::{Held, Segment, Store};
use crate::{
    audit::{
        error::AuditError,
        files::{self, Folder, Lines, offset_of},
        merkle::{self, Frontier, nodes_of},
        note::{self, Checkpoint, KEY_NAME, Signer},
        settings::{AuditSettings, CopyTo},
        tree::Tree,
    },
    durable,
    key::SecretKey,
    key_file::Protection,
};

impl Store {
    /// Opens a log, which is made where there is none.
    pub(in crate::audit) fn open(
        dir: &Path,
        settings: AuditSettings,
        copy: Option<CopyTo>,
    ) -> Result<Self, AuditError> {
        let folder = Folder::new(dir);
        let made = durable::create_dir(dir, 0o700);
        made.map_err(AuditError::io("make", dir))?;
        let path = folder.lock();
        let lock = files::open_or_create(&path).map_err(AuditError::io("open", &path))?;
        let lock = Arc::new(lock);
        let _held = Held::wait(&lock, &folder, settings.lock_wait)?;
        Self::open_held(folder, settings, copy, lock)
    }

    /// The same, where others are kept out already.
    pub(super) fn open_held(
        folder: Folder,
        settings: AuditSettings,
        copy: Option<CopyTo>,
        lock: Arc<File>,
    ) -> Result<Self, AuditError> {
        let signer = Signer::new(own_key(&folder)?);
        let tree = Tree::create(&folder.tree())?;
        let segment = first_segment(&folder, &tree)?;
        let mut store = Self {
            folder,
            settings,
            signer,
            lock,
            segment,
            is_synced: true,
            has_leftover: false,
            kept: None,
            tree,
            frontier: Frontier::default(),
            covered: 0,
            expected: None,
            copy,
            copy_fails: false,
            trouble: None,
        };
        store.recover()?;
        store.prune(Timestamp::now())?;
        Ok(store)
    }

    /// Finds out how the log stands, without looking at more of it than was
    /// added since the newest checkpoint.
    pub(super) fn recover(&mut self) -> Result<(), AuditError> {
        let segments = self.folder.segments()?;
        let oldest = segments.first().copied().unwrap_or_default();
        let (newest, start) = self.believable()?;
        if newest.is_none() {
            self.begin(&segments)?;
        }
        self.expected = newest;
        // Without a checkpoint to begin at, every record is looked at.
        let (frontier, covered) = match start {
            Some(frontier) => (frontier.clone(), frontier.size()),
            None => (self.edge(oldest)?, 0),
        };
        let size = frontier.size();
        let first = segments.iter().rev().find(|first| **first <= size);
        let Some(first) = first.copied() else {
            return Err(self.missing(size, oldest));
        };
        self.segment = self.segment_at(first, size)?;
        self.tree.go_on_at(nodes_of(size));
        (self.frontier, self.covered) = (frontier, covered);
        self.last_fits(first)?;
        self.catch_up()?;
        self.all_found()?;
        match self.folder.segments()?.last() {
            Some(last) if *last > self.segment.first => {
                Err(self.missing(self.frontier.size(), *last))
            }
            _ => Ok(()),
        }
    }

    /// Every log begins with a checkpoint over nothing, so that one without any is
    /// known to have lost them.
    fn begin(&self, segments: &[u64]) -> Result<(), AuditError> {
        let path = self.folder.segment(0);
        let metadata = self.segment.file.metadata();
        let metadata = metadata.map_err(AuditError::io("read", &path))?;
        let is_empty = segments == [0] && metadata.len() == 0 && self.tree.len()? == 0;
        match is_empty {
            true => self.sign().map(drop),
            false => Err(AuditError::Unsigned {
                path: self.folder.path().display().to_string(),
            }),
        }
    }

    /// The segment that begins with `first`, known up to record `size`.
    fn segment_at(&self, first: u64, size: u64) -> Result<Segment, AuditError> {
        let path = self.folder.segment(first);
        let open = || {
            let file = files::open(&path, true)?;
            let end = file.metadata()?.len();
            // Behind its last known record, whatever number stands there.
            let len = match size > first {
                true => {
                    let at = offset_of(&file, end, first, size - 1)?;
                    let mut lines = Lines::of(file.try_clone()?, at, end);
                    lines.next_line()?;
                    lines.ends
                }
                false => 0,
            };
            Ok(Segment { first, file, len })
        };
        open().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => AuditError::Damaged {
                path: path.display().to_string(),
                seq: size.saturating_sub(1),
                reason: error.to_string(),
            },
            _ => AuditError::io("open", &path)(error),
        })
    }

    /// The record in front of the place where the log goes on is the one that
    /// the checkpoint covers last.
    fn last_fits(&self, first: u64) -> Result<(), AuditError> {
        let size = self.frontier.size();
        if size == first {
            return Ok(());
        }
        let (path, len) = (self.folder.segment(first), self.segment.len);
        let read = || {
            let file = &self.segment.file;
            let at = offset_of(file, len, first, size - 1)?;
            let line = Lines::of(file.try_clone()?, at, len).next_line()?;
            Ok((line, merkle::leaf_of(&self.tree, size - 1)?))
        };
        let (line, known) = read().map_err(|error| AuditError::io("read", &path)(error))?;
        let place = match &self.expected {
            Some((_, place)) => place.clone(),
            None => self.folder.tree().display().to_string(),
        };
        match line {
            Some(line) if merkle::leaf(&line) == known => Ok(()),
            Some(_) => Err(AuditError::Rewritten { place, size }),
            None => Err(AuditError::Truncated {
                place,
                signed: size,
                found: self.whole_lines(len)?,
            }),
        }
    }

    /// The newest checkpoint, and the edge of the tree at the newest one whose
    /// hashes are there.
    #[expect(clippy::type_complexity, reason = "used once, on the next screen")]
    fn believable(&self) -> Result<(Option<(Checkpoint, String)>, Option<Frontier>), AuditError> {
        let key = self.signer.verifier();
        let mut newest = None;
        for first in self.folder.signed_segments()?.into_iter().rev() {
            let bytes = self.folder.read_checkpoints(first, files::NEWEST_BYTES)?;
            let place = self.folder.checkpoints(first).display().to_string();
            for note in note::notes(&bytes, key.name()).into_iter().rev() {
                let Ok(checkpoint) = key.open(note, &place) else {
                    continue;
                };
                let edge = Frontier::read(&self.tree, checkpoint.size);
                let is_there = edge.as_ref().is_ok_and(|it| it.root() == checkpoint.root);
                newest.get_or_insert((checkpoint, place.clone()));
                if let (true, Ok(edge)) = (is_there, edge) {
                    return Ok((newest, Some(edge)));
                }
            }
        }
        Ok((newest, None))
    }

    fn edge(&self, size: u64) -> Result<Frontier, AuditError> {
        Frontier::read(&self.tree, size).map_err(AuditError::io("read", &self.folder.tree()))
    }

    fn missing(&self, first: u64, next: u64) -> AuditError {
        AuditError::Missing {
            path: self.folder.path().display().to_string(),
            first,
            last: next.saturating_sub(1),
        }
    }

    /// Called with every record that is looked at: where the newest checkpoint
    /// was made, its root has to come out.
    pub(super) fn compare(&self) -> Result<(), AuditError> {
        let size = self.frontier.size();
        match &self.expected {
            Some((expected, place)) if expected.size == size => {
                match expected.root == self.frontier.root() {
                    true => Ok(()),
                    false => Err(AuditError::Rewritten {
                        place: place.clone(),
                        size,
                    }),
                }
            }
            _ => Ok(()),
        }
    }

    /// All records that the newest checkpoint speaks of are there.
    pub(super) fn all_found(&mut self) -> Result<(), AuditError> {
        match &self.expected {
            Some((expected, place)) if expected.size > self.frontier.size() => {
                Err(AuditError::Truncated {
                    place: place.clone(),
                    signed: expected.size,
                    found: self.frontier.size(),
                })
            }
            _ => {
                self.expected = None;
                Ok(())
            }
        }
    }
}

/// The key of this log. One is made for a log that begins; a log that has
/// records and no key is not taken over by another.
fn own_key(folder: &Folder) -> Result<SecretKey, AuditError> {
    let path = folder.key();
    if path.symlink_metadata().is_err() && folder.segments()?.is_empty() {
        durable::sweep(folder.path()).map_err(AuditError::io("read", folder.path()))?;
        SecretKey::generate(KEY_NAME)?.write_file(&path, &Protection::None)?;
    }
    let key = SecretKey::read_file(&path, || None)?;
    let path = folder.vkey();
    if path.symlink_metadata().is_err() {
        let verifier = note::VerifierKey::of(key.public().clone());
        let line = format!("{}\n", verifier.to_text());
        durable::create(&path, line.as_bytes(), 0o644).map_err(AuditError::io("write", &path))?;
    }
    Ok(key)
}

/// Any segment, so that there is one; the right one is found later.
fn first_segment(folder: &Folder, tree: &Tree) -> Result<Segment, AuditError> {
    let first = match folder.segments()?.as_slice() {
        [] if tree.len()? > 0 || !folder.signed_segments()?.is_empty() => {
            return Err(folder.without_segments());
        }
        [] => 0,
        [first, ..] => *first,
    };
    let path = folder.segment(first);
    let file = files::open_or_create(&path).map_err(AuditError::io("open", &path))?;
    folder.sync()?;
    Ok(Segment {
        first,
        file,
        len: 0,
    })
}
