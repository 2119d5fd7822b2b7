//! What the tests of the journal and of sessions start from.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use orchestrator_contract::{
    CallError, Criticality, Event, EventSink, NoEvents, Payload, RunId, RunOutcome, SessionId,
    TraceContext, Usage,
};

use super::{
    Creation, Journal, JournalSettings, NewRecord, NewRun, PinnedPlugin, RecordBody, RunCreated,
    SqliteJournal, digest::Digest, now_ms,
};

/// A pipeline's definition that every test run uses.
pub(crate) const DEFINITION: &[u8] = b"steps: []";

/// A journal in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) journal: SqliteJournal,
    dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(JournalSettings::for_tests()).await
    }

    pub(crate) async fn with(settings: JournalSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path(), settings).await;
        Self { journal, dir }
    }

    /// Another opening of the same journal, while this one stays open.
    pub(crate) async fn another(&self) -> SqliteJournal {
        open(self.dir.path(), JournalSettings::for_tests()).await
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Changes the file behind the journal's back.
    pub(crate) fn tamper(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.dir().join("journal.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch(sql).unwrap();
    }
}

pub(crate) async fn open(dir: &Path, settings: JournalSettings) -> SqliteJournal {
    open_with(dir, settings, Arc::new(NoEvents)).await
}

pub(crate) async fn open_with(
    dir: &Path,
    settings: JournalSettings,
    events: Arc<dyn EventSink>,
) -> SqliteJournal {
    let journal = SqliteJournal::open(dir, settings, events).await.unwrap();
    let body = Bytes::from_static(DEFINITION);
    journal.put_definition(body).await.unwrap();
    journal
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Kept(pub(crate) Mutex<Vec<Event>>);

impl EventSink for Kept {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

pub(crate) fn random_run() -> RunId {
    RunId::from_parts(now_ms() as u64, fastrand::u128(..))
}

pub(crate) fn new_run() -> NewRun {
    NewRun {
        run: random_run(),
        created: RunCreated {
            pipeline: "release".into(),
            definition: Digest::of(DEFINITION),
            session: SessionId::from_parts(1, fastrand::u128(..)),
            tenant: Some("acme".into()),
            criticality: Criticality::default(),
            trace: TraceContext::from_random(1, 2, true),
            idempotency_key: None,
            plugins: BTreeMap::from([(
                "build".into(),
                PinnedPlugin {
                    plugin: "builder".into(),
                    version: "1.2.3".into(),
                    digest: "sha256:00".into(),
                },
            )]),
            fallbacks: BTreeMap::new(),
            forked_from: None,
        },
        input: Payload::from_json_bytes(r#"{"n":9007199254740993}"#),
        at_ms: now_ms(),
        inherited: Vec::new(),
    }
}

/// Creates a run, which then is at record 1 of epoch 1.
pub(crate) async fn create(journal: &dyn Journal) -> RunId {
    let new = new_run();
    let run = new.run;
    let created = journal.create(new).await.unwrap();
    assert_eq!(created, Creation::Created { epoch: 1, seq: 1 });
    run
}

pub(crate) fn started(step: &str, attempt: u32) -> NewRecord {
    let idempotency_key = "key".into();
    let step = step.into();
    RecordBody::StepStarted {
        step,
        attempt,
        idempotency_key,
    }
    .into()
}

pub(crate) fn completed(step: &str, output: Payload) -> NewRecord {
    NewRecord {
        body: RecordBody::StepCompleted {
            step: step.into(),
            attempts: 1,
            duration_ms: 3,
            metadata: BTreeMap::from([("model".to_owned(), "small".to_owned())]),
            usage: Usage::default(),
            fallback: None,
        },
        payload: Some(output),
    }
}

pub(crate) fn failed(step: &str) -> NewRecord {
    let error = CallError::permanent("no");
    let step = step.into();
    RecordBody::StepFailed {
        step,
        attempts: 2,
        duration_ms: 3,
        error,
    }
    .into()
}

pub(crate) fn finished(outcome: RunOutcome) -> NewRecord {
    RecordBody::RunFinished {
        outcome,
        failed_step: None,
        error: None,
        outputs: None,
    }
    .into()
}

/// A payload of `len` bytes that differ from those of another `fill`.
pub(crate) fn payload(len: usize, fill: u8) -> Payload {
    Payload::new(orchestrator_contract::TEXT, vec![fill; len])
}

/// A named pipe, whose opener waits for somebody at its other end.
pub(crate) fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}
