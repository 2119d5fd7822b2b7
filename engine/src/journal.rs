//! What happened to every run, on disk before anything depends on it.
//!
//! The pipeline is data, and a run is what its records say:
//! [`RunState::fold`] turns them into the state that an engine goes on from
//! after a crash. Two things are durable before the engine goes on: a run
//! before it is acknowledged, and a step's result before a dependant starts.
//!
//! A run has one owner at a time, an open journal. Ownership is numbered by
//! epochs, and every append states the run's last record and epoch as it
//! knows them. An owner that was taken for dead finds itself fenced instead of
//! writing into a history that went on without it.
//!
//! Start with [`Journal`], then [`RecordBody`], then [`SqliteJournal`]. The
//! path of a record: `submit.rs` → `writer.rs` → `append.rs`.

mod append;
mod blobs;
mod cancel;
mod condition;
mod digest;
mod error;
mod files;
mod inbox;
mod list;
mod load;
mod owner;
mod readers;
mod record;
mod run;
mod schema;
mod settings;
mod sqlite;
mod state;
mod submit;
mod sweep;
mod takeover;
mod writer;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
pub(crate) mod fixture;

use std::{collections::BTreeMap, future::Future, pin::Pin};

use bytes::Bytes;
use orchestrator_contract::RunId;

pub use condition::Trouble;
pub use digest::{Digest, DigestError, idempotency_key};
pub use error::{AppendError, JournalDamaged, JournalError};
pub use inbox::Inbox;
pub use record::{
    Contents, FellBack, Fork, HandedOut, NewRecord, OwnerId, PayloadView, PinnedPlugin, Record,
    RecordBody, RecordView, RunCreated,
};
pub use run::{
    Cancel, Creation, InboxItem, InboxRequest, JournalStats, NewRun, OpenRun, RESTARTS_MAX,
    RunFilter, RunStatus, RunSummary, Swept, TakenOver,
};
pub use settings::{JournalSettings, Retention};
pub use sqlite::SqliteJournal;
pub use state::{Resolved, RunState, StepState};

/// Something a journal answers some time later.
pub type JournalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer to an append, which is the sequence number of its last record.
/// Dropping it changes nothing but that nobody learns the answer.
pub type Ticket = JournalFuture<'static, Result<u64, AppendError>>;

/// Where histories are kept.
///
/// Dropping a future of a reading method ends the reading. Dropping one of a
/// writing method leaves open whether the write happens, unless the method
/// says more.
pub trait Journal: Send + Sync + 'static {
    /// Who owns the runs that this journal creates and takes over.
    fn owner(&self) -> OwnerId;

    /// Makes a run durable.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchDefinition`], [`JournalError::RunExists`],
    /// [`JournalError::KeyReused`], and
    /// [`AppendError::TooLarge`] or [`AppendError::Unavailable`] inside
    /// [`JournalError::Append`].
    fn create(&self, run: NewRun) -> JournalFuture<'_, Result<Creation, JournalError>>;

    /// Hands records over for writing, in the order of the calls, and returns
    /// before they are durable. Waits while the queue is full. Dropped before
    /// it answers, nothing is written.
    ///
    /// `expect_seq` is the run's last record and `epoch` its ownership, as the
    /// caller knows them. The records become durable together or not at all.
    ///
    /// # Errors
    ///
    /// [`AppendError::TooLarge`] and [`AppendError::Unavailable`]; the ticket
    /// has these and [`AppendError::Fenced`].
    fn submit(
        &self,
        run: RunId,
        expect_seq: u64,
        epoch: u64,
        records: Vec<NewRecord>,
    ) -> JournalFuture<'_, Result<Ticket, AppendError>>;

    /// [`Self::submit`], and waits until the records are durable.
    ///
    /// # Errors
    ///
    /// Those of [`Self::submit`] and its ticket.
    fn append(
        &self,
        run: RunId,
        expect_seq: u64,
        epoch: u64,
        records: Vec<NewRecord>,
    ) -> JournalFuture<'_, Result<u64, AppendError>> {
        Box::pin(async move { self.submit(run, expect_seq, epoch, records).await?.await })
    }

    /// Reads a run's whole history, payloads included, and checks it.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRun`], [`JournalError::Damaged`],
    /// [`JournalError::BlobDamaged`], [`JournalError::Unreadable`].
    fn load(&self, run: RunId) -> JournalFuture<'_, Result<Vec<Record>, JournalError>> {
        self.load_with(run, Contents::All)
    }

    /// [`Self::load`] with the content of some payloads only; the others are
    /// empty, whatever was stored. Files that are not wanted are neither read
    /// nor checked.
    ///
    /// # Errors
    ///
    /// Those of [`Self::load`].
    fn load_with(
        &self,
        run: RunId,
        contents: Contents,
    ) -> JournalFuture<'_, Result<Vec<Record>, JournalError>>;

    /// Reads at most `limit` of a run's records, those after `seq`, without
    /// the content of their payloads. Costs what it returns, however long the
    /// history, and so checks no more than that.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRun`], [`JournalError::Damaged`],
    /// [`JournalError::Unreadable`].
    fn records_after(
        &self,
        run: RunId,
        seq: u64,
        limit: usize,
    ) -> JournalFuture<'_, Result<Vec<RecordView>, JournalError>>;

    /// Lists runs, newest first.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`].
    fn runs(&self, filter: RunFilter) -> JournalFuture<'_, Result<Vec<RunSummary>, JournalError>>;

    /// Describes one run.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRun`], [`JournalError::Unreadable`].
    fn summary(&self, run: RunId) -> JournalFuture<'_, Result<RunSummary, JournalError>>;

    /// The last record of each of these runs; those that there are not are left
    /// out.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`].
    fn last_records(
        &self,
        runs: Vec<RunId>,
    ) -> JournalFuture<'_, Result<BTreeMap<RunId, u64>, JournalError>>;

    /// Lists the runs that have not ended, oldest first.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`].
    fn open_runs(&self) -> JournalFuture<'_, Result<Vec<OpenRun>, JournalError>>;

    /// What [`Self::open_runs`] says of one run; `None` when it has ended.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRun`], [`JournalError::Unreadable`].
    fn open_run(&self, run: RunId) -> JournalFuture<'_, Result<Option<OpenRun>, JournalError>>;

    /// Makes a run ours whose owner is dead, or begins a new epoch of one that
    /// is ours already. Of several that try, one succeeds.
    ///
    /// # Errors
    ///
    /// [`JournalError::Owned`] by a live owner, [`JournalError::Ended`],
    /// [`JournalError::NoSuchRun`], [`AppendError::Unavailable`].
    fn take_over(&self, run: RunId) -> JournalFuture<'_, Result<TakenOver, JournalError>>;

    /// Asks the owner of a run, in whatever process, to end it. A run whose
    /// owner is dead ends at once; it need not be in order for that.
    ///
    /// # Errors
    ///
    /// [`JournalError::Ended`], [`JournalError::NoSuchRun`],
    /// [`AppendError::Unavailable`], [`AppendError::TooLarge`].
    fn request_cancel(
        &self,
        run: RunId,
        reason: String,
    ) -> JournalFuture<'_, Result<Cancel, JournalError>>;

    /// Lists the requests later than `after` that concern runs of ours. Cheap
    /// where there are none. [`Inbox`] calls it time and again.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`].
    fn inbox(&self, after: u64) -> JournalFuture<'_, Result<Vec<InboxItem>, JournalError>>;

    /// Keeps the definition of a pipeline and names it by its content. One
    /// that no run uses within the hour goes away with the next sweep.
    ///
    /// # Errors
    ///
    /// [`AppendError::TooLarge`] over 1 MiB, [`AppendError::Unavailable`].
    fn put_definition(&self, body: Bytes) -> JournalFuture<'_, Result<Digest, JournalError>>;

    /// The definition of this name, if it is kept.
    ///
    /// # Errors
    ///
    /// [`JournalError::BlobDamaged`] when its content does not fit its name,
    /// [`JournalError::Unreadable`].
    fn definition(&self, name: Digest) -> JournalFuture<'_, Result<Option<Bytes>, JournalError>>;

    /// Deletes a run that has ended, and the blobs that were its alone.
    ///
    /// # Errors
    ///
    /// [`JournalError::NotEnded`], [`JournalError::NoSuchRun`],
    /// [`AppendError::Unavailable`].
    fn delete_run(&self, run: RunId) -> JournalFuture<'_, Result<(), JournalError>>;

    /// Deletes runs whose retention is over at `now_ms` (milliseconds since
    /// the Unix epoch), and whatever nothing refers to any more. In small
    /// transactions, so that other writes pass in between. Dropped midway, it
    /// leaves the rest to the next sweep.
    ///
    /// # Errors
    ///
    /// [`AppendError::Unavailable`].
    fn sweep(&self, now_ms: i64) -> JournalFuture<'_, Result<Swept, JournalError>>;

    /// Whether the last write succeeded and others are taken. After a failed
    /// one it is tried again every second, so that this tells of the recovery
    /// too. Asks no disk.
    ///
    /// # Errors
    ///
    /// What is wrong, since when, and whether it is for good.
    fn health(&self) -> Result<(), Trouble>;

    /// Counts what the journal holds.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`].
    fn stats(&self) -> JournalFuture<'_, Result<JournalStats, JournalError>>;
}

pub(crate) use append::Batch;
pub(crate) use writer::Cost;

/// Milliseconds since the Unix epoch, by the wall clock.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
