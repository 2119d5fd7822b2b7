//! What comes with a request, and must not become a plugin's fault or a
//! history that nobody can read.

use orchestrator_contract::RunOutcome;
use orchestrator_engine::{Engine, ErrorClass, RunRequest, journal::RunFilter};

use serde_json::json;

use crate::support::{Rig, pipeline, run_with, within};

const BODY: &str = "steps:\n  - { id: a, plugin: echo, phase: say }\n";

fn request() -> RunRequest {
    RunRequest::new(pipeline(BODY))
}

async fn refused(engine: &Engine, request: RunRequest, what: &str) {
    let error = engine.submit(request).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
    let text = error.to_string();
    assert!(text.contains(what) && text.len() < 200, "{text}");
    assert!(!text.contains(char::is_control), "{text}");
}

#[tokio::test]
async fn a_text_of_a_request_is_short_and_plain() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let unfit = ["", "a\0b", "a\nb", "a\u{85}b", &"x".repeat(256)];
    for text in unfit.iter().copied().chain([&*"x".repeat(200_000)]) {
        refused(&engine, request().tenant(text), "tenant").await;
        refused(&engine, request().idempotency_key(text), "idempotency key").await;
    }
    let none = engine.history().list(RunFilter::default()).await.unwrap();
    assert!(none.is_empty(), "nothing was written");

    for text in ["Ümläut & Söhne", &"x".repeat(255)] {
        let request = request().tenant(text).idempotency_key(text);
        let report = run_with(&engine, request).await;
        assert_eq!(report.outcome, Some(RunOutcome::Success));
    }
}

/// A reason that the journal cannot hold would leave the run open for ever.
#[tokio::test]
async fn the_reason_of_a_cancel_is_bounded() {
    let rig = Rig::new();
    let (engine, other) = (rig.start().await, rig.start().await);
    let body = "steps:\n  - { id: wait, plugin: hangs, phase: now }\n";
    let request = RunRequest::new(pipeline(body));
    let handle = engine.submit(request).await.unwrap();
    let run = handle.id();
    for unfit in ["", "a\0b", &"x".repeat(4_097), &"x".repeat(600_000)] {
        for engine in [&engine, &other] {
            let error = engine.cancel(run, unfit).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
        }
        let error = other.history().request_cancel(run, unfit).await;
        assert_eq!(error.unwrap_err().class(), ErrorClass::Invalid);
    }
    assert_eq!(engine.runs_in_flight(), 1);

    engine.cancel(run, &"x".repeat(4_096)).await.unwrap();

    let report = within(handle.wait()).await.unwrap();
    assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
}

#[tokio::test]
async fn a_step_that_does_not_exist_is_named_in_few_words() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let report = run_with(&engine, request()).await;
    for unfit in ["a\0b", &"x".repeat(200_000)] {
        let error = engine.retry(report.id, Some(unfit)).await.unwrap_err();
        assert!(error.to_string().len() < 200);
        assert!(!error.to_string().contains(char::is_control));
    }
}

/// A key is for one request, and not for whatever comes later.
#[tokio::test]
async fn a_key_of_another_request_is_refused() {
    let rig = Rig::new();
    let engine = rig.start().await;
    let with_key = |body: &str, input: serde_json::Value| {
        let request = RunRequest::new(pipeline(body)).input(input);
        request.idempotency_key("order-17")
    };
    let large = json!({ "text": "x".repeat(300_000) });
    for (key, input) in [("small", json!({ "a": 1 })), ("large", large)] {
        let ask = async |body: &str, input| {
            let request = with_key(body, input).tenant(key);
            engine.submit(request).await
        };
        let first = ask(BODY, input.clone()).await.unwrap();
        let same = ask(BODY, input.clone()).await.unwrap();
        assert_eq!((same.id(), same.is_new()), (first.id(), false));
        let other = BODY.replace("id: a", "id: b");
        for refused in [ask(BODY, json!({ "a": 2 })).await, ask(&other, input).await] {
            let error = refused.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Conflict, "{error}");
            assert!(error.to_string().contains(&first.id().to_string()));
        }
        within(first.wait()).await.unwrap();
    }
}
