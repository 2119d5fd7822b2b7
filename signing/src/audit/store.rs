//! The log on disk, as one of several processes that write to it sees it.
//!
//! Every change is made under one lock, and begins with reading what others
//! wrote since. Lines become durable first; hashes and checkpoints follow from
//! them and can be made again.

mod aside;
mod cover;
mod recover;

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

pub(super) use aside::set_aside;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::{
    error::AuditError,
    files::{self, Folder, Lines},
    merkle::{Frontier, Hash, leaf},
    note::{Checkpoint, Signer},
    record::{AuditEvent, Head, Kind, Outcome, write_line},
    settings::{AuditSettings, CopyTo},
    tree::Tree,
};
use crate::durable::lock_within;

/// The segment that is written to.
struct Segment {
    first: u64,
    file: File,
    /// Up to where its records are known.
    len: u64,
}

pub(super) struct Store {
    folder: Folder,
    settings: AuditSettings,
    signer: Signer,
    lock: Arc<File>,
    segment: Segment,
    /// Whether all that is known of the segment is on disk.
    is_synced: bool,
    /// Whether lines stand behind the segment's records that could not be cut
    /// off when writing them failed.
    has_leftover: bool,
    /// Kept from others as long as there is such a leftover: they would take it
    /// for records.
    kept: Option<Held>,
    tree: Tree,
    frontier: Frontier,
    /// How many records the newest checkpoint covers that is known.
    covered: u64,
    /// What has to be found again in the records when the log is opened.
    expected: Option<(Checkpoint, String)>,
    copy: Option<CopyTo>,
    copy_fails: bool,
    /// What went wrong after the records were durable.
    trouble: Option<AuditError>,
}

/// Keeps other writers out until it is dropped.
struct Held(Arc<File>);

impl Held {
    fn wait(lock: &Arc<File>, folder: &Folder, most: Duration) -> Result<Self, AuditError> {
        lock_within(most, lock).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                let path = folder.path().display().to_string();
                AuditError::Busy { path }
            }
            _ => AuditError::io("lock", &folder.lock())(error),
        })?;
        Ok(Self(Arc::clone(lock)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing the file would unlock it too.
        flock(&self.0, FlockOperation::Unlock).ok();
    }
}

impl Store {
    pub(super) fn signer(&self) -> &Signer {
        &self.signer
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(super) fn take_trouble(&mut self) -> Option<AuditError> {
        self.trouble.take()
    }

    /// Whether there are records that no checkpoint covers.
    pub(super) fn is_uncovered(&self) -> bool {
        self.frontier.size() > self.covered
    }

    /// Makes records durable that want only their numbers. Returns the number
    /// of the first.
    pub(super) fn append(&mut self, tails: &[Vec<u8>]) -> Result<u64, AuditError> {
        self.alone(|this| {
            let first = this.write(tails)?;
            if let Err(error) = this.after_write() {
                this.trouble = Some(error);
            }
            Ok(first)
        })
    }

    /// Signs how the log stands now.
    pub(super) fn checkpoint(&mut self) -> Result<(), AuditError> {
        self.alone(Self::cover)
    }

    /// Whether a write is still to be taken back.
    pub(super) fn has_leftover(&self) -> bool {
        self.has_leftover
    }

    /// Does something while no other process writes, with all known that others
    /// wrote before.
    fn alone<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, AuditError>,
    ) -> Result<T, AuditError> {
        let held = match self.kept.take() {
            Some(held) => held,
            None => self.hold_present()?,
        };
        let result = self
            .take_back()
            .and_then(|()| self.catch_up())
            .and_then(|()| act(self));
        if self.has_leftover {
            self.kept = Some(held);
        }
        result
    }

    /// Cuts off what a failed write left.
    fn take_back(&mut self) -> Result<(), AuditError> {
        if self.has_leftover {
            let cut = self.cut();
            cut.map_err(|error| self.not_recorded(&error))?;
            self.has_leftover = false;
        }
        Ok(())
    }

    /// Ends the segment behind the last record, also after a power cut.
    fn cut(&self) -> io::Result<()> {
        let file = &self.segment.file;
        file.set_len(self.segment.len)
            .and_then(|()| file.sync_data())
    }

    fn not_recorded(&self, error: &io::Error) -> AuditError {
        AuditError::NotRecorded {
            path: self.folder.path().display().to_string(),
            reason: error.to_string(),
        }
    }

    fn hold(&self) -> Result<Held, AuditError> {
        Held::wait(&self.lock, &self.folder, self.settings.lock_wait)
    }

    fn after_write(&mut self) -> Result<(), AuditError> {
        let due = self.settings.checkpoint_records;
        if self.frontier.size() - self.covered >= due {
            self.cover()?;
        }
        if self.segment.len >= self.settings.segment_bytes {
            self.rotate()?;
        }
        Ok(())
    }

    /// Reads what others wrote, and mends what one of them left unfinished.
    fn catch_up(&mut self) -> Result<(), AuditError> {
        loop {
            let path = self.folder.segment(self.segment.first);
            let metadata = self.segment.file.metadata();
            let metadata = metadata.map_err(AuditError::io("read", &path))?;
            if std::os::unix::fs::MetadataExt::nlink(&metadata) == 0 {
                // Removed as old by another process; what follows is elsewhere.
                return self.recover();
            }
            let len = metadata.len();
            if len < self.segment.len {
                return Err(AuditError::Truncated {
                    place: "this process".to_owned(),
                    signed: self.frontier.size(),
                    found: self.whole_lines(len)?,
                });
            }
            if len > self.segment.len {
                self.take_in(len)?;
            }
            if !self.go_to_next()? {
                return self.tree.flush();
            }
        }
    }

    /// How many records there are up to `len`.
    pub(super) fn whole_lines(&self, len: u64) -> Result<u64, AuditError> {
        let path = self.folder.segment(self.segment.first);
        let io = |error| AuditError::io("read", &path)(error);
        let file = self.segment.file.try_clone().map_err(io)?;
        let mut lines = Lines::of(file, 0, len);
        let mut found = self.segment.first;
        while lines.next_line().map_err(io)?.is_some() {
            found += 1;
        }
        Ok(found)
    }

    /// Adds the lines between what is known and `len` to the tree.
    fn take_in(&mut self, len: u64) -> Result<(), AuditError> {
        let path = self.folder.segment(self.segment.first);
        let io = |error| AuditError::io("read", &path)(error);
        let file = self.segment.file.try_clone().map_err(io)?;
        let mut lines = Lines::of(file, self.segment.len, len);
        while let Some(line) = lines.next_line().map_err(io)? {
            let is_next = |head: Head<'_>| match head.seq == self.frontier.size() {
                true => Ok(()),
                false => Err("another belongs here"),
            };
            if let Err(reason) = Head::parse(&line).and_then(is_next) {
                return self.mend(len, reason);
            }
            self.grow(leaf(&line));
            self.segment.len = lines.ends;
            // Whoever wrote it may have died before it was on disk.
            self.is_synced = false;
            self.compare()?;
        }
        match lines.unfinished {
            0 => Ok(()),
            _ => self.mend(len, "it is not whole"),
        }
    }

    fn grow(&mut self, leaf: Hash) {
        let tree = &mut self.tree;
        self.frontier.push(leaf, |hash| tree.push(hash));
    }

    /// Cuts off what a crash left behind the last record, and records that. A whole
    /// line was left by no crash, and stays as it is.
    fn mend(&mut self, len: u64, reason: &str) -> Result<(), AuditError> {
        let (from, seq) = (self.segment.len, self.frontier.size());
        let path = self.folder.segment(self.segment.first);
        let file = self.segment.file.try_clone();
        let line = file.and_then(|file| Lines::of(file, from, len).next_line());
        if line.map_err(AuditError::io("read", &path))?.is_some() {
            return Err(AuditError::Damaged {
                path: path.display().to_string(),
                seq,
                reason: reason.to_owned(),
            });
        }
        self.all_found()?;
        let cut = self.segment.file.set_len(from);
        cut.map_err(AuditError::io("mend", &path))?;
        let event = AuditEvent::new(Kind::Repaired, Outcome::Ok)
            .detail(format!(
                "cut off the {} bytes behind record {seq}",
                len - from
            ))
            .with("bytes", (len - from).to_string());
        self.write_own(&event).map(drop)
    }

    /// The next segment, where another process began one.
    fn go_to_next(&mut self) -> Result<bool, AuditError> {
        let first = self.frontier.size();
        if first == self.segment.first {
            return Ok(false);
        }
        let path = self.folder.segment(first);
        match files::open(&path, true) {
            Ok(file) => {
                self.sync()?;
                self.segment = Segment {
                    first,
                    file,
                    len: 0,
                };
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(AuditError::io("open", &path)(error)),
        }
    }

    /// Makes durable what others wrote.
    fn sync(&mut self) -> Result<(), AuditError> {
        if !self.is_synced {
            let path = self.folder.segment(self.segment.first);
            let synced = self.segment.file.sync_data();
            synced.map_err(AuditError::io("write", &path))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// A record of the log about itself.
    fn write_own(&mut self, event: &AuditEvent) -> Result<u64, AuditError> {
        self.write(&[event.to_tail(Timestamp::now())])
    }

    /// All of the records become durable, or none, and then it can be tried again.
    /// [`AuditError::Uncertain`] where the disk allows neither.
    fn write(&mut self, tails: &[Vec<u8>]) -> Result<u64, AuditError> {
        let first = self.frontier.size();
        let mut bytes = Vec::with_capacity(tails.iter().map(|tail| tail.len() + 32).sum());
        let mut leaves = Vec::with_capacity(tails.len());
        for (seq, tail) in (first..).zip(tails) {
            let start = bytes.len();
            write_line(seq, tail, &mut bytes);
            leaves.push(leaf(&bytes[start..bytes.len() - 1]));
        }
        let (file, at) = (&self.segment.file, self.segment.len);
        let written = file
            .write_all_at(&bytes, at)
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            if self.cut().is_err() {
                self.has_leftover = true;
                return Err(AuditError::Uncertain {
                    path: self.folder.path().display().to_string(),
                    reason: error.to_string(),
                });
            }
            return Err(self.not_recorded(&error));
        }
        self.is_synced = true;
        self.segment.len += bytes.len() as u64;
        for leaf in leaves {
            self.grow(leaf);
        }
        if let Err(error) = self.tree.flush() {
            // The hashes wait in memory; the records are safe.
            self.trouble = Some(error);
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;
    use crate::audit::{AuditReader, verify};

    fn tail(text: &str) -> Vec<u8> {
        AuditEvent::new(Kind::Denial, Outcome::Denied)
            .detail(text)
            .to_tail(Timestamp::now())
    }

    fn details(store: &Store) -> Vec<String> {
        let mut reader = AuditReader::open(store.path(), 0).unwrap();
        std::iter::from_fn(|| reader.next_record().unwrap())
            .map(|record| record.event.detail.unwrap())
            .collect()
    }

    /// A file with the contents of `real` that takes a page and a half more, and
    /// cannot be made shorter: a group is written in part and stays.
    fn stuck(real: &File) -> File {
        let len = real.metadata().unwrap().len();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        real.read_exact_at(&mut bytes, 0).unwrap();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("segment", flags).unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(8_192).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK).unwrap();
        file
    }

    /// Whole lines that a failed write leaves are no records: neither this
    /// process nor another takes them for some, and a second try writes them once.
    #[test]
    fn what_was_told_to_be_refused_is_in_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let settings = AuditSettings {
            lock_wait: Duration::from_millis(20),
            ..AuditSettings::new(|_| false)
        };
        let mut store = Store::open(dir.path(), settings, None).unwrap();
        let mut other = Store::open(dir.path(), settings, None).unwrap();
        store.append(&[tail("before")]).unwrap();
        let mut real = stuck(&store.segment.file);
        let many: Vec<_> = (0..200).map(|number| tail(&number.to_string())).collect();
        let refused = store.alone(|store| {
            std::mem::swap(&mut real, &mut store.segment.file);
            store.write(&many)
        });
        // As a disk does it that takes a write, and then neither more nor less.
        let mut left = vec![0; 8_192];
        store.segment.file.read_exact_at(&mut left, 0).unwrap();
        real.write_all_at(&left, 0).unwrap();
        let lines = left.split(|byte| *byte == b'\n').count();
        assert!(lines > 40, "{lines}");
        assert!(
            matches!(refused, Err(AuditError::Uncertain { .. })),
            "{refused:?}"
        );

        // Until it is taken back nobody writes.
        let again = store.append(&[tail("meanwhile")]);
        assert!(
            matches!(again, Err(AuditError::NotRecorded { .. })),
            "{again:?}"
        );
        let busy = other.append(&[tail("other")]);
        assert!(matches!(busy, Err(AuditError::Busy { .. })), "{busy:?}");
        store.segment.file = real;
        assert_eq!(store.append(&[tail("after")]).unwrap(), 1);
        assert_eq!(other.append(&[tail("other")]).unwrap(), 2);
        assert_eq!(details(&store), ["before", "after", "other"]);
        store.checkpoint().unwrap();
        verify(dir.path(), store.signer().verifier(), None).unwrap();
    }
}
