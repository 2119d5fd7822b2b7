//! What plugins answer, and the journal cannot hold.

use std::{collections::BTreeMap, sync::Arc};

use orchestrator_contract::{
    CallError, ErrorKind, Payload, PhaseCall, PhaseReply, RunOutcome, StepOutcome,
};
use orchestrator_engine::{Builtin, CallContext, Plugin, RunRequest};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::json;

use crate::support::{Rig, pipeline, run_with};

/// Answers with as much as it is asked for.
struct Lavish;

impl Plugin for Lavish {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        let asked: BTreeMap<String, usize> = serde_json::from_slice(&call.input.bytes).unwrap();
        let text = |name: &str| "x".repeat(asked.get(name).copied().unwrap_or_default());
        let answer = match text("error") {
            error if !error.is_empty() => Err(CallError::permanent(error)),
            _ => Ok(PhaseReply {
                metadata: BTreeMap::from([("note".to_owned(), text("metadata"))]),
                ..PhaseReply::new(Payload::text(text("output")))
            }),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn lavish() -> Builtin {
    let manifest = json!({
        "id": "lavish",
        "version": "1.0.0",
        "description": "Scripted.",
        "kind": "builtin",
        "entry_point": "lavish",
        "phases": [{ "name": "give", "effect": "at_most_once" }],
    });
    Builtin::new(Manifest::from_value(&manifest, "lavish").unwrap(), Lavish)
}

/// The step fails; the run does not stay open because of it.
#[tokio::test]
async fn an_answer_that_is_too_large_fails_its_step() {
    let rig = Rig::new();
    let builder = rig.builder(|config| config.journal.payload_bytes_max = 1 << 20);
    let engine = builder.builtin(lavish()).start().await.unwrap();
    for asked in ["output: 1048577", "metadata: 600000", "error: 600000"] {
        let body = format!(
            r#"
steps:
  - {{ id: much, plugin: lavish, phase: give, input: {{ {asked} }}, required: false }}
  - {{ id: small, plugin: lavish, phase: give, input: {{ output: 3 }} }}
"#
        );
        let report = run_with(&engine, RunRequest::new(pipeline(&body))).await;

        assert_eq!(report.outcome, Some(RunOutcome::Degraded), "{asked}");
        assert_eq!(report.resumed, 0);
        let [much, small] = &report.steps[..] else {
            panic!("{report:?}")
        };
        let error = much.error.as_ref().unwrap();
        assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{asked}: {error}");
        assert!(error.to_string().len() < 300);
        assert_eq!(small.outcome, Some(StepOutcome::Success));
    }
}

/// Each is small enough, together they are more than one transaction takes.
#[tokio::test]
async fn answers_that_are_large_together_are_written_all_the_same() {
    let rig = Rig::new();
    let builder = rig.builder(|config| {
        config.run.concurrency = 64.try_into().unwrap();
        config.journal.group_bytes_max = 1 << 20;
    });
    let engine = builder.builtin(lavish()).start().await.unwrap();
    let mut body = "steps:\n".to_owned();
    for step in 0..64 {
        body += &format!(
            "  - {{ id: s{step}, plugin: lavish, phase: give, input: {{ output: 100000 }} }}\n"
        );
    }
    let report = run_with(&engine, RunRequest::new(pipeline(&body))).await;
    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(report.resumed, 0);

    // And taken over all together.
    let again = engine.retry(report.id, Some("s0")).await.unwrap();
    let again = again.wait().await.unwrap();
    assert_eq!(again.outcome, Some(RunOutcome::Success));
}
