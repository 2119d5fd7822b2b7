//! An engine that goes on where another one stopped.

use std::time::Duration;

use orchestrator_contract::{RunOutcome, StepOutcome};
use orchestrator_engine::{RunRequest, journal::RunStatus};

use crate::support::{Rig, pipeline, within};

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
    let resumed = within(engine.resume(None)).await.unwrap();

    assert_eq!(resumed.len(), 1);
    let report = within(resumed.into_iter().next().unwrap().wait())
        .await
        .unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    assert_eq!(report.steps[1].outcome, Some(StepOutcome::Unknown));
    let reason = report.steps[1].reason.as_deref().unwrap();
    let how = format!("`orchestrator run retry {run} --from wait`");
    assert!(reason.contains(&how), "{reason}");
    assert_eq!(report.resumed, 1);
    assert_eq!(
        rig.counted(),
        1,
        "a step that has a result is not run again"
    );
    let summary = engine.history().summary(run).await.unwrap();
    assert_eq!(summary.status, RunStatus::Finished(RunOutcome::Failed));
    assert!(
        within(engine.resume(Some(run))).await.is_err(),
        "it has ended"
    );
}

/// Two engines on one home: each leaves the other's runs alone, and a cancel
/// reaches the one that drives the run.
#[tokio::test]
async fn a_live_engines_runs_are_its_own() {
    let rig = Rig::new();
    let (one, two) = (rig.start().await, rig.start().await);
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = one.submit(RunRequest::new(pipeline(body))).await.unwrap();

    assert!(within(two.resume(None)).await.unwrap().is_empty());
    assert!(within(two.resume(Some(handle.id()))).await.is_err());
    two.cancel(handle.id(), "from next door").await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
}
