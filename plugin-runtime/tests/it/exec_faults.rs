//! Calls and plugins of kind `exec` that break the rules.

use orchestrator_contract::{ContentType, ErrorKind, Fault, PhaseCall};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::timeout;
use tower::Service as _;

use crate::support::{Home, PATIENCE, handle, output, phase_call, signal_the_keeper, status};

type Change<'a> = &'a dyn Fn(&mut PhaseCall);

/// What a caller puts into a call and no process can be given is the caller's fault:
/// no breaker may count it, since others would not be served any more.
#[tokio::test]
async fn a_call_that_no_process_can_be_given_is_its_callers_fault() {
    let home = Home::new();
    let id = home.id("env");
    home.shell(&id, &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let call = |change: Change<'_>| {
        let mut call = phase_call(&id, "run", json!(1));
        change(&mut call);
        timeout(PATIENCE, plugin.clone().call(call))
    };
    let faults: [(Change<'_>, &str); 4] = [
        (
            &|call| call.tenant = Some("s3\0cret".into()),
            "ORCHESTRATOR_TENANT",
        ),
        (
            &|call| call.tenant = Some("s3cret".repeat(50_000).into()),
            "ORCHESTRATOR_TENANT has 300000 bytes",
        ),
        (
            &|call| call.idempotency_key = "s3cret".repeat(50_000).into(),
            "ORCHESTRATOR_IDEMPOTENCY_KEY has 300000 bytes",
        ),
        (
            &|call| call.input.content_type = ContentType::new("text/s3\0cret"),
            "ORCHESTRATOR_CONTENT_TYPE",
        ),
    ];
    for (change, named) in faults {
        let error = call(change).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(error.fault(), Fault::Caller);
        let shown = error.to_string();
        assert!(shown.contains(named) && !shown.contains("cret"), "{shown}");
    }
    assert_eq!(output(&plugin, "run", json!(1)).await, json!(1));
    assert_eq!(status(&runtime, &id).restarts, 0);
}

/// Every wait for the parent of the plugins' processes has an end, and what stops it once
/// is not noticed.
#[tokio::test]
async fn a_call_outlives_a_stop_of_the_keeper() {
    let home = Home::new();
    let id = home.id("stops");
    home.shell(&id, &["run"], "run) kill -STOP $PPID 2>/dev/null; echo 1;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for _ in 0..3 {
        assert_eq!(output(&plugin, "run", json!(1)).await, json!(1));
        // Where the plugin may not, somebody else may.
        signal_the_keeper(Signal::STOP);
        assert_eq!(output(&plugin, "run", json!(1)).await, json!(1));
    }
}
