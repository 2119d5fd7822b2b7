//! Steps that were in flight when their engine stopped: who is asked, what is
//! counted.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, PhaseCall, PhaseName, PhaseReply, Reconciled, RunId, RunOutcome, StepOutcome,
};
use orchestrator_engine::{Builtin, CallContext, Engine, Plugin, RunHandle, RunRequest};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::json;
use tokio::sync::Barrier;

use crate::support::{Rig, pipeline, within};

fn manifest(id: &str, effect: &str) -> Manifest {
    let manifest = json!({
        "id": id,
        "version": "1.0.0",
        "description": "Scripted.",
        "kind": "builtin",
        "entry_point": id,
        "phases": [{ "name": "now", "effect": effect }],
    });
    Manifest::from_value(&manifest, id).unwrap()
}

/// Starts a run, and stops its engine once every step is at `attempt`.
async fn interrupted(engine: Engine, body: &str, attempt: u32) -> RunId {
    let request = RunRequest::new(pipeline(body));
    let run = engine.submit(request).await.unwrap().id();
    let at_attempt = async {
        loop {
            let report = engine.history().report(run).await.unwrap();
            if report.steps.iter().all(|step| step.attempts == attempt) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(at_attempt).await;
    within(engine.drain(Duration::ZERO)).await.unwrap();
    run
}

async fn resumed(engine: &Engine) -> RunHandle {
    let resumed = within(engine.resume_all()).await.unwrap();
    resumed.handles.into_iter().next().unwrap()
}

/// Does not answer calls, and questions only when all are asked at once.
struct Silent(Option<Barrier>);

impl Plugin for Silent {
    fn call(
        self: Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(std::future::pending())
    }

    fn reconcile(&self, _: &PhaseName, _: &str) -> BoxFuture<'_, Reconciled> {
        Box::pin(async {
            match &self.0 {
                Some(all) => {
                    all.wait().await;
                }
                None => std::future::pending().await,
            }
            Reconciled::Unknown
        })
    }
}

fn silent(all: Option<usize>) -> Builtin {
    let plugin = Silent(all.map(Barrier::new));
    Builtin::new(manifest("silent", "at_most_once"), plugin)
}

const THREE: &str = r#"
steps:
  - { id: a, plugin: silent, phase: now }
  - { id: b, plugin: silent, phase: now }
  - { id: c, plugin: silent, phase: now }
"#;

#[tokio::test]
async fn plugins_are_asked_side_by_side() {
    let rig = Rig::new();
    let start = || rig.builder(|_| ()).builtin(silent(Some(3))).start();
    interrupted(start().await.unwrap(), THREE, 1).await;

    let engine = start().await.unwrap();
    let report = within(resumed(&engine).await.wait()).await.unwrap();

    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    let unknown =
        |step: &orchestrator_engine::StepReport| step.outcome == Some(StepOutcome::Unknown);
    assert!(report.steps.iter().all(unknown), "{report:?}");
}

#[tokio::test]
async fn a_run_is_cancelled_while_plugins_are_asked() {
    let rig = Rig::new();
    let start = || rig.builder(|_| ()).builtin(silent(None)).start();
    let run = interrupted(start().await.unwrap(), THREE, 1).await;

    let engine = start().await.unwrap();
    let handle = resumed(&engine).await;
    engine.cancel(run, "enough").await.unwrap();
    let report = within(handle.wait()).await.unwrap();

    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    let cancelled =
        |step: &orchestrator_engine::StepReport| step.outcome == Some(StepOutcome::Cancelled);
    assert!(report.steps.iter().all(cancelled), "{report:?}");
}

/// Fails for now, or hangs in the second attempt.
struct Flaky {
    hangs: AtomicBool,
    seen: Mutex<Vec<u32>>,
}

impl Plugin for Flaky {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        self.seen.lock().unwrap().push(call.attempt);
        let hangs = call.attempt > 1 && self.hangs.load(Ordering::Relaxed);
        Box::pin(async move {
            match hangs {
                true => std::future::pending().await,
                false => Err(CallError::transient("scripted")),
            }
        })
    }
}

/// The second attempt is in the journal before it ends, and counts when the
/// run is resumed.
#[tokio::test]
async fn attempts_survive_a_resume() {
    let rig = Rig::new();
    let body = "steps:\n  - { id: try, plugin: flaky, phase: now }\n";
    let start = async |hangs: bool| {
        let flaky = Arc::new(Flaky {
            hangs: AtomicBool::new(hangs),
            seen: Mutex::default(),
        });
        let plugin = Shared(Arc::clone(&flaky));
        let builtin = Builtin::new(manifest("flaky", "idempotent"), plugin);
        let engine = rig.builder(|_| ()).builtin(builtin).start().await.unwrap();
        (engine, flaky)
    };
    let (engine, flaky) = start(true).await;
    assert_eq!(engine.config().policy.retry.max_attempts.get(), 3);
    interrupted(engine, body, 2).await;
    assert_eq!(*flaky.seen.lock().unwrap(), [1, 2]);

    let (engine, flaky) = start(false).await;
    let report = within(resumed(&engine).await.wait()).await.unwrap();

    assert_eq!(*flaky.seen.lock().unwrap(), [3]);
    assert_eq!(report.steps[0].attempts, 3);
    assert_eq!(report.outcome, Some(RunOutcome::Failed));
}

/// Lets the test keep a hand on the plugin.
struct Shared(Arc<Flaky>);

impl Plugin for Shared {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        context: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Arc::clone(&self.0).call(call, context)
    }
}
