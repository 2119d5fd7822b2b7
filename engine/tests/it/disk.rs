//! A file system that takes no more, and then does again. It is a real one: a
//! process of its own limits the size of its files.
#![expect(
    clippy::disallowed_types,
    reason = "the process is this test itself, and it owns no plugin"
)]

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use orchestrator_contract::RunOutcome;
use orchestrator_engine::{Engine, EngineError, ErrorClass, RunRequest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::{Rig, pipeline, run_with, within};

const CHILD: &str = "ORCHESTRATOR_TEST_DISK";

#[test]
fn an_engine_survives_a_disk_that_takes_no_more_for_a_while() {
    let program = env::current_exe().unwrap();
    // Without this the kernel ends the process at its first write too far.
    let child = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(program)
        .args(["disk::limited", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        child.status.success() && text(&child.stdout).contains("1 passed"),
        "{}\n{}",
        text(&child.stdout),
        text(&child.stderr)
    );
}

/// The files of this process grow to `bytes` and no further.
fn limit_files(bytes: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    let limit = Rlimit {
        current: bytes.or(maximum),
        maximum,
    };
    setrlimit(Resource::Fsize, limit).unwrap();
}

/// A run that writes `text` down twice.
fn large(text: &str) -> RunRequest {
    let body = r#"
input: { text: { type: string } }
steps:
  - { id: page, plugin: echo, phase: say, input: "${{ input }}" }
"#;
    RunRequest::new(pipeline(body)).input(json!({ "text": text }))
}

/// Runs until there is no room; the error of the last run.
async fn fill(engine: &Engine) -> EngineError {
    let text = "x".repeat(50_000);
    for _ in 0..200 {
        if let Err(error) = within(engine.run(large(&text))).await {
            return error;
        }
    }
    panic!("there is room without end");
}

/// Not a test by itself: it limits what its process can write.
#[tokio::test]
#[ignore = "started by the test above"]
async fn limited() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let rig = Rig::new();
    let engine = rig.start().await;
    let journal: PathBuf = rig.home.path().join("journal");
    let ran = run_with(&engine, large("x")).await;
    assert_eq!(ran.outcome, Some(RunOutcome::Success));
    assert_eq!(engine.health(), Ok(()));

    let log = fs::metadata(journal.join("journal.db-wal")).unwrap().len();
    limit_files(Some(log + 300_000));
    let error = fill(&engine).await;

    assert_eq!(error.class(), ErrorClass::Busy, "{error}");
    let reason = engine.health().unwrap_err();
    for text in [error.to_string(), reason] {
        for part in [journal.to_str().unwrap(), "File too large (os error 27)"] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert!(!engine.is_writable());
    // It is tried again meanwhile, and stays as it is.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(engine.health().unwrap_err().contains("since"));

    limit_files(None);
    // Nobody asks for anything.
    let recovers = async {
        while engine.health().is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(recovers).await;

    let ran = run_with(&engine, large("x")).await;
    assert_eq!(ran.outcome, Some(RunOutcome::Success));
    // Also what was left open goes on, and nothing is damaged.
    for run in engine.history().list(Default::default()).await.unwrap() {
        let report = within(engine.history().wait(run.run)).await.unwrap();
        assert_eq!(report.outcome, Some(RunOutcome::Success));
    }
}
