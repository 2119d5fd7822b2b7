//! The journal in a SQLite file of one machine.
//!
//! Several processes may have it open: each appends to its own runs.
//!
//! ```text
//! <dir>/journal.db        the database (and its -wal and -shm)
//! <dir>/blobs/ab/cdef…    payloads too large for it
//! <dir>/owners/<id>.lock  who is alive
//! <dir>/open.lock         openers take turns
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use orchestrator_contract::{EventSink, RunId};
use rusqlite::{Connection, params};

use super::{
    Journal, JournalFuture, Ticket,
    append::{Around, Batch, Prepared},
    blobs::{BlobStore, make_dir},
    condition::{Condition, Trouble},
    digest::Digest,
    error::{AppendError, JournalError},
    files::wait_for_turn,
    inbox, list, load, now_ms,
    owner::{Owner, Owners},
    readers::Readers,
    record::{Contents, NewRecord, OwnerId, Record, RecordView},
    run::{
        Cancel, Creation, InboxItem, JournalStats, NewRun, OpenRun, RunFilter, RunSummary, Swept,
        TakenOver,
    },
    schema,
    settings::JournalSettings,
    submit,
    writer::{Cost, Tools, Writer},
};

/// The most bytes of a pipeline's definition.
const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// What whoever opens a write-ahead log first makes room for.
const INDEX_BYTES: usize = 32 << 10;

/// The journal in a SQLite file. Clones share it. Its runs stay its own until
/// the last clone is dropped or [`close`](Self::close) is called; whatever was
/// handed over by then is still written.
#[derive(Clone)]
pub struct SqliteJournal {
    inner: Arc<Inner>,
}

struct Inner {
    settings: JournalSettings,
    owner: OwnerId,
    owners: Owners,
    blobs: BlobStore,
    readers: Readers,
    writer: Writer,
}

impl SqliteJournal {
    /// Opens the journal in `dir`, which is made if it is not there, brings an
    /// older file up to date, and tells `events` of every group it commits.
    ///
    /// # Errors
    ///
    /// [`JournalError::Inaccessible`], [`JournalError::NotAJournal`],
    /// [`JournalError::NewerSchema`], [`JournalError::Unreadable`].
    pub async fn open(
        dir: impl Into<PathBuf>,
        settings: JournalSettings,
        events: Arc<dyn EventSink>,
    ) -> Result<Self, JournalError> {
        let dir = dir.into();
        let path = dir.clone();
        let open = tokio::task::spawn_blocking(move || Self::open_blocking(&dir, settings, events));
        open.await.unwrap_or_else(|ended| {
            Err(JournalError::Inaccessible {
                path,
                reason: ended.to_string(),
            })
        })
    }

    fn open_blocking(
        dir: &Path,
        settings: JournalSettings,
        events: Arc<dyn EventSink>,
    ) -> Result<Self, JournalError> {
        let inaccessible = |error: std::io::Error| JournalError::Inaccessible {
            path: dir.to_owned(),
            reason: error.to_string(),
        };
        make_dir(dir).map_err(inaccessible)?;
        let turn = wait_for_turn(&dir.join("open.lock")).map_err(inaccessible)?;
        let path = dir.join("journal.db");
        let connection =
            schema::open_writer(&path, &settings).map_err(|error| explained(error, dir))?;
        let blobs = BlobStore::open(&dir.join("blobs")).map_err(inaccessible)?;
        let owners = Owners::open(&dir.join("owners")).map_err(inaccessible)?;
        let condition = Condition::of(dir);
        owners.bury();
        let owner: Owner = owners
            .join(OwnerId::random(now_ms()))
            .map_err(inaccessible)?;
        drop(turn);
        let id = owner.id();
        let tools = Tools {
            connection,
            log: dir.join("journal.db-wal"),
            settings: settings.clone(),
            around: Around {
                blobs: blobs.clone(),
                owner,
                owners: owners.clone(),
                condition,
            },
            events,
        };
        let writer = Writer::start(tools).map_err(inaccessible)?;
        let inner = Inner {
            readers: Readers::new(path, &settings),
            settings,
            owner: id,
            owners,
            blobs,
            writer,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Writes what was handed over, ends the writing thread and lets go of
    /// the runs. Later writes are refused; reading goes on.
    pub async fn close(&self) {
        self.inner.writer.stop().await;
    }

    pub(crate) fn settings(&self) -> &JournalSettings {
        &self.inner.settings
    }

    pub(super) fn owner_id(&self) -> OwnerId {
        self.inner.owner
    }

    pub(super) fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    async fn create_run(&self, new: NewRun) -> Result<Creation, JournalError> {
        if !new.inherited.is_empty() {
            submit::check_history(&new.inherited)?;
        }
        let (run, at_ms, created) = (new.run, new.at_ms, new.created.clone());
        let records = new.into_records().collect();
        // What a fork inherits was accepted before. If it is more than a group, it
        // is a group of its own.
        let (records, cost) = self.prepare(records, at_ms).await?;
        self.writer()
            .write(cost, move |batch| batch.create(run, &created, &records))
            .await?
    }

    async fn prepare(
        &self,
        records: Vec<NewRecord>,
        at_ms: i64,
    ) -> Result<(Vec<Prepared>, Cost), AppendError> {
        submit::prepare(records, at_ms, self.settings(), self.blobs(), self.writer()).await
    }

    async fn submit_records(
        &self,
        run: RunId,
        expect_seq: u64,
        epoch: u64,
        records: Vec<NewRecord>,
    ) -> Result<Ticket, AppendError> {
        submit::check_history(&records)?;
        let (records, cost) = self.prepare(records, now_ms()).await?;
        submit::check_size("an append", cost.bytes, self.settings().group_bytes_max)?;
        let work = move |batch: &mut Batch<'_>| batch.append(run, expect_seq, epoch, &records);
        let answer = self.writer().hand_over(cost, work).await?;
        Ok(Box::pin(async move { answer.get().await? }))
    }

    async fn keep_definition(&self, body: Bytes) -> Result<Digest, JournalError> {
        submit::check_size("a definition", body.len(), DEFINITION_BYTES_MAX)?;
        let name = Digest::of(&body);
        let cost = Cost {
            records: 0,
            bytes: body.len(),
        };
        let at_ms = now_ms();
        let sql = "INSERT INTO definitions (sha256, body, put) VALUES (?1, ?2, ?3)
            ON CONFLICT (sha256) DO UPDATE SET put = max(put, excluded.put)";
        let work = move |batch: &mut Batch<'_>| {
            let row = params![name.as_bytes(), &body[..], at_ms];
            batch.tx.prepare_cached(sql)?.execute(row)
        };
        self.writer().write(cost, work).await?;
        Ok(name)
    }

    /// Does something in the next transaction and waits until it is durable.
    /// `work` is called again if that transaction has to be repeated.
    pub(crate) async fn write<T, W>(&self, cost: Cost, work: W) -> Result<T, AppendError>
    where
        T: Send + 'static,
        W: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer().write(cost, work).await
    }

    /// Hands something over for the next transaction, whatever becomes of it.
    pub(crate) async fn write_unwatched<W>(&self, cost: Cost, work: W) -> Result<(), AppendError>
    where
        W: FnMut(&mut Batch<'_>) -> rusqlite::Result<()> + Send + 'static,
    {
        self.writer().hand_over(cost, work).await.map(drop)
    }

    /// Asks the file something, on a thread that may block.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.readers().query(query).await
    }
}

impl Journal for SqliteJournal {
    fn owner(&self) -> OwnerId {
        self.inner.owner
    }

    fn create(&self, run: NewRun) -> JournalFuture<'_, Result<Creation, JournalError>> {
        Box::pin(self.create_run(run))
    }

    fn submit(
        &self,
        run: RunId,
        expect_seq: u64,
        epoch: u64,
        records: Vec<NewRecord>,
    ) -> JournalFuture<'_, Result<Ticket, AppendError>> {
        Box::pin(self.submit_records(run, expect_seq, epoch, records))
    }

    fn load_with(
        &self,
        run: RunId,
        contents: Contents,
    ) -> JournalFuture<'_, Result<Vec<Record>, JournalError>> {
        let blobs = self.blobs().clone();
        Box::pin(self.query(move |connection| load::history(connection, &blobs, run, &contents)))
    }

    fn records_after(
        &self,
        run: RunId,
        seq: u64,
        limit: usize,
    ) -> JournalFuture<'_, Result<Vec<RecordView>, JournalError>> {
        Box::pin(self.query(move |connection| load::after(connection, run, seq, limit)))
    }

    fn runs(&self, filter: RunFilter) -> JournalFuture<'_, Result<Vec<RunSummary>, JournalError>> {
        Box::pin(self.query(move |connection| list::runs(connection, &filter)))
    }

    fn summary(&self, run: RunId) -> JournalFuture<'_, Result<RunSummary, JournalError>> {
        Box::pin(self.query(move |connection| list::summary(connection, run)))
    }

    fn last_records(
        &self,
        runs: Vec<RunId>,
    ) -> JournalFuture<'_, Result<BTreeMap<RunId, u64>, JournalError>> {
        Box::pin(self.query(move |connection| list::last_records(connection, &runs)))
    }

    fn open_runs(&self) -> JournalFuture<'_, Result<Vec<OpenRun>, JournalError>> {
        let (owner, owners) = (self.inner.owner, self.inner.owners.clone());
        Box::pin(self.query(move |connection| list::open_runs(connection, owner, &owners)))
    }

    fn open_run(&self, run: RunId) -> JournalFuture<'_, Result<Option<OpenRun>, JournalError>> {
        let (owner, owners) = (self.inner.owner, self.inner.owners.clone());
        Box::pin(self.query(move |connection| list::open_run(connection, run, owner, &owners)))
    }

    fn take_over(&self, run: RunId) -> JournalFuture<'_, Result<TakenOver, JournalError>> {
        Box::pin(self.take_over_run(run))
    }

    fn request_cancel(
        &self,
        run: RunId,
        reason: String,
    ) -> JournalFuture<'_, Result<Cancel, JournalError>> {
        Box::pin(self.cancel_run(run, reason))
    }

    fn inbox(&self, after: u64) -> JournalFuture<'_, Result<Vec<InboxItem>, JournalError>> {
        let owner = self.inner.owner;
        Box::pin(self.query(move |connection| Ok(inbox::of_owner(connection, owner, after)?)))
    }

    fn put_definition(&self, body: Bytes) -> JournalFuture<'_, Result<Digest, JournalError>> {
        Box::pin(self.keep_definition(body))
    }

    fn definition(&self, name: Digest) -> JournalFuture<'_, Result<Option<Bytes>, JournalError>> {
        Box::pin(self.query(move |connection| load::definition(connection, &name)))
    }

    fn delete_run(&self, run: RunId) -> JournalFuture<'_, Result<(), JournalError>> {
        Box::pin(self.delete_ended_run(run))
    }

    fn sweep(&self, now_ms: i64) -> JournalFuture<'_, Result<Swept, JournalError>> {
        Box::pin(self.sweep_all(now_ms))
    }

    fn health(&self) -> Result<(), Trouble> {
        self.writer().health()
    }

    fn stats(&self) -> JournalFuture<'_, Result<JournalStats, JournalError>> {
        let queued = self.writer().queued();
        Box::pin(self.query(move |connection| list::stats(connection, queued)))
    }
}

/// Adds what the system says to what SQLite says of a disk that is full.
fn explained(error: JournalError, dir: &Path) -> JournalError {
    let JournalError::Inaccessible { path, mut reason } = error else {
        return error;
    };
    let tried = BlobStore::open(&dir.join("blobs"));
    if let Err(why) = tried.and_then(|blobs| blobs.try_write(0, INDEX_BYTES)) {
        let why = why.to_string();
        if !reason.contains(&why) {
            reason = format!("{reason}: {why}");
        }
    }
    JournalError::Inaccessible { path, reason }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::journal::{RunState, fixture::*};

    #[tokio::test]
    async fn a_full_disk_refuses_appends_and_keeps_what_it_has() {
        let mut settings = JournalSettings::for_tests();
        settings.database_bytes_max = 600_000;
        let fixture = Fixture::with(settings).await;
        let run = create(&fixture.journal).await;
        let mut seq = 1;
        let refused = loop {
            let step = format!("step-{seq}");
            let record = vec![started(&step, 1), completed(&step, payload(20_000, 1))];
            match fixture.journal.append(run, seq, 1, record).await {
                Ok(last) => seq = last,
                Err(error) => break error,
            }
            assert!(seq < 200, "the file outgrew its limit");
        };
        assert!(
            matches!(
                refused,
                AppendError::Unavailable {
                    poisoned: false,
                    ..
                }
            ),
            "{refused:?}"
        );
        let history = fixture.journal.load(run).await.unwrap();
        assert_eq!(history.len() as u64, seq);
        RunState::fold(run, history).unwrap();
        // What little fits still does: the refusal was about this append.
        fixture.journal.close().await;
        let larger = fixture.another().await;
        let taken = larger.take_over(run).await.unwrap();
        let record = vec![completed("last", payload(20_000, 1))];
        larger
            .append(run, taken.seq, taken.epoch, record)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_owner_that_was_taken_for_dead_cannot_write() {
        let fixture = Fixture::new().await;
        let first = &fixture.journal;
        let run = create(first).await;
        // Whatever made it look dead: it lives, and remembers the run.
        fs::remove_dir_all(fixture.dir().join("owners")).unwrap();
        fs::create_dir(fixture.dir().join("owners")).unwrap();
        let second = fixture.another().await;
        let taken = second.take_over(run).await.unwrap();
        let step = || vec![completed("a", payload(10, 1))];
        for seq in [1, taken.seq] {
            let late = first.append(run, seq, 1, step()).await;
            assert!(
                matches!(late, Err(AppendError::Fenced { epoch: 2, .. })),
                "{late:?}"
            );
        }
        let next = second.append(run, taken.seq, taken.epoch, step()).await;
        assert_eq!(next, Ok(taken.seq + 1));
        RunState::fold(run, first.load(run).await.unwrap()).unwrap();
    }

    #[tokio::test]
    async fn an_unwritable_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let events = Arc::new(orchestrator_contract::NoEvents);
        let refused = SqliteJournal::open(&file, JournalSettings::for_tests(), events).await;
        match refused.map(drop) {
            Err(JournalError::Inaccessible { path, .. }) => assert_eq!(path, file),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
        for name in ["journal.db", "open.lock"] {
            let dir = tempfile::tempdir().unwrap();
            make_pipe(&dir.path().join(name));
            let events = Arc::new(orchestrator_contract::NoEvents);
            let settings = JournalSettings::for_tests();
            let opened = SqliteJournal::open(dir.path(), settings, events);
            let opened = tokio::time::timeout(Duration::from_secs(20), opened).await;
            let error = opened.unwrap().map(drop).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[tokio::test]
    async fn a_journal_of_a_later_version_is_refused() {
        let fixture = Fixture::new().await;
        fixture.journal.close().await;
        fixture.tamper("PRAGMA user_version = 99");
        let events = Arc::new(orchestrator_contract::NoEvents);
        let refused = SqliteJournal::open(fixture.dir(), JournalSettings::for_tests(), events);
        let refused = refused.await.map(drop);
        assert!(matches!(
            refused,
            Err(JournalError::NewerSchema {
                found: 99,
                known: 1
            })
        ));
    }
}
