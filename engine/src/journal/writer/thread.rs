//! The loop of the writing thread: gather, commit, answer.

use orchestrator_contract::Event;
use rusqlite::{ErrorCode, TransactionBehavior, ffi};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Cost, Job, Message, Poison, Tools};
use crate::journal::{
    append::{Batch, Heads},
    error::AppendError,
};

/// The writing thread and what it remembers between transactions.
pub(super) struct Thread {
    tools: Tools,
    heads: Heads,
    /// The file's version after our last transaction.
    version: Option<i64>,
    /// Why nothing is taken any more.
    poison: Poison,
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
    pub(super) fn new(tools: Tools, poison: Poison) -> Self {
        Self {
            tools,
            heads: Heads::default(),
            version: None,
            poison,
        }
    }

    /// Serves requests until nobody can make one any more.
    pub(super) fn run(mut self, mut incoming: mpsc::Receiver<Message>) {
        let mut stops = Vec::new();
        let mut left_over = None;
        loop {
            let next = left_over.take().map(Message::Job);
            match next.or_else(|| incoming.blocking_recv()) {
                Some(Message::Job(first)) => {
                    let mut group = vec![first];
                    left_over = self.gather(&mut group, &mut incoming, &mut stops);
                    self.settle(group);
                }
                Some(Message::Stop(waiter)) => stops.push(waiter),
                None => break,
            }
            if !stops.is_empty() {
                incoming.close();
            }
        }
        // Lets go of the file and of the owner's lock before anybody hears.
        drop(self);
        for waiter in stops {
            let _ = waiter.send(());
        }
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
        if let Some(poison) = self.poison.get() {
            return answer_all(group, Err(poison));
        }
        let started = Instant::now();
        match self.commit(&mut group) {
            Ok(records) => {
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
                tracing::error!(%error, ?verdict, requests = group.len(), "the journal could not commit");
                if verdict == Verdict::Request && group.len() > 1 {
                    for job in group {
                        self.settle(vec![job]);
                    }
                    return;
                }
                let unavailable = AppendError::Unavailable {
                    reason: error.to_string(),
                    poisoned: verdict == Verdict::Poison,
                };
                if verdict == Verdict::Poison {
                    // Nothing gets here a second time.
                    self.poison.get_or_init(|| unavailable.clone());
                }
                answer_all(group, Err(&unavailable));
            }
        }
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
            let mut batch = Batch::new(&tx, heads, &tools.blobs, tools.owner.id(), &tools.owners);
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::{
        Journal, JournalSettings, OwnerId,
        blobs::BlobStore,
        fixture::*,
        owner::Owners,
        schema::open_writer,
        writer::{Answer, Task},
    };

    fn failure(extended_code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None)
    }

    #[test]
    fn a_failed_flush_poisons_a_full_disk_does_not() {
        let cases = [
            (ffi::SQLITE_IOERR_FSYNC, Verdict::Poison),
            (ffi::SQLITE_IOERR_DIR_FSYNC, Verdict::Poison),
            (ffi::SQLITE_CORRUPT, Verdict::Poison),
            (ffi::SQLITE_FULL, Verdict::Group),
            (ffi::SQLITE_IOERR_WRITE, Verdict::Group),
            (ffi::SQLITE_BUSY, Verdict::Group),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Verdict::Request),
        ];
        for (code, verdict) in cases {
            assert_eq!(Verdict::on(&failure(code)), verdict, "{code}");
        }
    }

    fn thread() -> (tempfile::TempDir, Thread, Arc<Kept>) {
        let dir = tempfile::tempdir().unwrap();
        let settings = JournalSettings::for_tests();
        let events = Arc::new(Kept::default());
        let owners = Owners::open(&dir.path().join("owners")).unwrap();
        let tools = Tools {
            connection: open_writer(&dir.path().join("journal.db"), &settings).unwrap(),
            settings,
            blobs: BlobStore::open(&dir.path().join("blobs")).unwrap(),
            owner: owners.join(OwnerId::random(0)).unwrap(),
            owners,
            events: events.clone(),
        };
        (dir, Thread::new(tools, Poison::default()), events)
    }

    type Asked = (Box<dyn Job>, Answer<i64>);

    /// Writes a row and then fails with `code`, if there is one.
    fn request(name: &'static str, code: Option<i32>) -> Asked {
        let (waiter, answer) = oneshot::channel();
        let work = move |batch: &mut Batch<'_>| {
            let sql = "INSERT INTO definitions (sha256, body, put) VALUES (?1, ?1, 0)";
            batch.tx.execute(sql, [name])?;
            code.map_or(Ok(7), |code| Err(failure(code)))
        };
        let task = Task {
            cost: Cost::default(),
            work,
            answer: None,
            waiter,
        };
        (Box::new(task), answer)
    }

    /// Settles a group of three, of which the second fails with `code`.
    /// Returns who was served, and what is in the file.
    fn settle_three(thread: &mut Thread, code: Option<i32>) -> (Vec<bool>, String) {
        let asked = [request("a", None), request("b", code), request("c", None)];
        let (group, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        thread.settle(group);
        let served = answers
            .into_iter()
            .map(|mut answer| answer.try_recv().unwrap() == Ok(7));
        let sql = "SELECT coalesce(group_concat(sha256, ''), '') FROM
            (SELECT sha256 FROM definitions ORDER BY sha256)";
        let rows = thread.tools.connection.query_row(sql, [], |row| row.get(0));
        (served.collect(), rows.unwrap())
    }

    #[test]
    fn a_group_succeeds_together() {
        let (_dir, mut thread, _) = thread();
        assert_eq!(
            settle_three(&mut thread, None),
            (vec![true; 3], "abc".to_owned())
        );
    }

    #[test]
    fn a_full_disk_fails_the_group_and_nothing_of_it_stays() {
        let (_dir, mut thread, _) = thread();
        let outcome = settle_three(&mut thread, Some(ffi::SQLITE_FULL));
        assert_eq!(outcome, (vec![false; 3], String::new()));
        assert_eq!(
            settle_three(&mut thread, None),
            (vec![true; 3], "abc".to_owned())
        );
    }

    #[test]
    fn a_request_that_cannot_be_written_does_not_take_the_others_along() {
        let (_dir, mut thread, _) = thread();
        let outcome = settle_three(&mut thread, Some(ffi::SQLITE_CONSTRAINT_CHECK));
        assert_eq!(outcome, (vec![true, false, true], "ac".to_owned()));
    }

    #[test]
    fn after_a_failed_flush_nothing_is_taken_any_more() {
        let (_dir, mut thread, _) = thread();
        let outcome = settle_three(&mut thread, Some(ffi::SQLITE_IOERR_FSYNC));
        assert_eq!(outcome, (vec![false; 3], String::new()));
        let (job, mut answer) = request("d", None);
        thread.settle(vec![job]);
        let refused = answer.try_recv().unwrap();
        assert!(matches!(
            refused,
            Err(AppendError::Unavailable { poisoned: true, .. })
        ));
    }

    #[tokio::test]
    async fn a_journal_tells_when_it_takes_nothing_any_more() {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.journal.health(), Ok(()));
        let broken = |code| {
            let work = move |_: &mut Batch<'_>| Err::<(), _>(failure(code));
            fixture.journal.write(Cost::default(), work)
        };
        broken(ffi::SQLITE_FULL).await.unwrap_err();
        assert_eq!(fixture.journal.health(), Ok(()), "it may have room again");
        let error = broken(ffi::SQLITE_IOERR_FSYNC).await.unwrap_err();
        assert_eq!(fixture.journal.health(), Err(error));

        let closed = Fixture::new().await;
        closed.journal.close().await;
        assert!(closed.journal.health().is_err());
    }

    #[tokio::test]
    async fn many_at_once_share_transactions_within_the_limits() {
        let kept = Arc::new(Kept::default());
        let dir = tempfile::tempdir().unwrap();
        let mut settings = JournalSettings::for_tests();
        settings.group_records_max = 8;
        let journal = open_with(dir.path(), settings, kept.clone()).await;
        let run = create(&journal).await;
        let mut tickets = Vec::new();
        for seq in 1..=200 {
            let attempt = u32::try_from(seq).unwrap();
            tickets.push(
                journal
                    .submit(run, seq, 1, vec![started("a", attempt)])
                    .await
                    .unwrap(),
            );
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        journal.close().await;
        let sizes: Vec<u64> = kept
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|event| match event {
                Event::JournalCommitted { events, .. } => *events,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes.iter().sum::<u64>(), 201);
        assert!(sizes.iter().all(|size| *size <= 8));
        // The first transaction takes longer than handing the rest over.
        assert!(sizes.len() < 150, "{} transactions", sizes.len());
    }
}
