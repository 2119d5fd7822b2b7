//! Reading a log beside those who write it, and proving a record.

use std::{io, path::Path};

use super::{
    error::AuditError,
    files::{self, Folder, Lines, offset_of},
    merkle,
    note::{self, Checkpoint, VerifierKey},
    proof::Proof,
    record::{AuditRecord, Head},
    tree::Tree,
};
use crate::durable::{self, Want};

/// Reads record after record, without keeping anybody from writing.
pub struct AuditReader {
    folder: Folder,
    first_kept: u64,
    segment: u64,
    lines: Lines,
    /// How long the segment was when it was last looked at.
    seen: u64,
    next: u64,
}

impl AuditReader {
    /// Begins with record `seq`, or with the first that is kept.
    ///
    /// # Errors
    ///
    /// [`AuditError::NothingYet`] when there is no log in `dir`, and others when it
    /// cannot be read.
    pub fn open(dir: &Path, seq: u64) -> Result<Self, AuditError> {
        let folder = Folder::new(dir);
        let segments = folder.segments()?;
        let Some(first_kept) = segments.first().copied() else {
            return Err(folder.without_segments());
        };
        let next = seq.max(first_kept);
        let segment = segments.iter().rev().find(|first| **first <= next);
        let segment = segment.copied().unwrap_or(first_kept);
        let (lines, seen) = lines(&folder, segment, next)?;
        Ok(Self {
            folder,
            first_kept,
            segment,
            lines,
            seen,
            next,
        })
    }

    /// The first record that is kept.
    pub fn first_kept(&self) -> u64 {
        self.first_kept
    }

    /// The number of the record that comes next.
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// The first record of the segment that is read.
    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// The bytes behind the last record that are no whole line yet, or never
    /// will be.
    pub fn unfinished(&self) -> u64 {
        self.lines.unfinished
    }

    /// The next record's line without its end. `None` at the end of the log,
    /// which may be asked again later.
    ///
    /// # Errors
    ///
    /// [`AuditError::Damaged`] for a line that is no record or has another
    /// number than the next.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, AuditError> {
        let path = self.folder.segment(self.segment);
        loop {
            let line = self.lines.next_line();
            if let Some(line) = line.map_err(AuditError::io("read", &path))? {
                let head = Head::parse(&line).and_then(|head| match head.seq == self.next {
                    true => Ok(()),
                    false => Err("another belongs here"),
                });
                head.map_err(|reason| self.damaged(reason))?;
                self.next += 1;
                return Ok(Some(line));
            }
            if !self.has_more()? {
                return Ok(None);
            }
        }
    }

    /// The next record.
    ///
    /// # Errors
    ///
    /// As [`Self::next_line`].
    pub fn next_record(&mut self) -> Result<Option<AuditRecord>, AuditError> {
        let Some(line) = self.next_line()? else {
            return Ok(None);
        };
        let record = AuditRecord::parse(&line);
        record
            .map(Some)
            .map_err(|_| self.damaged("it is no record"))
    }

    /// Whether the segment grew, or another follows.
    fn has_more(&mut self) -> Result<bool, AuditError> {
        let path = self.folder.segment(self.segment);
        let file = files::open(&path, false).map_err(AuditError::io("read", &path))?;
        let len = file
            .metadata()
            .map_err(AuditError::io("read", &path))?
            .len();
        if len > self.seen {
            self.lines = Lines::of(file, self.lines.ends, len);
            self.seen = len;
            return Ok(true);
        }
        let is_next = self.next > self.segment && self.folder.segment(self.next).exists();
        if !is_next {
            return Ok(false);
        }
        if self.lines.unfinished > 0 {
            return Err(self.damaged("it is not whole"));
        }
        self.segment = self.next;
        (self.lines, self.seen) = lines(&self.folder, self.segment, self.next)?;
        Ok(true)
    }

    fn damaged(&self, reason: &str) -> AuditError {
        AuditError::Damaged {
            path: self.folder.segment(self.segment).display().to_string(),
            seq: self.next,
            reason: reason.to_owned(),
        }
    }
}

fn lines(folder: &Folder, first: u64, seq: u64) -> Result<(Lines, u64), AuditError> {
    let path = folder.segment(first);
    let read = || {
        let file = files::open(&path, false)?;
        let len = file.metadata()?.len();
        let at = offset_of(&file, len, first, seq)?;
        Ok((Lines::of(file, at, len), len))
    };
    read().map_err(AuditError::io("read", &path))
}

/// The key that the log in `dir` says is its own, which proves nothing against
/// somebody who could replace the whole folder.
///
/// # Errors
///
/// When there is none.
pub fn verifier_key(dir: &Path) -> Result<VerifierKey, AuditError> {
    let folder = Folder::new(dir);
    let path = folder.vkey();
    let there = path.symlink_metadata();
    if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(match folder.segments()?.is_empty() {
            true => folder.without_segments(),
            false => AuditError::gone(&path),
        });
    }
    let want = Want {
        size_max: 4_096,
        is_private: false,
    };
    let bytes = durable::read(&path, want).map_err(|error| {
        let error = match error {
            durable::ReadError::Io(error) => error,
            other => io::Error::other(other.to_string()),
        };
        AuditError::io("read", &path)(error)
    })?;
    VerifierKey::parse(&String::from_utf8_lossy(&bytes))
}

/// The newest checkpoint of a log, as it was signed.
pub(super) fn newest_checkpoint(
    folder: &Folder,
    key: &VerifierKey,
) -> Result<Option<(Checkpoint, String)>, AuditError> {
    for first in folder.signed_segments()?.into_iter().rev() {
        let bytes = folder.read_checkpoints(first, files::NEWEST_BYTES)?;
        for note in note::notes(&bytes, key.name()).into_iter().rev() {
            if let Ok(checkpoint) = key.open(note, "the newest checkpoint") {
                return Ok(Some((
                    checkpoint,
                    String::from_utf8_lossy(note).into_owned(),
                )));
            }
        }
    }
    Ok(None)
}

/// Proves that record `seq` is in the log: its line, and the proof. What is
/// returned was checked.
///
/// # Errors
///
/// [`AuditError::NoSuchRecord`] also for a record that no checkpoint covers
/// yet, and [`AuditError::NotProved`] when the log does not fit its checkpoint.
pub fn prove(dir: &Path, key: &VerifierKey, seq: u64) -> Result<(Vec<u8>, Proof), AuditError> {
    let folder = Folder::new(dir);
    let newest = newest_checkpoint(&folder, key)?;
    let mut reader = AuditReader::open(dir, seq)?;
    let end = newest.as_ref().map_or(0, |(checkpoint, _)| checkpoint.size);
    let first = reader.first_kept();
    let no_such = AuditError::NoSuchRecord { seq, first, end };
    let Some((checkpoint, note)) = newest.filter(|_| (first..end).contains(&seq)) else {
        return Err(no_such);
    };
    let line = reader.next_line()?.ok_or(no_such)?;
    let tree = Tree::open(&folder.tree())?;
    let proof = Proof {
        seq,
        hashes: merkle::inclusion(&tree, seq, checkpoint.size)
            .map_err(AuditError::io("read", tree.path()))?,
        checkpoint: note,
    };
    proof.verify(&line, key)?;
    Ok((line, proof))
}
