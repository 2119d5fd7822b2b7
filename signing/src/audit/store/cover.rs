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

/// How old a record is before what it says of the time counts.
const SETTLED: SignedDuration = SignedDuration::from_hours(24);

impl Store {
    /// Signs the tree as it is, where that is not signed yet, and hands the
    /// checkpoint to its second place.
    pub(super) fn cover(&mut self) -> Result<(), AuditError> {
        let size = self.frontier.size();
        if size == self.covered {
            return Ok(());
        }
        // Whoever finds the checkpoint finds the records and hashes below it too.
        self.sync()?;
        self.tree.sync()?;
        let signed = self.sign()?;
        self.covered = size;
        self.hand_on(&signed)
    }

    /// Signs the tree as it is, and puts the checkpoint beside the segment.
    pub(super) fn sign(&self) -> Result<String, AuditError> {
        let signed = self.signer.sign(self.frontier.size(), self.frontier.root());
        let path = self.folder.checkpoints(self.segment.first);
        let is_new = path.symlink_metadata().is_err();
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
        if is_new {
            self.folder.sync()?;
        }
        Ok(signed)
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
    ///
    /// The clock alone does not say how old a record is: a record that is a day
    /// old has to say so too. One start with a wrong clock removes nothing.
    pub(super) fn prune(&mut self, now: Timestamp) -> Result<(), AuditError> {
        let Some(keep) = self.settings.keep else {
            return Ok(());
        };
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let segments = self.folder.segments()?;
        let settled = now.checked_sub(keep.min(SETTLED)).ok();
        let witness = match settled {
            Some(settled) => self.newest_until(settled, &segments)?,
            None => None,
        };
        let Some(oldest) = witness.and_then(|witness| witness.checked_sub(keep).ok()) else {
            return Ok(());
        };
        let mut first_kept = None;
        for pair in segments.windows(2) {
            match self.time_of(pair[0], pair[1].saturating_sub(1))? {
                Some(end) if end <= oldest => first_kept = Some(pair[1]),
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

    /// When the newest record was made that is not younger than `limit`. Clocks
    /// that were set back may hide it behind others; then it is an older one.
    fn newest_until(
        &self,
        limit: Timestamp,
        segments: &[u64],
    ) -> Result<Option<Timestamp>, AuditError> {
        let mut end = self.frontier.size();
        for first in segments.iter().rev().copied() {
            let (mut low, mut high) = (first, end);
            let mut newest = None;
            while low < high {
                let middle = low + (high - low) / 2;
                match self.time_of(first, middle)? {
                    Some(time) if time <= limit => {
                        newest = newest.max(Some(time));
                        low = middle + 1;
                    }
                    _ => high = middle,
                }
            }
            if newest.is_some() {
                return Ok(newest);
            }
            end = first;
        }
        Ok(None)
    }

    /// When record `seq` was made, which stands in the segment `first`.
    fn time_of(&self, first: u64, seq: u64) -> Result<Option<Timestamp>, AuditError> {
        let path = self.folder.segment(first);
        let read = || {
            let file = files::open(&path, false)?;
            let len = file.metadata()?.len();
            let at = offset_of(&file, len, first, seq)?;
            Lines::of(file, at, len).next_line()
        };
        let line = read().map_err(AuditError::io("read", &path))?;
        let record = line.and_then(|line| AuditRecord::parse(&line).ok());
        Ok(record.and_then(|record| record.time.parse().ok()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;
    use crate::audit::{AuditSettings, verify};

    const DAY: i64 = 86_400;

    fn settings() -> AuditSettings {
        let mut settings = AuditSettings::new(|_| false);
        settings.segment_bytes = 500;
        settings.keep = Some(Duration::from_secs(30 * 86_400));
        settings
    }

    fn tail(at: Timestamp) -> Vec<u8> {
        let long = "x".repeat(100);
        AuditEvent::new(Kind::Denial, Outcome::Denied)
            .detail(long)
            .to_tail(at)
    }

    /// One record a day for a year, up to `end`.
    fn a_year(dir: &std::path::Path, end: Timestamp) -> Store {
        let mut forever = settings();
        forever.keep = None;
        let mut store = Store::open(dir, forever, None).unwrap();
        for day in (0..365).rev() {
            let at = end - SignedDuration::from_secs(day * DAY);
            store.append(&[tail(at)]).unwrap();
        }
        store.settings = settings();
        store
    }

    /// A start with a clock that is years ahead, and the records made then, cost
    /// no segment that the true time would have kept.
    #[test]
    fn a_clock_that_is_wrong_once_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // The log's own records are made by the true clock.
        let now = Timestamp::now();
        let mut store = a_year(dir.path(), now);
        let wrong: Timestamp = "2199-01-01T00:00:00Z".parse().unwrap();
        store.append(&[tail(wrong)]).unwrap();
        let day = SignedDuration::from_secs(DAY);
        // What the true time keeps stays; the rest goes, as it should.
        for clock in [wrong + day / 2, now + day, now + day * 2] {
            store.prune(clock).unwrap();
            let first = store.folder.segments().unwrap();
            let oldest = store.time_of(first[0], first[1] - 1).unwrap().unwrap();
            assert!(oldest >= now - day * 31, "{oldest} at {clock}");
            assert!(oldest < now - day * 25, "{oldest} at {clock}");
        }
        // A right clock moves on, and removes all but what claims to be younger.
        store.append(&[tail(now + day * 40)]).unwrap();
        store.prune(now + day * 42).unwrap();
        let oldest = store.folder.segments().unwrap()[0];
        let oldest = store.time_of(oldest, oldest).unwrap().unwrap();
        assert!(oldest > now - day * 3, "{oldest}");
        store.cover().unwrap();
        verify(dir.path(), store.signer().verifier(), None).unwrap();
    }

    /// A line that another process wrote before it died may not be on disk yet.
    #[test]
    fn nothing_is_signed_that_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Store::open(dir.path(), AuditSettings::new(|_| false), None).unwrap();
        let mut store = Store::open(dir.path(), AuditSettings::new(|_| false), None).unwrap();
        other.append(&[tail(Timestamp::now())]).unwrap();
        store.catch_up().unwrap();
        let before = store.folder.read_checkpoints(0, 1 << 20).unwrap();
        // What can be written and not made durable: a pipe.
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let real = std::mem::replace(&mut store.segment.file, file);
        assert!(store.cover().is_err());
        assert_eq!(store.folder.read_checkpoints(0, 1 << 20).unwrap(), before);
        store.segment.file = real;
        store.cover().unwrap();
        assert_ne!(store.folder.read_checkpoints(0, 1 << 20).unwrap(), before);
    }
}
