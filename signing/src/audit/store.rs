//! The log on disk, as one of several processes that write to it sees it.
//!
//! Every change is made under one lock, and begins with reading what others
//! wrote since. Lines become durable first; hashes and checkpoints follow from
//! them and can be made again.

mod cover;
mod recover;

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    error::AuditError,
    files::{self, Folder, Lines},
    merkle::{Frontier, Hash, leaf},
    note::{Checkpoint, Signer},
    record::{AuditEvent, Head, Kind, Outcome, write_line},
    settings::{AuditSettings, CopyTo},
    tree::Tree,
};

/// How often a lock that is taken is tried again.
const LOCK_POLL: Duration = Duration::from_millis(2);

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
        let mut waited = Duration::ZERO;
        loop {
            match flock(lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(Arc::clone(lock))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if waited < most => {
                    std::thread::park_timeout(LOCK_POLL);
                    waited += LOCK_POLL;
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let path = folder.path().display().to_string();
                    return Err(AuditError::Busy { path });
                }
                Err(error) => return Err(AuditError::io("lock", &folder.lock())(error.into())),
            }
        }
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
        let _held = self.hold()?;
        self.catch_up()?;
        let first = self.write(tails)?;
        if let Err(error) = self.after_write() {
            self.trouble = Some(error);
        }
        Ok(first)
    }

    /// Signs how the log stands now.
    pub(super) fn checkpoint(&mut self) -> Result<(), AuditError> {
        let _held = self.hold()?;
        self.catch_up()?;
        self.cover()
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

    /// Cuts off what a crash left behind the last record, and records that.
    /// What has records behind it was no crash, and stays as it is.
    fn mend(&mut self, len: u64, reason: &str) -> Result<(), AuditError> {
        let (from, seq) = (self.segment.len, self.frontier.size());
        let path = self.folder.segment(self.segment.first);
        let io = |action| move |error| (action, error);
        let damaged =
            |(action, error): (&'static str, io::Error)| AuditError::io(action, &path)(error);
        let file = self
            .segment
            .file
            .try_clone()
            .map_err(io("read"))
            .map_err(damaged)?;
        let mut lines = Lines::of(file, from, len);
        while let Some(line) = lines.next_line().map_err(io("read")).map_err(damaged)? {
            if Head::parse(&line).is_ok_and(|head| head.seq >= seq) {
                return Err(AuditError::Damaged {
                    path: path.display().to_string(),
                    seq,
                    reason: reason.to_owned(),
                });
            }
        }
        self.all_found()?;
        let cut = self.segment.file.set_len(from);
        cut.map_err(io("mend")).map_err(damaged)?;
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

    /// A record of the log about itself.
    fn write_own(&mut self, event: &AuditEvent) -> Result<u64, AuditError> {
        self.write(&[event.to_tail(Timestamp::now())])
    }

    /// All of the records become durable, or none, and then it can be tried again.
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
            // What stays in spite of this is cut off by the next write.
            file.set_len(at).ok();
            return Err(AuditError::NotRecorded {
                path: self.folder.path().display().to_string(),
                reason: error.to_string(),
            });
        }
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
