//! Runs with large payloads, and expressions that are a lot of work.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{ErrorKind, RunOutcome, StepOutcome};
use orchestrator_engine::{EngineError, RunRequest};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Rig, pipeline, run_with, within};

const LARGE: &str = r#"
input: { text: { type: string } }
steps:
  - { id: one, plugin: template, phase: render, input: { template: "{{ text }}1", data: "${{ input }}" } }
  - { id: two, plugin: template, phase: render, input: { template: "{{ text }}2", data: "${{ input }}" } }
outputs:
  one.txt: { from: "${{ steps.one.output }}", primary: true, description: The first. }
  two.json: { from: { length: "${{ steps.two.output | length }}" } }
"#;

/// On one thread, so that whoever holds it stops everything else.
#[tokio::test]
async fn others_go_on_while_an_expression_is_a_lot_of_work() {
    let sorted = "${{ input.list | sort | length > 0 }}";
    for (when, from) in [(sorted, "x"), ("${{ true }}", sorted)] {
        let body = format!(
            r#"
input: {{ list: {{ type: array }} }}
steps:
  - {{ id: only, plugin: echo, phase: say, when: "{when}" }}
outputs:
  out.json: {{ from: "{from}" }}
"#
        );
        let rig = Rig::new();
        let engine = rig.start().await;
        let list: Vec<u32> = (0..250_000_u32).map(|n| n.reverse_bits()).collect();
        let request = RunRequest::new(pipeline(&body)).input(json!({ "list": list }));
        let handle = engine.submit(request).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let longest = tokio::spawn(longest_pause(Arc::clone(&over)));
        let started = Instant::now();
        let report = within(handle.wait()).await.unwrap();
        let took = started.elapsed();
        over.store(true, Ordering::Relaxed);
        let longest = longest.await.unwrap();

        assert_eq!(report.outcome, Some(RunOutcome::Success), "{report:?}");
        assert!(longest < took / 2, "{longest:?} of {took:?}");
    }
}

/// For how long a task that has next to nothing to do was not let do it.
async fn longest_pause(over: Arc<AtomicBool>) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    longest
}

/// Whoever asks what became of a run does not want its payloads.
#[tokio::test]
async fn a_run_is_told_of_without_reading_its_payloads() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let text = "x".repeat(300_000);
    let request = RunRequest::new(pipeline(LARGE)).input(json!({ "text": text }));
    let report = run_with(&engine, request).await;
    let history = engine.history();
    let one = history.output(report.id, "one.txt").await.unwrap().unwrap();
    assert_eq!(Some(&one), report.primary_output());
    assert_eq!(history.output(report.id, "three").await.unwrap(), None);
    let overview = history.overview(report.id).await.unwrap();
    let whole = history.report(report.id).await.unwrap();
    assert_eq!(
        serde_json::to_value(&overview).unwrap(),
        serde_json::to_value(&whole).unwrap()
    );
    assert_eq!(overview.outputs[0].payload.length, 300_001);

    let blobs = rig.home.path().join("journal/blobs");
    fs::rename(&blobs, rig.home.path().join("away")).unwrap();
    let again = history.overview(report.id).await.unwrap();
    assert_eq!(again.outputs, overview.outputs);
    assert_eq!(again.steps.len(), 2);
    let whole = history.report(report.id).await.unwrap_err();
    assert!(matches!(whole, EngineError::Journal(_)), "{whole}");
}

/// Of the results of other steps nothing is needed for it.
#[tokio::test]
async fn one_output_is_read_without_the_others() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let text = "x".repeat(300_000);
    let request = RunRequest::new(pipeline(LARGE)).input(json!({ "text": text }));
    let report = run_with(&engine, request).await;
    let one = report.primary_output().unwrap();
    let sizes = |folder: fs::DirEntry| {
        let files = fs::read_dir(folder.path()).into_iter().flatten();
        files.map(Result::unwrap).collect::<Vec<_>>()
    };
    let folders = fs::read_dir(rig.home.path().join("journal/blobs")).unwrap();
    let mut removed = 0;
    for file in folders.map(Result::unwrap).flat_map(sizes) {
        let bytes = fs::read(file.path()).unwrap();
        if bytes.ends_with(b"x2") {
            fs::remove_file(file.path()).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, 1);
    let history = engine.history();
    let found = history.output(report.id, "one.txt").await.unwrap();
    assert_eq!(found.as_ref(), Some(one));
    assert!(history.output(report.id, "two.json").await.is_err());
}

#[tokio::test]
async fn what_the_steps_of_a_run_give_is_bounded_altogether() {
    let rig = Rig::new();
    let engine = rig
        .start_with(|config| config.run.outputs_bytes_max = 500_000)
        .await;
    let text = "x".repeat(300_000);
    let request = RunRequest::new(pipeline(LARGE)).input(json!({ "text": text }));
    let report = run_with(&engine, request).await;

    assert_eq!(report.outcome, Some(RunOutcome::Failed));
    let mut outcomes: Vec<_> = report.steps.iter().map(|step| step.outcome).collect();
    outcomes.sort_by_key(|outcome| *outcome == Some(StepOutcome::Failed));
    let expected = [StepOutcome::Success, StepOutcome::Failed].map(Some);
    assert_eq!(outcomes, expected, "one has room");
    let failed = report.failed_step().unwrap().error.clone().unwrap();
    assert_eq!(failed.kind(), ErrorKind::ResourceLimit);
    assert!(failed.to_string().contains("run.outputs_bytes_max"));
}
