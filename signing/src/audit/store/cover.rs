//! Checkpoints, new segments, and the end of old ones.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
};

use jiff::{SignedDuration, Timestamp};

use super::{Segment, Store};
use crate::audit::{
    error::AuditError,
    files::{self, Lines, offset_of},
    note,
    record::{AuditEvent, AuditRecord, Kind, Outcome},
};

impl Store {
    /// Signs the tree as it is, where that is not signed yet, and hands the
    /// checkpoint to its second place.
    pub(super) fn cover(&mut self) -> Result<(), AuditError> {
        let size = self.frontier.size();
        if size == self.covered {
            return Ok(());
        }
        // Whoever finds the checkpoint finds the hashes below it too.
        self.tree.sync()?;
        let signed = self.signer.sign(size, self.frontier.root());
        let path = self.folder.checkpoints(self.segment.first);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|mut file| {
            file.write_all(note::separated(&signed).as_bytes())?;
            file.sync_data()
        })
        .map_err(AuditError::io("write", &path))?;
        self.covered = size;
        self.hand_on(&signed)
    }

    /// Records when the second place stops taking checkpoints, and when it does
    /// so again. The next checkpoint covers all that it missed.
    fn hand_on(&mut self, note: &str) -> Result<(), AuditError> {
        let Some(copy) = &mut self.copy else {
            return Ok(());
        };
        let event = match (copy(note), self.copy_fails) {
            (Ok(()), false) | (Err(_), true) => return Ok(()),
            (Ok(()), true) => AuditEvent::new(Kind::Checkpoint, Outcome::Ok)
                .detail("checkpoints reach their second place again"),
            (Err(error), false) => AuditEvent::new(Kind::Checkpoint, Outcome::Failed).detail(
                format!("checkpoints do not reach their second place: {error}"),
            ),
        };
        self.copy_fails = event.outcome == Outcome::Failed;
        self.write_own(&event).map(drop)
    }

    /// Begins a new segment; the records go on counting.
    pub(super) fn rotate(&mut self) -> Result<(), AuditError> {
        self.cover()?;
        let first = self.frontier.size();
        let path = self.folder.segment(first);
        let file = files::open_or_create(&path).map_err(AuditError::io("create", &path))?;
        self.folder.sync()?;
        self.segment = Segment {
            first,
            file,
            len: 0,
        };
        self.prune(Timestamp::now())
    }

    /// Removes segments whose last record is older than the operator keeps
    /// them, from the beginning on. Their hashes stay.
    pub(super) fn prune(&mut self, now: Timestamp) -> Result<(), AuditError> {
        let Some(keep) = self.settings.keep else {
            return Ok(());
        };
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let Ok(oldest) = now.checked_sub(keep) else {
            return Ok(());
        };
        let segments = self.folder.segments()?;
        let mut first_kept = None;
        for pair in segments.windows(2) {
            match self.ends_at(pair[0], pair[1])? {
                Some(end) if end < oldest => first_kept = Some(pair[1]),
                _ => break,
            }
        }
        let Some(first_kept) = first_kept else {
            return Ok(());
        };
        // Recorded first: what is gone without a record was not removed by us.
        let event = AuditEvent::new(Kind::Pruned, Outcome::Ok)
            .detail(format!("records before {first_kept} are no longer kept"))
            .with("first_kept", first_kept.to_string());
        self.write_own(&event)?;
        self.cover()?;
        for first in segments.into_iter().filter(|first| *first < first_kept) {
            for path in [self.folder.segment(first), self.folder.checkpoints(first)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(AuditError::io("remove", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        self.folder.sync()
    }

    /// When the last record of a segment was made.
    fn ends_at(&self, first: u64, next: u64) -> Result<Option<Timestamp>, AuditError> {
        let path = self.folder.segment(first);
        let read = || {
            let file = files::open(&path, false)?;
            let len = file.metadata()?.len();
            let at = offset_of(&file, len, first, next.saturating_sub(1))?;
            Lines::of(file, at, len).next_line()
        };
        let line = read().map_err(AuditError::io("read", &path))?;
        let record = line.and_then(|line| AuditRecord::parse(&line).ok());
        Ok(record.and_then(|record| record.time.parse().ok()))
    }
}
