//! Many runs at once over HTTP, with a plugin that fails now and then.

use std::{fs, path::Path, sync::Mutex, time::Duration};

use orchestrator_testkit::{Kind, TestHome, TestPlugin, wait_until};
use serde_json::json;

use crate::{harness::Home, serve::Service};

const RUNS: usize = 1_000;
/// Clients that submit at the same time.
const CLIENTS: usize = 16;
/// What the service may hold with all runs in flight. Idle it holds about 40 MB
/// in a debug build.
const MEMORY_MAX_KB: u64 = 600 * 1024;

/// A plugin that fails one attempt in ten: every run ends in a journaled
/// state, most of them well thanks to retries, and memory stays bounded.
#[test]
fn a_thousand_runs_all_end() {
    let home = Home::new();
    let kit = TestHome::at(home.root());
    let program = Path::new(env!("CARGO_BIN_EXE_orchestrator")).with_file_name("scripted-plugin");
    let phases = json!([{ "name": "flaky", "effect": "idempotent", "retryable": true, "max_retries": 4 },
        { "name": "work" }, { "name": "once" }, { "name": "echo" }]);
    kit.install(&TestPlugin::program(
        "scripted",
        Kind::Node,
        &program,
        phases,
    ));
    let pipelines = home.root().join("pipelines");
    fs::create_dir(&pipelines).unwrap();
    fs::write(pipelines.join("flaky.yaml"), PIPELINE).unwrap();
    // The plugin's slots bound the work; runs wait for them instead of being
    // refused. Five failures in a row are bound to happen among thousands of
    // calls, and are no reason here to give the plugin a rest.
    let config = "[policy.bulkhead]\nmax_queue = 4000\nmax_wait = \"2m\"\n\
        [policy.breaker]\nconsecutive_failures = 1000\n";
    fs::write(home.root().join("config.toml"), config).unwrap();
    let service = Service::start(&home, &[]);

    let started: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (service, started) = (&service, &started);
            scope.spawn(move || {
                for _ in (client..RUNS).step_by(CLIENTS) {
                    let answer = service.api(
                        "POST",
                        "/api/v1/runs",
                        Some(&json!({ "pipeline": "flaky" })),
                    );
                    assert_eq!(answer.status, 202, "{}", answer.json());
                    let id = answer.json()["id"].as_str().unwrap().to_owned();
                    started.lock().unwrap().push(id);
                }
            });
        }
    });
    let started = started.into_inner().unwrap();
    let mut peak = 0;
    let ended = wait_until(Duration::from_secs(90), || {
        peak = peak.max(service.resident_kb());
        let page = service.get("/metrics").body;
        ended_runs(&String::from_utf8(page).unwrap()) == RUNS as u64
    });

    assert!(ended, "not every run ended");
    assert!(peak < MEMORY_MAX_KB, "the service held {peak} kB");
    let mut succeeded = 0;
    for id in &started {
        let run = service
            .api("GET", &format!("/api/v1/runs/{id}"), None)
            .json();
        let outcome = run["outcome"]
            .as_str()
            .unwrap_or_else(|| panic!("{run} has not ended"));
        succeeded += usize::from(outcome == "success");
    }
    // One attempt in ten fails; that five in a row do is one in 100,000.
    assert!(succeeded > RUNS * 9 / 10, "only {succeeded} succeeded");
}

/// The sum of the counter over its outcomes.
fn ended_runs(page: &str) -> u64 {
    let lines = page
        .lines()
        .filter(|line| line.starts_with("orchestrator_runs_total{"));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

const PIPELINE: &str = r#"
version: 1
name: flaky
steps:
  - { id: one, plugin: scripted, phase: flaky, input: { ms: 2, of: 10 } }
  - { id: two, plugin: scripted, phase: flaky, input: { ms: 2, of: 10, n: "${{ steps.one.output.n }}" } }
  - { id: three, plugin: scripted, phase: flaky, input: { ms: 2, of: 10, n: "${{ steps.two.output.n }}" } }
"#;
