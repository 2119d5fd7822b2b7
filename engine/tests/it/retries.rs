//! How often a phase is tried, and what is told of it.

use std::time::Duration;

use orchestrator_contract::{CallError, Event, PhaseCall, PhaseReply, RunOutcome, StepId};
use orchestrator_engine::{Builtin, CallContext, Engine, Plugin, RunReport};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::{Value, json};

use crate::support::{Rig, pipeline, run};

/// Never has time.
struct Busy;

impl Plugin for Busy {
    fn call(
        self: std::sync::Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(std::future::ready(Err(CallError::transient("scripted"))))
    }
}

/// A plugin whose phase `now` may be repeated, and says `more` about that.
fn busy(more: Value) -> Builtin {
    let mut phase = json!({ "name": "now", "retryable": true });
    let more = more.as_object().unwrap().clone();
    phase.as_object_mut().unwrap().extend(more);
    let manifest = json!({
        "id": "busy",
        "version": "1.0.0",
        "description": "Scripted.",
        "kind": "builtin",
        "entry_point": "busy",
        "phases": [phase],
    });
    Builtin::new(Manifest::from_value(&manifest, "busy").unwrap(), Busy)
}

async fn start(rig: &Rig, more: Value) -> Engine {
    let builder = rig.builder(|config| {
        config.policy.retry.base_delay = Duration::from_millis(1);
    });
    builder.builtin(busy(more)).start().await.unwrap()
}

const BODY: &str = "steps:\n  - { id: try, plugin: busy, phase: now }\n";

/// What a manifest says about retries holds, also that there are none.
#[tokio::test]
async fn a_phase_is_tried_as_often_as_its_manifest_says() {
    for (more, attempts) in [
        (json!({ "max_retries": 0 }), 1),
        (json!({ "max_attempts": 1 }), 1),
        (json!({ "max_retries": 1 }), 2),
        (json!({}), 3),
    ] {
        let rig = Rig::new();
        let engine = start(&rig, more.clone()).await;
        assert_eq!(engine.config().policy.retry.max_attempts.get(), 3);

        let report = run(&engine, BODY).await;

        assert_eq!(report.outcome, Some(RunOutcome::Failed));
        assert_eq!(report.steps[0].attempts, attempts, "{more}");
    }
}

/// Of what policies do, one learns for which run and step they do it.
#[tokio::test]
async fn what_policies_do_is_told_of_a_run_and_its_step() {
    let rig = Rig::new();
    let builder = rig.builder(|config| {
        config.policy.retry.base_delay = Duration::from_millis(1);
        config.policy.breaker.consecutive_failures = 4.try_into().unwrap();
    });
    let engine = builder.builtin(busy(json!({}))).start().await.unwrap();

    let first = run(&engine, BODY).await;
    let second = run(&engine, BODY).await;

    let of = |run: &RunReport, kind: fn(&Event) -> Option<&StepId>| {
        let wanted = |event: &Event| {
            event.run() == Some(run.id) && kind(event).is_some_and(|step| step.as_str() == "try")
        };
        rig.told.count(wanted)
    };
    let retried: fn(&Event) -> Option<&StepId> = |event| match event {
        Event::CallRetried { step, .. } => Some(step),
        _ => None,
    };
    let given_up: fn(&Event) -> Option<&StepId> = |event| match event {
        Event::RetryGivenUp { step, .. } => Some(step),
        _ => None,
    };
    let refused: fn(&Event) -> Option<&StepId> = |event| match event {
        Event::CallRefused { step, .. } => Some(step),
        _ => None,
    };
    assert_eq!((of(&first, retried), of(&second, retried)), (2, 1));
    assert_eq!((of(&first, given_up), of(&first, refused)), (1, 0));
    assert_eq!(of(&second, refused), 1, "the breaker opened after four");
}

/// What all calls to a plugin share is no step's to override.
#[tokio::test]
async fn a_step_overrides_what_is_its_own() {
    let rig = Rig::new();
    let engine = start(&rig, json!({})).await;
    let check = |policy: &str| {
        let step = format!("plugin: busy, phase: now, policy: {policy}");
        let body = format!("steps:\n  - {{ id: try, {step} }}\n");
        engine
            .check(&pipeline(&body))
            .map_err(|error| error.to_string())
    };
    check("{ retry: { jitter: decorrelated, max_attempts: 2 } }").unwrap();
    for (policy, key) in [
        ("{ retry: { jitter: equal } }", "jitter"),
        ("{ retry: { budget: { reserve: 1 } } }", "`retry.budget`"),
        ("{ breaker: { mode: disabled } }", "`breaker`"),
        ("{ stack: [total_deadline, catch_panic] }", "`stack`"),
    ] {
        let message = check(policy).unwrap_err();
        assert!(message.contains(key), "{message}");
    }
}
