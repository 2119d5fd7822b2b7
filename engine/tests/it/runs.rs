//! Runs from their request to their report.

use std::time::Duration;

use orchestrator_contract::{ErrorKind, Event, RunOutcome, StepOutcome};
use orchestrator_engine::{EngineError, ErrorClass, RunRequest, journal::RunFilter};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Rig, output, pipeline, run, run_with, within};

#[tokio::test]
async fn outputs_flow_from_step_to_step() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run_with(
        &engine,
        RunRequest::new(pipeline(
            r#"
input:
  who: { type: string, default: world }
steps:
  - { id: page, plugin: template, phase: render, input: { template: "hello {{ name }}{{ tail }}", data: "${{ steps.name.output }}" } }
  - { id: name, plugin: echo, phase: say, input: { name: "${{ input.who }}", tail: "!" } }
outputs:
  page.txt: { from: "${{ steps.page.output }}", primary: true }
"#,
        ))
        .input(json!({ "who": "Ada" })),
    )
    .await;

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(report.primary_output().unwrap().name, "page.txt");
    assert_eq!(output(&report, "page.txt"), "hello Ada!");
    let steps: Vec<_> = report.steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(steps, ["name", "page"], "in the order they can run");
    assert!(report.steps.iter().all(|step| step.attempts == 1));
}

/// A required step that fails fails the run; what comes after is not run.
#[tokio::test]
async fn a_required_failure_ends_the_run() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run(
        &engine,
        r#"
steps:
  - { id: bad, plugin: fails, phase: now }
  - { id: after, plugin: counted, phase: count, needs: [bad] }
"#,
    )
    .await;

    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    let failed = report.failed_step().unwrap();
    assert_eq!(failed.step.as_str(), "bad");
    assert_eq!(
        failed.error.as_ref().unwrap().kind(),
        ErrorKind::PluginPermanent
    );
    assert_eq!(report.steps[1].outcome, None);
    assert_eq!(rig.counted(), 0);
    assert!(report.outputs.is_empty());
}

#[tokio::test]
async fn an_optional_failure_degrades_the_run() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run(
        &engine,
        r#"
steps:
  - { id: bad, plugin: fails, phase: now, required: false }
  - { id: after, plugin: echo, phase: say, input: { got: "${{ steps.bad.output }}" } }
outputs:
  got.json: { from: "${{ steps.after.output }}" }
"#,
    )
    .await;

    assert_eq!(report.outcome, Some(RunOutcome::Degraded));
    assert_eq!(output(&report, "got.json"), r#"{"got":null}"#);
}

#[tokio::test]
async fn a_false_condition_skips_a_step() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run(
        &engine,
        r#"
steps:
  - { id: list, plugin: echo, phase: say, input: { items: [] } }
  - { id: count, plugin: counted, phase: count, when: "${{ steps.list.output['items'] | length > 0 }}" }
"#,
    )
    .await;

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(report.steps[1].outcome, Some(StepOutcome::Skipped));
    assert!(report.steps[1].reason.is_some());
    assert_eq!(rig.counted(), 0);
}

/// A large output goes through the blob store and comes back as it was.
#[tokio::test]
async fn large_payloads_survive() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let text = "x".repeat(3 << 20);
    let body = r#"
input: { text: { type: string } }
steps:
  - { id: one, plugin: echo, phase: say, input: "${{ input }}" }
  - { id: two, plugin: echo, phase: say, input: "${{ steps.one.output }}" }
outputs:
  text.json: { from: "${{ steps.two.output }}" }
"#;
    let request = RunRequest::new(pipeline(body)).input(json!({ "text": text }));
    let report = run_with(&engine, request).await;

    assert_eq!(
        output(&report, "text.json").len(),
        text.len() + r#"{"text":""}"#.len()
    );
    let again = engine.history().report(report.id).await.unwrap();
    assert_eq!(output(&again, "text.json"), output(&report, "text.json"));
}

#[tokio::test]
async fn a_run_can_be_cancelled() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();
    let run = handle.id();
    assert_eq!(engine.runs_in_flight(), 1);

    engine.cancel(run, "enough").await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    assert_eq!(report.steps[0].outcome, Some(StepOutcome::Cancelled));
    assert!(engine.cancel(run, "again").await.is_err(), "it has ended");
    assert_eq!(engine.runs_in_flight(), 0);
}

/// The same key asks for the same run, also once it has ended.
#[tokio::test]
async fn a_repeated_request_gets_the_first_ones_run() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let request = || {
        let body = "steps:\n  - { id: count, plugin: counted, phase: count }\n";
        RunRequest::new(pipeline(body)).idempotency_key("once")
    };
    let first = engine.submit(request()).await.unwrap();
    assert!(first.is_new());
    let first = within(first.wait()).await.unwrap();

    let second = engine.submit(request()).await.unwrap();

    assert!(!second.is_new());
    assert_eq!(within(second.wait()).await.unwrap().id, first.id);
    assert_eq!(rig.counted(), 1);
    let other = engine.submit(request().tenant("other")).await.unwrap();
    assert!(other.is_new(), "keys are a tenant's own");
}

/// What succeeded is taken over, what failed runs again.
#[tokio::test]
async fn a_retry_repeats_only_what_did_not_succeed() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = r#"
steps:
  - { id: count, plugin: counted, phase: count, input: { a: 1 } }
  - { id: bad, plugin: fails, phase: now, input: "${{ steps.count.output }}" }
"#;
    let first = run(&engine, body).await;
    assert_eq!(rig.counted(), 1);

    let again = within(engine.retry(first.id, None).await.unwrap().wait())
        .await
        .unwrap();
    assert_eq!(rig.counted(), 1, "the step that succeeded was not repeated");
    assert_ne!(again.id, first.id);
    assert_eq!(again.steps[0].outcome, Some(StepOutcome::Success));

    let from = within(engine.retry(first.id, Some("count")).await.unwrap().wait())
        .await
        .unwrap();
    assert_eq!(rig.counted(), 2, "the named step runs again");
    assert_eq!(from.outcome, Some(RunOutcome::Failed));

    let unknown = engine.retry(first.id, Some("cuont")).await.unwrap_err();
    assert!(matches!(unknown, EngineError::UnknownStep { .. }));

    let body = "steps:\n  - { id: count, plugin: counted, phase: count }\n";
    let good = run(&engine, body).await;
    let nothing = engine.retry(good.id, None).await.unwrap_err();
    assert!(
        matches!(nothing, EngineError::NothingToRetry { .. }),
        "{nothing}"
    );
}

#[tokio::test]
async fn faults_of_a_pipeline_are_found_before_anything_runs() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = r#"
steps:
  - { id: one, plugin: ecko, phase: say }
  - { id: two, plugin: echo, phase: shout }
"#;
    let error = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap_err();

    assert_eq!(error.class(), ErrorClass::Invalid);
    let checked = engine.check(&pipeline(body)).unwrap_err();
    assert_eq!(checked.to_string(), error.to_string());
    let EngineError::Pipeline(errors) = error else {
        panic!("{error:?}")
    };
    let messages: Vec<_> = errors
        .faults
        .iter()
        .map(|fault| fault.to_string())
        .collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        engine
            .history()
            .list(RunFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_step_may_override_time_and_retries_only() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let with = |policy: &str| {
        let body = format!(
            "steps:\n  - {{ id: wait, plugin: hangs, phase: now, timeout: 50ms, policy: {policy} }}\n"
        );
        pipeline(&body)
    };
    let allowed = "{ retry: { max_attempts: 1, base_delay: 1ms, max_delay: 1ms }, deadline: {} }";
    engine.check(&with(allowed)).unwrap();
    let report = run_with(&engine, RunRequest::new(with(allowed))).await;
    assert_eq!(
        report.steps[0].error.as_ref().unwrap().kind(),
        ErrorKind::Timeout
    );

    for stray in [
        "{ breaker: { max_probes: 2 } }",
        "{ retry: { max_atempts: 2 } }",
        "{ retry: { budget: { reserve: 1000 } } }",
    ] {
        let error = engine
            .submit(RunRequest::new(with(stray)))
            .await
            .unwrap_err();
        assert!(matches!(error, EngineError::StepPolicy { .. }), "{error:?}");
        let checked = engine.check(&with(stray)).unwrap_err();
        assert_eq!(checked.to_string(), error.to_string());
    }
    let runs = engine.history().list(RunFilter::default()).await.unwrap();
    assert_eq!(runs.len(), 1, "a check runs nothing");
}

#[tokio::test]
async fn more_runs_than_agreed_are_refused() {
    let rig = Rig::new();
    let engine = rig
        .start_with(|config| config.run.in_flight_max = 1.try_into().unwrap())
        .await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let first = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();

    let second = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap_err();
    assert_eq!(second.class(), ErrorClass::Busy);

    engine.cancel(first.id(), "room").await.unwrap();
    within(first.wait()).await.unwrap();
    engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();
}

/// A run that does not end within the grace stays open for the next engine.
#[tokio::test]
async fn a_drain_waits_then_leaves_runs_open() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let handle = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap();

    let drained = within(engine.drain(Duration::from_millis(50)))
        .await
        .unwrap();

    assert_eq!((drained.finished, drained.left_open), (0, 1));
    assert!(matches!(
        within(handle.wait()).await,
        Err(EngineError::Interrupted { .. })
    ));
    let refused = engine
        .submit(RunRequest::new(pipeline(body)))
        .await
        .unwrap_err();
    assert!(matches!(refused, EngineError::Draining));
}

#[tokio::test]
async fn events_tell_a_run_from_start_to_end() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run(&engine, "steps:\n  - { id: a, plugin: echo, phase: say }\n").await;

    let of_run = |event: &Event| event.run() == Some(report.id);
    assert_eq!(rig.told.count(of_run), 4);
    let page = engine.telemetry().render();
    let executed = r#"orchestrator_plugin_phase_executions_total{plugin="echo",phase="say"} 1"#;
    assert!(page.contains(executed), "{page}");
    assert!(
        page.contains(r#"orchestrator_runs_total{pipeline="test",outcome="success"} 1"#),
        "{page}"
    );
}

/// The engine is a service, so that whole runs can have layers of their own.
#[tokio::test]
async fn the_engine_is_a_tower_service() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let request = RunRequest::new(pipeline(
        "steps:\n  - { id: a, plugin: echo, phase: say }\n",
    ));
    let report = within(engine.oneshot(request)).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Success));
}

/// A misspelt section is told of, and is no reason not to start.
#[tokio::test]
async fn sections_that_name_nothing_are_warned_about() {
    let rig = Rig::new();
    let plugin = |text: serde_json::Value| serde_json::from_value(text).unwrap();
    let disabled = || plugin(json!({ "disabled": true }));
    let engine = rig
        .start_with(|config| {
            config.plugins.insert("ecko".to_owned(), disabled());
            config.plugins.insert("fails".to_owned(), disabled());
            let phases = plugin(json!({ "phases": { "now": {}, "nwo": {} } }));
            config.plugins.insert("hangs".to_owned(), phases);
            let nobody = plugin(json!({ "policy": {} }));
            config.plugins.insert("zzz".to_owned(), nobody);
        })
        .await;

    assert_eq!(
        engine.warnings(),
        [
            "`[plugins.ecko]` names no plugin that was found, so nothing is disabled; \
             did you mean `echo`?",
            "`[plugins.hangs.phases.nwo]` names no phase that was found, so it has no effect; \
             did you mean `now`?",
            "`[plugins.zzz]` names no plugin that was found, so it has no effect",
        ]
    );
    let report = run(
        &engine,
        "steps:\n  - { id: a, plugin: fails, phase: now }\n",
    )
    .await;
    assert_eq!(report.outcome, Some(RunOutcome::Failed), "it is disabled");
    assert_ne!(
        report.steps[0].error.as_ref().unwrap().kind(),
        ErrorKind::PluginPermanent
    );
}
