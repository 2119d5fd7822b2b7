//! A started engine with scripted plugins.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, Event, EventSink, Payload, PhaseCall, PhaseReply, RunId};
use orchestrator_engine::{
    Builtin, CallContext, Engine, EngineBuilder, Plugin, RunReport, RunRequest, config::Config,
    pipeline::Pipeline,
};
use orchestrator_plugin_runtime::BoxFuture;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// Longer than any test takes, so that one that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) home: TempDir,
    /// How often the plugin `counted` was called.
    pub(crate) counted: Arc<AtomicU32>,
    pub(crate) told: Arc<Told>,
}

#[derive(Default)]
pub(crate) struct Told(std::sync::Mutex<Vec<Event>>);

impl EventSink for Told {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Told {
    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|event| wanted(event))
            .count()
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            counted: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(crate) async fn start(&self) -> Engine {
        self.start_with(|_| ()).await
    }

    pub(crate) async fn start_with(&self, change: impl FnOnce(&mut Config)) -> Engine {
        self.builder(change).start().await.unwrap()
    }

    pub(crate) fn builder(&self, change: impl FnOnce(&mut Config)) -> EngineBuilder {
        let mut config = Config::defaults().unwrap();
        config.journal.cancel_poll = Duration::from_millis(10);
        change(&mut config);
        let counted = Arc::clone(&self.counted);
        let count = move |call: PhaseCall, _: CallContext| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, CallError>(call.input))
        };
        Engine::builder()
            .home(self.home.path())
            .unwrap()
            .config(config)
            .sink(self.told.clone())
            .builtin(Builtin::phase("echo", "1.0.0", "say", echo).unwrap())
            .builtin(Builtin::phase("fails", "1.0.0", "now", fails).unwrap())
            .builtin(Builtin::phase("hangs", "1.0.0", "now", hangs).unwrap())
            .builtin(Builtin::phase("counted", "1.0.0", "count", count).unwrap())
    }

    pub(crate) fn counted(&self) -> u32 {
        self.counted.load(Ordering::Relaxed)
    }
}

async fn echo(call: PhaseCall, _: CallContext) -> Result<Payload, CallError> {
    Ok(call.input)
}

async fn fails(_: PhaseCall, _: CallContext) -> Result<Payload, CallError> {
    Err(CallError::permanent("scripted"))
}

async fn hangs(_: PhaseCall, _: CallContext) -> Result<Payload, CallError> {
    std::future::pending().await
}

/// Answers no call.
pub(crate) struct Hangs;

impl Plugin for Hangs {
    fn call(
        self: Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(std::future::pending())
    }
}

/// A pipeline named `test` with these steps and outputs.
pub(crate) fn pipeline(body: &str) -> Pipeline {
    let text = format!("version: 1\nname: test\n{body}");
    Pipeline::parse(&text, "test.yaml").unwrap_or_else(|errors| panic!("{errors:?}"))
}

pub(crate) async fn run(engine: &Engine, body: &str) -> RunReport {
    run_with(engine, RunRequest::new(pipeline(body))).await
}

pub(crate) async fn run_with(engine: &Engine, request: RunRequest) -> RunReport {
    within(engine.run(request)).await.unwrap()
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("the test hangs")
}

/// Waits until the run's first step is with its plugin.
pub(crate) async fn in_flight(engine: &Engine, run: RunId) {
    let started = async {
        while engine.history().report(run).await.unwrap().steps[0].attempts == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(started).await;
}

/// Waits until `holds`, and fails with `what` when that takes too long.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The content of a report's output.
pub(crate) fn output(report: &RunReport, name: &str) -> String {
    let output = report
        .outputs
        .iter()
        .find(|output| output.name == name)
        .unwrap();
    String::from_utf8(output.payload.bytes.to_vec()).unwrap()
}
