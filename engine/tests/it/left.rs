//! Runs whose driver fails inside an engine that lives on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{Event, EventSink, RunOutcome};
use orchestrator_engine::{
    EngineError, ErrorClass, RunRequest,
    journal::{RunFilter, RunStatus},
};
use serde_json::json;

use crate::support::{Rig, pipeline, run_with, within};

const IN_FLIGHT: &str = r#"orchestrator_runs_in_flight{pipeline="test"}"#;

fn left(event: &Event) -> bool {
    matches!(event, Event::RunLeft { .. })
}

fn large(text: &str) -> RunRequest {
    let body = r#"
input: { text: { type: string } }
steps:
  - { id: page, plugin: template, phase: render, input: { template: "{{ text }}{{ text }}{{ text }}", data: "${{ input }}" } }
"#;
    RunRequest::new(pipeline(body)).input(json!({ "text": text }))
}

/// The journal is full when the step's result is to be written, and has room
/// again a moment later.
#[tokio::test]
async fn a_run_goes_on_when_the_journal_takes_records_again() {
    let rig = Rig::new();
    let engine = rig
        .start_with(|config| {
            config.journal.database_bytes_max = 700_000;
            // Everything goes into the database.
            config.journal.inline_bytes_max = 1 << 20;
        })
        .await;
    let text = "x".repeat(90_000);
    let first = run_with(&engine, large(&text)).await;
    assert_eq!(first.outcome, Some(RunOutcome::Success));

    let second = engine.submit(large(&text)).await.unwrap();
    let id = second.id();
    let error = within(second.wait()).await.unwrap_err();
    assert!(matches!(error, EngineError::Journal(_)), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Busy);
    let journal = rig.home.path().join("journal").display().to_string();
    let reason = engine.health().unwrap_err();
    for text in [error.to_string(), reason] {
        assert!(text.contains(&journal), "{text}");
        assert!(text.contains("full"), "{text}");
    }
    assert_eq!((rig.told.count(left), engine.runs_in_flight()), (1, 0));
    let page = engine.telemetry().render();
    assert!(page.contains(&format!("{IN_FLIGHT} 0\n")), "{page}");
    engine.history().delete(first.id).await.unwrap();

    let report = within(engine.history().wait(id)).await.unwrap();

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(report.resumed, 1);
    assert_eq!((rig.told.count(left), engine.runs_in_flight()), (1, 0));
    assert_eq!(engine.health(), Ok(()), "that passes");
    let page = engine.telemetry().render();
    assert!(page.contains(&format!("{IN_FLIGHT} 0\n")), "{page}");
}

/// Breaks its promise, once.
struct Faulty(AtomicBool);

impl EventSink for Faulty {
    fn emit(&self, event: Event) {
        if matches!(event, Event::StepFinished { .. }) && !self.0.swap(true, Ordering::Relaxed) {
            panic!("scripted");
        }
    }
}

/// A panic in the driver itself ends neither the engine nor the run.
#[tokio::test]
async fn a_run_goes_on_after_its_driver_panicked() {
    let rig = Rig::new();
    let faulty = Arc::new(Faulty(AtomicBool::new(false)));
    let engine = rig.builder(|_| ()).sink(faulty).start().await.unwrap();
    let handle = engine.submit(large("x")).await.unwrap();
    let id = handle.id();

    let error = within(handle.wait()).await.unwrap_err();
    assert!(matches!(error, EngineError::Interrupted { .. }), "{error}");
    let panicked = |event: &Event| matches!(event, Event::RunLeft { reason, .. } if reason.contains("scripted"));
    assert_eq!(rig.told.count(panicked), 1);
    let report = within(engine.history().wait(id)).await.unwrap();

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(report.resumed, 1);
}

/// Nobody waits for ever for a run that its engine cannot go on with.
#[tokio::test]
async fn a_wait_ends_for_a_run_that_stays_left() {
    let rig = Rig::new();
    let faulty = Arc::new(Faulty(AtomicBool::new(false)));
    let engine = rig.builder(|_| ()).sink(faulty).start().await.unwrap();
    let handle = engine.submit(large("x")).await.unwrap();
    let id = handle.id();
    within(handle.wait()).await.unwrap_err();
    let database = rig.home.path().join("journal/journal.db");
    let database = rusqlite::Connection::open(database).unwrap();
    let sql = "UPDATE events SET at = at + 1 WHERE seq = 1";
    assert_eq!(database.execute(sql, []).unwrap(), 1);

    let error = within(engine.history().wait(id)).await.unwrap_err();
    assert!(matches!(error, EngineError::Interrupted { .. }), "{error}");
}

/// Whoever asks to resume a run that is being driven must not end its driver.
#[tokio::test]
async fn a_run_in_flight_is_not_resumed_again() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();

    let refused = engine.resume(handle.id()).await.unwrap_err();
    assert!(matches!(refused, EngineError::AlreadyDriven { .. }));
    tokio::time::sleep(Duration::from_millis(50)).await;
    engine.cancel(handle.id(), "enough").await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    assert_eq!(report.resumed, 0);
    assert_eq!(rig.told.count(left), 0);
}

/// An engine that is stopped leaves its runs, and says so.
#[tokio::test]
async fn a_run_that_a_drain_leaves_open_is_no_longer_in_flight() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();
    within(engine.drain(Duration::ZERO)).await.unwrap();

    let run = handle.id();
    assert!(within(handle.wait()).await.is_err());
    let error = within(engine.history().wait(run)).await.unwrap_err();
    assert!(matches!(error, EngineError::Interrupted { .. }), "{error}");
    assert_eq!(rig.told.count(left), 1);
    let page = engine.telemetry().render();
    assert!(page.contains(&format!("{IN_FLIGHT} 0\n")), "{page}");
}

/// Whoever starts next need not wait until the drained engine is gone too.
#[tokio::test]
async fn a_drained_engine_lets_go_of_its_runs() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let request = RunRequest::new(pipeline(body));
    let run = engine.submit(request).await.unwrap().id();
    within(engine.drain(Duration::ZERO)).await.unwrap();

    let next = rig.start().await;
    let handle = next.resume(run).await.unwrap();
    next.cancel(run, "enough").await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    let seen = engine.history().report(run).await.unwrap();
    assert_eq!(seen.outcome, report.outcome, "it can still be asked");
}

/// Who asks for a run and leaves before the answer may find it in the journal,
/// and then it is driven to its end.
#[tokio::test]
async fn a_run_that_was_asked_for_and_not_waited_for_is_driven() {
    let rig = Rig::new();
    let engine = rig.start().await;
    for step in 0..40 {
        let patience = Duration::from_micros(step * 100);
        drop(tokio::time::timeout(patience, engine.submit(large("x"))).await);
    }
    let all_ended = async {
        loop {
            let runs = engine.history().list(RunFilter::default()).await.unwrap();
            if runs.iter().all(|run| run.status != RunStatus::Running) {
                return runs.len();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(within(all_ended).await > 0);
}
