//! The loop of the writing thread: gather, commit, answer.

use std::{fs, io, time::Duration};

use orchestrator_contract::Event;
use rusqlite::{ErrorCode, TransactionBehavior, ffi};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Cost, Job, Message, Tools,
    probe::{Probe, ROOM_BYTES},
};
use crate::journal::{
    append::{Batch, Heads},
    condition::Condition,
    error::AppendError,
};

/// How often a write is tried while none succeeds, and how often it is looked
/// meanwhile whether somebody wants one.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What SQLite writes at a time.
const PAGE_BYTES: usize = 8_192;

/// The writing thread and what it remembers between transactions.
pub(super) struct Thread {
    tools: Tools,
    heads: Heads,
    /// The file's version after our last transaction.
    version: Option<i64>,
}

/// What a failed transaction means for those in it and for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// One request is to blame; the others can do without it.
    Request,
    /// The storage failed this time.
    Group,
    /// Nobody knows what the disk holds, and asking again would not tell: a
    /// kernel reports a failed flush once and forgets the pages it concerned
    /// ([Rebello et al. 2020](https://www.usenix.org/conference/atc20/presentation/rebello)).
    Poison,
}

impl Verdict {
    fn on(error: &rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(failure, _) = error else {
            return Self::Request;
        };
        match (failure.code, failure.extended_code) {
            (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
            | (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Self::Poison,
            (
                ErrorCode::ConstraintViolation
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ParameterOutOfRange,
                _,
            ) => Self::Request,
            _ => Self::Group,
        }
    }
}

impl Thread {
    pub(super) fn new(tools: Tools) -> Self {
        Self {
            tools,
            heads: Heads::default(),
            version: None,
        }
    }

    /// Serves requests until nobody can make one any more.
    pub(super) fn run(mut self, mut incoming: mpsc::Receiver<Message>) {
        let mut stops = Vec::new();
        let mut left_over = None;
        loop {
            let next = left_over.take().map(Message::Job);
            match next.or_else(|| self.wait(&mut incoming)) {
                Some(Message::Job(first)) => {
                    let mut group = vec![first];
                    left_over = self.gather(&mut group, &mut incoming, &mut stops);
                    self.settle(group);
                }
                Some(Message::Stop(waiter)) => stops.push(waiter),
                // Waiting looks what has failed.
                Some(Message::Look) => (),
                None => break,
            }
            if !stops.is_empty() {
                incoming.close();
            }
        }
        self.condition().closed();
        // Lets go of the file and of the owner's lock before anybody hears.
        drop(self);
        for waiter in stops {
            let _ = waiter.send(());
        }
    }

    /// Waits for the next request. While nothing can be written, nobody may
    /// ask for anything, so it tries by itself whether that is over.
    fn wait(&mut self, incoming: &mut mpsc::Receiver<Message>) -> Option<Message> {
        let mut probed = Instant::now();
        while self.is_in_trouble() {
            match incoming.try_recv() {
                Ok(message) => return Some(message),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => (),
            }
            #[expect(clippy::disallowed_methods, reason = "the journal's own thread")]
            std::thread::sleep(LOOK_EVERY);
            if probed.elapsed() >= PROBE_EVERY {
                self.probe();
                probed = Instant::now();
            }
        }
        incoming.blocking_recv()
    }

    fn probe(&mut self) {
        let room = self.try_write(ROOM_BYTES);
        match room {
            Ok(()) => self.settle(vec![Box::new(Probe)]),
            Err(error) => drop(self.fail(error.to_string(), false)),
        }
    }

    fn condition(&self) -> &Condition {
        &self.tools.around.condition
    }

    /// Whether writes fail that may succeed later.
    fn is_in_trouble(&self) -> bool {
        let trouble = self.condition().trouble();
        trouble.is_some_and(|trouble| !trouble.is_for_good())
    }

    /// Writes to the disk where the database's log would grow.
    fn try_write(&self, bytes: usize) -> io::Result<()> {
        let end = fs::metadata(&self.tools.log).map_or(0, |log| log.len());
        self.tools.around.blobs.try_write(end, bytes)
    }

    /// Adds what has come in meanwhile. Returns a request that did not fit.
    fn gather(
        &self,
        group: &mut Vec<Box<dyn Job>>,
        incoming: &mut mpsc::Receiver<Message>,
        stops: &mut Vec<oneshot::Sender<()>>,
    ) -> Option<Box<dyn Job>> {
        let settings = &self.tools.settings;
        let Cost {
            mut records,
            mut bytes,
        } = group.first().map(|job| job.cost()).unwrap_or_default();
        while let Ok(message) = incoming.try_recv() {
            let job = match message {
                Message::Job(job) => job,
                Message::Stop(waiter) => {
                    stops.push(waiter);
                    continue;
                }
                Message::Look => continue,
            };
            records += job.cost().records.max(1);
            bytes += job.cost().bytes;
            if records > settings.group_records_max || bytes > settings.group_bytes_max {
                return Some(job);
            }
            group.push(job);
        }
        None
    }

    /// Makes a group durable and answers it.
    fn settle(&mut self, mut group: Vec<Box<dyn Job>>) {
        if let Some(poison) = self.condition().poison() {
            return answer_all(group, Err(&poison));
        }
        let started = Instant::now();
        match self.commit(&mut group) {
            Ok(records) => {
                if let Some(over) = self.condition().works() {
                    tracing::info!(%over, "the journal can be written again");
                }
                answer_all(group, Ok(()));
                if records > 0 {
                    let duration_us = started.elapsed().as_micros();
                    self.tools.events.emit(Event::JournalCommitted {
                        events: records,
                        duration_us: duration_us.try_into().unwrap_or(u64::MAX),
                    });
                }
            }
            Err(error) => {
                let verdict = self.judge(&error);
                if verdict == Verdict::Request && group.len() > 1 {
                    for job in group {
                        self.settle(vec![job]);
                    }
                    return;
                }
                let unavailable = self.failed(&error, verdict);
                answer_all(group, Err(&unavailable));
            }
        }
    }

    /// Takes note that a transaction failed; the error for those in it.
    fn failed(&self, error: &rusqlite::Error, verdict: Verdict) -> AppendError {
        let mut reason = error.to_string();
        if verdict == Verdict::Request {
            tracing::error!(reason, "the journal could not write a request");
            return self.condition().unavailable(reason, false);
        }
        // SQLite keeps to itself what the system said.
        if let Err(error) = self.try_write(PAGE_BYTES) {
            reason = format!("{reason}: {error}");
        }
        self.fail(reason, verdict == Verdict::Poison)
    }

    fn fail(&self, reason: String, poisoned: bool) -> AppendError {
        let (error, is_new) = self.condition().failed(reason, poisoned);
        match is_new || poisoned {
            true => tracing::error!(%error, "the journal could not commit"),
            false => tracing::debug!(%error, "the journal still cannot commit"),
        }
        error
    }

    fn judge(&self, error: &rusqlite::Error) -> Verdict {
        if self.tools.connection.is_autocommit() {
            Verdict::on(error)
        } else {
            // The rollback failed too.
            Verdict::Poison
        }
    }

    /// One transaction. Returns how many records it holds. Nothing of it is
    /// visible when it fails.
    fn commit(&mut self, group: &mut [Box<dyn Job>]) -> rusqlite::Result<u64> {
        let Self {
            tools,
            heads,
            version,
            ..
        } = self;
        let work = |heads: &mut Heads, version: &mut Option<i64>| {
            let tx = tools
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Changes when another connection writes, and not when we do.
            let found = tx
                .prepare_cached("PRAGMA data_version")?
                .query_row([], |row| row.get(0))?;
            if version.replace(found) != Some(found) {
                heads.clear();
            }
            let mut batch = Batch::new(&tx, heads, &tools.around);
            for job in group {
                job.apply(&mut batch)?;
            }
            let records = batch.finish()?;
            tx.commit()?;
            Ok(records)
        };
        let outcome = work(heads, version);
        match outcome {
            Ok(_) => heads.trim(),
            Err(_) => heads.clear(),
        }
        outcome
    }
}

fn answer_all(group: Vec<Box<dyn Job>>, outcome: Result<(), &AppendError>) {
    for job in group {
        job.settle(outcome);
    }
}

#[cfg(test)]
mod tests;
