//! Engines that nobody drains.
#![expect(
    clippy::disallowed_types,
    reason = "the process is this test itself, and it owns no plugin"
)]

use std::{env, process::Command, time::Duration};

use orchestrator_engine::RunRequest;

use crate::support::{Rig, pipeline};

const ROUNDS: &str = "ORCHESTRATOR_TEST_ROUNDS";

/// What is wrong is only told on standard error: a task that panics while its
/// runtime goes away takes nobody along.
#[test]
fn a_runtime_may_go_away_at_any_moment_after_a_start() {
    let child = Command::new(env::current_exe().unwrap())
        .args(["starts::dropped", "--exact", "--ignored", "--nocapture"])
        .env(ROUNDS, "60")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Not a test by itself: what it does wrong is told on its standard error.
#[test]
#[ignore = "started by the test above"]
fn dropped() {
    let Ok(rounds) = env::var(ROUNDS) else { return };
    for round in 0..rounds.parse().unwrap() {
        let mut builder = match round % 5 {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let workers = 1 + round % 4;
        let runtime = builder.worker_threads(workers).enable_all().build();
        let runtime = runtime.unwrap();
        let rig = Rig::new();
        let engine = runtime.block_on(rig.start());
        if round % 3 == 1 {
            let body = "steps:\n  - { id: a, plugin: hangs, phase: now }\n";
            let request = RunRequest::new(pipeline(body));
            runtime.block_on(engine.submit(request)).unwrap();
        }
        // Some moments later, tasks have come further.
        for _ in 0..round % 7 {
            runtime.block_on(tokio::task::yield_now());
        }
        match round % 4 {
            0 => drop((runtime, engine)),
            1 => drop((engine, runtime)),
            2 => runtime.shutdown_background(),
            _ => runtime.shutdown_timeout(Duration::from_millis(1)),
        }
    }
}
