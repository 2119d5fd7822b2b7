//! Steps of which only a person can know what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, Payload, PhaseCall, PhaseReply, RunId, RunOutcome, StepOutcome,
};
use orchestrator_engine::{
    Builtin, CallContext, Engine, EngineError, ErrorClass, Plugin, Resolution, RunReport,
    RunRequest, journal::RecordBody,
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::json;

use crate::support::{Rig, output, pipeline, within};

/// Takes every order, and never says that it did.
struct Pay(Arc<AtomicU32>);

impl Plugin for Pay {
    fn call(
        self: Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

struct Shop {
    rig: Rig,
    paid: Arc<AtomicU32>,
}

impl Shop {
    async fn open(&self) -> Engine {
        let manifest = json!({
            "id": "pay",
            "version": "1.0.0",
            "description": "Scripted.",
            "kind": "builtin",
            "entry_point": "pay",
            "phases": [{ "name": "order", "effect": "at_most_once" }],
        });
        let manifest = Manifest::from_value(&manifest, "pay").unwrap();
        let pay = Builtin::new(manifest, Pay(Arc::clone(&self.paid)));
        let builder = self.rig.builder(|_| ()).builtin(pay);
        builder.start().await.unwrap()
    }

    fn paid(&self) -> u32 {
        self.paid.load(Ordering::Relaxed)
    }

    /// An engine, and a run of which `count` steps have been called.
    async fn ordered(body: &str, count: u32) -> (Self, Engine, RunId) {
        let shop = Self {
            rig: Rig::new(),
            paid: Arc::default(),
        };
        let engine = shop.open().await;
        let request = RunRequest::new(pipeline(body));
        let run = engine.submit(request).await.unwrap().id();
        let all = async {
            while shop.paid() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(all).await;
        (shop, engine, run)
    }

    /// An engine, and a run of which `unknown` steps are in doubt.
    async fn in_doubt(body: &str, unknown: u32) -> (Self, Engine, RunId) {
        let (shop, engine, run) = Self::ordered(body, unknown).await;
        within(engine.drain(Duration::ZERO)).await.unwrap();
        let engine = shop.open().await;
        let handle = within(engine.resume(run)).await.unwrap();
        let report = within(handle.wait()).await.unwrap();
        assert_eq!(report.outcome, Some(RunOutcome::Failed));
        assert_eq!(of(&report, StepOutcome::Unknown).len(), unknown as usize);
        (shop, engine, run)
    }
}

/// The steps that ended so.
fn of(report: &RunReport, outcome: StepOutcome) -> Vec<&str> {
    let steps = report.steps.iter();
    steps
        .filter(|step| step.outcome == Some(outcome))
        .map(|step| step.step.as_str())
        .collect()
}

async fn resolve(
    engine: &Engine,
    run: RunId,
    step: &str,
    resolution: Resolution,
) -> Result<RunReport, EngineError> {
    let handle = engine.resolve(run, step, resolution, "ada").await?;
    within(handle.wait()).await
}

fn done(output: &str) -> Resolution {
    Resolution::Done(Payload::from_json_bytes(output.to_owned()))
}

const ONE: &str = r#"
steps:
  - { id: before, plugin: counted, phase: count }
  - { id: order, plugin: pay, phase: order, needs: [before] }
  - { id: tell, plugin: echo, phase: say, input: { paid: "${{ steps.order.output }}" } }
outputs:
  told.json: { from: "${{ steps.tell.output }}" }
"#;

#[tokio::test]
async fn what_happened_is_taken_for_done_and_the_run_goes_on() {
    let (shop, engine, run) = Shop::in_doubt(ONE, 1).await;
    let report = engine.history().report(run).await.unwrap();
    let reason = report.steps[1].reason.as_deref().unwrap();
    let how = format!("`orchestrator run resolve {run} order --done`");
    assert!(reason.contains(&how), "{reason}");

    let report = resolve(&engine, run, "order", done(r#"{"receipt":7}"#)).await;

    let report = report.unwrap();
    assert_ne!(report.id, run);
    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(output(&report, "told.json"), r#"{"paid":{"receipt":7}}"#);
    assert_eq!((shop.paid(), shop.rig.counted()), (1, 1), "nothing twice");
    let reason = report.steps[1].reason.as_deref().unwrap();
    assert!(reason.contains("ada"), "{reason}");
    let records = engine.history().records(report.id, 0).await.unwrap();
    let resolved = records.iter().find_map(|record| match &record.body {
        RecordBody::StepResolved {
            step, by, said_ms, ..
        } => Some((step.as_str(), &**by, *said_ms)),
        _ => None,
    });
    let (step, by, said_ms) = resolved.unwrap();
    assert_eq!((step, by), ("order", "ada"));
    assert!((report.started_ms - 60_000..=report.started_ms).contains(&said_ms));

    // Who said so is not forgotten when the run is repeated.
    let again = engine.retry(report.id, Some("tell")).await.unwrap();
    let again = within(again.wait()).await.unwrap();
    assert_eq!(again.steps[1].reason, report.steps[1].reason);
    assert_eq!(output(&again, "told.json"), output(&report, "told.json"));
    assert_eq!(shop.paid(), 1);
}

#[tokio::test]
async fn what_did_not_happen_is_done_now() {
    let (shop, engine, run) = Shop::in_doubt(ONE, 1).await;

    let handle = engine.resolve(run, "order", Resolution::NotDone, "ada");
    let handle = handle.await.unwrap();

    let called = async {
        while shop.paid() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(called).await;
    assert_eq!(shop.rig.counted(), 1, "what succeeded is not repeated");
    let records = engine.history().records(handle.id(), 0).await.unwrap();
    let said = records.iter().any(|record| {
        matches!(&record.body, RecordBody::StepResolved { happened: false, by, .. } if &**by == "ada")
    });
    assert!(said);
    engine.cancel(handle.id(), "enough").await.unwrap();
    within(handle.wait()).await.unwrap();
}

/// A word about one step says nothing of the others.
#[tokio::test]
async fn each_step_in_doubt_needs_a_word_of_its_own() {
    let body = r#"
steps:
  - { id: a, plugin: pay, phase: order }
  - { id: b, plugin: pay, phase: order }
  - { id: c, plugin: pay, phase: order }
outputs:
  b.json: { from: "${{ steps.b.output }}" }
"#;
    let (shop, engine, run) = Shop::in_doubt(body, 3).await;

    let first = resolve(&engine, run, "b", done("1")).await.unwrap();
    assert_eq!(first.outcome, Some(RunOutcome::Failed));
    assert_eq!(of(&first, StepOutcome::Success), ["b"]);
    assert_eq!(of(&first, StepOutcome::Unknown), ["a", "c"]);
    let second = resolve(&engine, first.id, "c", done("2")).await.unwrap();
    assert_eq!(of(&second, StepOutcome::Unknown), ["a"]);
    let third = resolve(&engine, second.id, "a", done("3")).await.unwrap();

    assert_eq!(third.outcome, Some(RunOutcome::Success));
    assert_eq!(output(&third, "b.json"), "1");
    assert_eq!(shop.paid(), 3, "nothing was done again");
}

#[tokio::test]
async fn only_what_is_in_doubt_can_be_decided_and_only_by_a_name() {
    let (_shop, engine, run) = Shop::in_doubt(ONE, 1).await;
    let class = async |run, step, by| {
        let refused = engine.resolve(run, step, Resolution::NotDone, by).await;
        refused.unwrap_err().class()
    };
    assert_eq!(class(run, "before", "ada").await, ErrorClass::Conflict);
    assert_eq!(class(run, "tell", "ada").await, ErrorClass::Conflict);
    assert_eq!(class(run, "ordre", "ada").await, ErrorClass::NotFound);
    assert_eq!(class(run, "order", "").await, ErrorClass::Invalid);
    assert_eq!(class(run, "order", "a\nb").await, ErrorClass::Invalid);
    let nobody = RunId::from_parts(1, 1);
    assert_eq!(class(nobody, "order", "ada").await, ErrorClass::NotFound);
    let request = RunRequest::new(pipeline(ONE));
    let open = engine.submit(request).await.unwrap();
    assert_eq!(class(open.id(), "order", "ada").await, ErrorClass::Conflict);
    engine.cancel(open.id(), "enough").await.unwrap();
    within(open.wait()).await.unwrap();
}

/// A retry that names no step is no word about one in doubt.
#[tokio::test]
async fn a_retry_repeats_a_step_in_doubt_only_when_it_is_named() {
    let (shop, engine, run) = Shop::in_doubt(ONE, 1).await;
    for from in [None, Some("tell")] {
        let refused = engine.retry(run, from).await.unwrap_err();
        assert!(matches!(refused, EngineError::InDoubt { .. }), "{refused}");
    }
    for (from, paid) in [("order", 2), ("before", 3)] {
        let handle = engine.retry(run, Some(from)).await.unwrap();
        let called = async {
            while shop.paid() < paid {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(called).await;
        engine.cancel(handle.id(), "enough").await.unwrap();
        within(handle.wait()).await.unwrap();
    }
}

/// Whoever drives the run when it is cancelled, or whether anybody does: what it
/// was about to do may have happened.
#[tokio::test]
async fn a_step_in_flight_when_its_run_is_cancelled_is_in_doubt() {
    for is_driven in [true, false] {
        let (shop, engine, run) = Shop::ordered(ONE, 1).await;
        let engine = match is_driven {
            true => engine,
            false => {
                within(engine.drain(Duration::ZERO)).await.unwrap();
                shop.open().await
            }
        };
        engine.cancel(run, "enough").await.unwrap();
        within(engine.history().wait(run)).await.unwrap();

        let refused = engine.retry(run, None).await.unwrap_err();
        assert!(matches!(refused, EngineError::InDoubt { .. }), "{refused}");
        let report = engine.history().report(run).await.unwrap();
        let reason = report.steps[1].reason.as_deref().unwrap();
        assert!(reason.contains("unknown"), "{reason}");
        let report = resolve(&engine, run, "order", done("1")).await.unwrap();
        assert_eq!(report.outcome, Some(RunOutcome::Success));
        assert_eq!(shop.paid(), 1, "nothing twice");
    }
}

/// A step that got no answer is not one that did nothing.
#[tokio::test]
async fn a_step_that_timed_out_is_in_doubt() {
    let body = r#"
steps:
  - { id: order, plugin: pay, phase: order, timeout: 100ms }
  - { id: other, plugin: pay, phase: order, timeout: 100ms }
"#;
    let (shop, engine, run) = Shop::ordered(body, 2).await;
    let report = within(engine.history().wait(run)).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Failed));

    let refused = engine.retry(run, None).await.unwrap_err();
    assert!(matches!(refused, EngineError::InDoubt { .. }), "{refused}");
    let first = resolve(&engine, run, "order", done("1")).await.unwrap();
    assert_eq!(of(&first, StepOutcome::Unknown), ["other"]);
    let second = resolve(&engine, first.id, "other", done("1"))
        .await
        .unwrap();
    assert_eq!(second.outcome, Some(RunOutcome::Success));
    assert_eq!(shop.paid(), 2, "nothing twice");
}
