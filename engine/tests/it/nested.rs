//! Steps that run pipelines themselves.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, PhaseCall, PhaseReply, RunOutcome};
use orchestrator_engine::{Builtin, CallContext, Engine, Plugin, RunRequest};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::json;

use crate::support::{Rig, pipeline, run};

/// Runs a pipeline of one step, that of the layer below, and fails as it does.
struct Layer {
    engine: Arc<OnceLock<Engine>>,
    /// The plugin below; there is none below the last.
    below: Option<&'static str>,
    called: Arc<AtomicU32>,
}

impl Plugin for Layer {
    fn call(
        self: Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async move {
            self.called.fetch_add(1, Ordering::Relaxed);
            if let Some(below) = self.below {
                let request = RunRequest::new(pipeline(&step(below)));
                let report = self.engine.get().unwrap().run(request).await.unwrap();
                assert_eq!(report.outcome, Some(RunOutcome::Failed));
            }
            Err(CallError::transient("scripted"))
        })
    }
}

fn step(plugin: &str) -> String {
    format!("steps:\n  - {{ id: ask, plugin: {plugin}, phase: now }}\n")
}

/// The layers and how often each was called.
struct Layers {
    engine: Engine,
    called: [Arc<AtomicU32>; 3],
    _rig: Rig,
}

impl Layers {
    async fn start() -> Self {
        let rig = Rig::new();
        let itself = Arc::new(OnceLock::new());
        let called: [Arc<AtomicU32>; 3] = Default::default();
        let mut builder = rig.builder(|config| {
            let policy = &mut config.policy;
            policy.retry.base_delay = Duration::from_millis(1);
            policy.retry.max_delay = Duration::from_millis(1);
            // Neither of these is to be what bounds the attempts.
            policy.retry.budget.reserve = 1_000;
            policy
                .stack
                .leave_out(orchestrator_policies::PolicyKind::Breaker);
        });
        let names = [
            ("outer", Some("middle")),
            ("middle", Some("leaf")),
            ("leaf", None),
        ];
        for ((name, below), called) in names.into_iter().zip(&called) {
            let manifest = json!({
                "id": name,
                "version": "1.0.0",
                "description": "Scripted.",
                "kind": "builtin",
                "entry_point": name,
                "phases": [{ "name": "now", "retryable": true }],
            });
            let layer = Layer {
                engine: Arc::clone(&itself),
                below,
                called: Arc::clone(called),
            };
            let manifest = Manifest::from_value(&manifest, name).unwrap();
            builder = builder.builtin(Builtin::new(manifest, layer));
        }
        let engine = builder.start().await.unwrap();
        let _ = itself.set(engine.clone());
        Self {
            engine,
            called,
            _rig: rig,
        }
    }

    fn called(&self) -> [u32; 3] {
        self.called
            .each_ref()
            .map(|called| called.load(Ordering::Relaxed))
    }
}

/// Three layers of three attempts each would be 27.
#[tokio::test]
async fn one_cap_covers_a_step_and_all_that_it_calls() {
    let layers = Layers::start().await;
    assert_eq!(layers.engine.config().policy.retry.max_attempts.get(), 3);

    let report = run(&layers.engine, &step("outer")).await;

    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    // The innermost uses up what there is, and nothing is left for those around it.
    assert_eq!(layers.called(), [1, 1, 3]);
}

/// The cap is a step's: the next one has one of its own.
#[tokio::test]
async fn every_step_has_a_cap_of_its_own() {
    let layers = Layers::start().await;

    run(&layers.engine, &step("middle")).await;
    run(&layers.engine, &step("leaf")).await;

    assert_eq!(layers.called(), [0, 1, 6]);
}
