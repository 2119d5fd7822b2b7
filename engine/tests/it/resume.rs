//! An engine that goes on where another one stopped.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use orchestrator_contract::{NoEvents, RunId, RunOutcome, StepOutcome};
use orchestrator_engine::{
    Builtin, Engine, EngineError, RunHistory, RunRequest,
    config::Config,
    journal::{Journal, RecordBody, RunStatus, SqliteJournal},
};
use orchestrator_manifest::Manifest;
use serde_json::json;

use crate::support::{Hangs, Rig, in_flight, pipeline, within};

/// `once` has no declared effect, so it may have happened and nobody knows:
/// the run fails and says so instead of doing it twice.
#[tokio::test]
async fn what_may_happen_once_is_unknown_after_a_crash() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = r#"
steps:
  - { id: count, plugin: counted, phase: count }
  - { id: wait, plugin: hangs, phase: now, needs: [count] }
"#;
    let handle = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();
    let run = handle.id();
    let started = async {
        while engine.history().report(run).await.unwrap().steps[1].attempts == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(started).await;
    within(engine.drain(Duration::ZERO)).await.unwrap();
    drop((engine, handle));

    let engine = rig.start().await;
    let resumed = within(engine.resume_all()).await.unwrap();

    assert_eq!((resumed.handles.len(), resumed.failed.len()), (1, 0));
    let report = within(resumed.handles.into_iter().next().unwrap().wait())
        .await
        .unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    assert_eq!(report.steps[1].outcome, Some(StepOutcome::Unknown));
    assert_eq!(report.resumed, 1);
    assert_eq!(
        rig.counted(),
        1,
        "a step that has a result is not run again"
    );
    let summary = engine.history().summary(run).await.unwrap();
    assert_eq!(summary.status, RunStatus::Finished(RunOutcome::Failed));
    assert!(within(engine.resume(run)).await.is_err(), "it has ended");
}

/// Two engines on one home: each leaves the other's runs alone, and a cancel
/// reaches the one that drives the run.
#[tokio::test]
async fn a_live_engines_runs_are_its_own() {
    let rig = Rig::new();
    let (one, two) = (rig.start().await, rig.start().await);
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = one.submit(RunRequest::new(pipeline(body))).await.unwrap();

    let none = within(two.resume_all()).await.unwrap();
    assert!(none.handles.is_empty() && none.failed.is_empty());
    assert!(within(two.resume(handle.id())).await.is_err());
    two.cancel(handle.id(), "from next door").await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
}

/// A plugin whose calls hang, in one of its forms.
fn changing(description: &str) -> Builtin {
    let manifest = json!({
        "id": "changing",
        "version": "1.0.0",
        "description": description,
        "kind": "builtin",
        "entry_point": "changing",
        "phases": [{ "name": "now", "effect": "pure" }],
    });
    Builtin::new(Manifest::from_value(&manifest, "changing").unwrap(), Hangs)
}

async fn start(rig: &Rig, description: &str, change: impl FnOnce(&mut Config)) -> Engine {
    let builder = rig.builder(change).builtin(changing(description));
    builder.start().await.unwrap()
}

const CHANGING: &str = "steps:\n  - { id: wait, plugin: changing, phase: now }\n";
const HANGS: &str = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";

async fn submitted(engine: &Engine, body: &str) -> RunId {
    let request = RunRequest::new(pipeline(body));
    engine.submit(request).await.unwrap().id()
}

/// The reasons that the journal has for the run's end.
async fn reasons(history: &RunHistory, run: RunId) -> Vec<String> {
    let records = history.records(run, 0).await.unwrap();
    let reason = |body| match body {
        RecordBody::CancelRequested { reason } => Some(reason),
        _ => None,
    };
    let bodies = records.into_iter().map(|record| record.body);
    bodies.filter_map(reason).collect()
}

async fn assert_cancelled(history: &RunHistory, run: RunId, reason: &str) {
    let report = history.report(run).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    assert_eq!(report.steps[0].outcome, Some(StepOutcome::Cancelled));
    assert_eq!(reasons(history, run).await, [reason]);
}

/// Nobody can go on with the run, so whoever wants its end gets it at once.
#[tokio::test]
async fn a_run_whose_plugin_changed_can_be_cancelled() {
    let rig = Rig::new();
    let engine = start(&rig, "One.", |_| ()).await;
    let runs = [
        submitted(&engine, CHANGING).await,
        submitted(&engine, CHANGING).await,
    ];
    for run in runs {
        in_flight(&engine, run).await;
    }
    within(engine.drain(Duration::ZERO)).await.unwrap();

    let engine = start(&rig, "Another.", |_| ()).await;
    let resumed = within(engine.resume_all()).await.unwrap();
    assert!(resumed.handles.is_empty());
    for (failed, run) in resumed.failed.iter().zip(runs) {
        assert_eq!(failed.0, run);
        let changed = matches!(&failed.1, EngineError::PluginChanged { .. });
        assert!(changed, "{:?}", failed.1);
    }
    assert_eq!(resumed.failed.len(), 2);

    engine.cancel(runs[0], "enough").await.unwrap();

    assert_cancelled(engine.history(), runs[0], "enough").await;
    assert!(
        engine.cancel(runs[0], "again").await.is_err(),
        "it has ended"
    );
    let page = engine.telemetry().render();
    let counted = r#"orchestrator_runs_total{pipeline="test",outcome="cancelled"} 1"#;
    assert!(page.contains(counted), "{page}");
    let in_flight = r#"orchestrator_runs_in_flight{pipeline="test"} 0"#;
    assert!(page.contains(in_flight), "{page}");

    // No engine, and so no plugin, is needed for that.
    let settings = Config::defaults().unwrap().journal;
    let home = orchestrator_engine::Home::at(rig.home.path()).unwrap();
    let history = RunHistory::open(&home, &settings).await.unwrap();
    history.request_cancel(runs[1], "enough").await.unwrap();
    assert_cancelled(&history, runs[1], "enough").await;
}

/// The engine that was asked died before it looked.
#[tokio::test]
async fn a_cancel_that_nobody_saw_ends_a_run_that_cannot_go_on() {
    let rig = Rig::new();
    let never = Duration::from_secs(3_600);
    let engine = start(&rig, "One.", |config| config.journal.cancel_poll = never).await;
    let run = submitted(&engine, CHANGING).await;
    in_flight(&engine, run).await;
    // The first look is at once; this comes after it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = start(&rig, "Another.", |_| ()).await;
    other.cancel(run, "enough").await.unwrap();
    within(engine.drain(Duration::ZERO)).await.unwrap();
    assert_eq!(other.history().report(run).await.unwrap().outcome, None);

    let resumed = within(other.resume_all()).await.unwrap();

    assert!(resumed.failed.is_empty(), "{:?}", resumed.failed);
    let handle = resumed.handles.into_iter().next().unwrap();
    let report = within(handle.wait()).await.unwrap();
    assert_eq!(
        (report.id, report.outcome),
        (run, Some(RunOutcome::Cancelled))
    );
    assert_cancelled(other.history(), run, "enough").await;
}

/// One run that cannot go on keeps no other from it, and nor does a lack of
/// room pass in silence.
#[tokio::test]
async fn what_is_not_resumed_is_told_run_by_run() {
    let rig = Rig::new();
    let engine = start(&rig, "One.", |_| ()).await;
    let changing = submitted(&engine, CHANGING).await;
    let others = [
        submitted(&engine, HANGS).await,
        submitted(&engine, HANGS).await,
    ];
    within(engine.drain(Duration::ZERO)).await.unwrap();

    let one = NonZeroUsize::MIN;
    let engine = start(&rig, "Another.", |config| config.run.in_flight_max = one).await;
    let resumed = within(engine.resume_all()).await.unwrap();

    let went_on: Vec<_> = resumed.handles.iter().map(|handle| handle.id()).collect();
    assert_eq!(went_on, others[..1]);
    let failed: Vec<_> = resumed.failed.iter().map(|(run, _)| *run).collect();
    assert_eq!(failed, [changing, others[1]]);
    let busy = &resumed.failed[1].1;
    assert!(matches!(busy, EngineError::Busy { limit: 1 }), "{busy:?}");
}

/// The engine died between the request and the end that it asks for.
#[tokio::test]
async fn a_cancel_that_was_written_down_outlives_its_engine() {
    let rig = Rig::new();
    let engine = start(&rig, "One.", |_| ()).await;
    let run = submitted(&engine, CHANGING).await;
    in_flight(&engine, run).await;
    within(engine.drain(Duration::ZERO)).await.unwrap();
    let settings = Config::defaults().unwrap().journal;
    let dir = rig.home.path().join("journal");
    let journal = SqliteJournal::open(dir, settings, Arc::new(NoEvents));
    let journal = journal.await.unwrap();
    let taken = journal.take_over(run).await.unwrap();
    let reason = "enough".to_owned();
    let request = vec![RecordBody::CancelRequested { reason }.into()];
    let written = journal.append(run, taken.seq, taken.epoch, request).await;
    written.unwrap();
    journal.close().await;

    let engine = start(&rig, "One.", |_| ()).await;
    let handle = within(engine.resume(run)).await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
}
