//! What a start does, and engines that nobody drains.
#![expect(
    clippy::disallowed_types,
    reason = "the process is this test itself, and it owns no plugin"
)]

use std::{
    env, fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use orchestrator_contract::{CallError, PhaseCall, PhaseReply};
use orchestrator_engine::{
    Builtin, CallContext, EngineError, Plugin, RunRequest, config::ConfigError,
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use serde_json::json;

use crate::support::{Rig, pipeline, within};

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

/// Takes note that it was started.
struct Starts(Arc<AtomicBool>);

impl Plugin for Starts {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async { Ok(PhaseReply::new(call.input)) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        self.0.store(true, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn what_is_disabled_does_not_run_to_be_started() {
    for disabled in [true, false] {
        let started = Arc::new(AtomicBool::new(false));
        let manifest = json!({
            "id": "starts",
            "version": "1.0.0",
            "description": "Scripted.",
            "kind": "builtin",
            "entry_point": "starts",
            "phases": [{ "name": "now" }],
        });
        let manifest = Manifest::from_value(&manifest, "starts").unwrap();
        let rig = Rig::new();
        let builder = rig.builder(|config| {
            let plugin = serde_json::from_value(json!({ "disabled": disabled }));
            config.plugins.insert("starts".to_owned(), plugin.unwrap());
        });
        let plugin = Starts(Arc::clone(&started));
        let _engine = builder
            .builtin(Builtin::new(manifest, plugin))
            .start()
            .await
            .unwrap();
        assert_eq!(started.load(Ordering::Relaxed), !disabled);
    }
}

/// Also where the configuration comes from the embedding program.
#[tokio::test]
async fn an_interval_of_zero_is_refused() {
    let rig = Rig::new();
    let builder = rig.builder(|config| config.journal.cancel_poll = Duration::ZERO);
    let refused = builder.start().await.map(drop).unwrap_err();
    assert!(
        matches!(refused, EngineError::Config(ConfigError::Zero { key }) if key == "journal.cancel_poll"),
        "{refused}"
    );
}

/// An engine that lives for a single command does not clean up for an hour's
/// worth of work.
#[tokio::test]
async fn a_start_sweeps_nothing_at_once() {
    let rig = Rig::new();
    let engine = rig.start().await;
    within(engine.drain(Duration::ZERO)).await.unwrap();
    let file = rig.home.path().join("journal/blobs/unfinished/old");
    let long_ago = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    fs::write(&file, "left behind").unwrap();
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();

    let engine = rig.start().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    within(engine.drain(Duration::ZERO)).await.unwrap();
    assert!(file.exists());
}
