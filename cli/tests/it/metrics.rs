//! What Prometheus's own tools say about the metrics page.

#![expect(
    clippy::disallowed_types,
    reason = "runs promtool; the sandbox is for plugins"
)]

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use serde_json::json;

use crate::{
    harness::{Home, eventually, finish, pipeline},
    serve::Service,
};

/// The page of a service that has run, failed, retried and logged has no lint.
#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = std::env::var_os("ORCHESTRATOR_TEST_PROMTOOL")
        .expect("ORCHESTRATOR_TEST_PROMTOOL names promtool; `cargo xtask test` installs it");
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for phase in ["greet", "fail"] {
        fs::write(dir.join(format!("{phase}.yaml")), pipeline(phase)).unwrap();
    }
    let kit = TestHome::at(home.root());
    let names = ["work", "once", "flaky", "echo", "wait"].map(|name| json!({ "name": name }));
    kit.install(&TestPlugin::program(
        "scripted",
        Kind::Node,
        &scripted_plugin(),
        json!(names),
    ));
    fs::write(dir.join("echo.yaml"), ECHO).unwrap();
    let service = Service::start(&home, &[]);
    for phase in ["greet", "fail", "echo"] {
        let answer = service.api("POST", "/api/v1/runs", Some(&json!({ "pipeline": phase })));
        assert_eq!(answer.status, 202);
    }
    let page = || String::from_utf8(service.get("/metrics").body).unwrap();
    let ended = r#"orchestrator_runs_total{pipeline="fail",outcome="failed"} 1"#;
    eventually("the failed run", || page().contains(ended));
    let greeted = r#"orchestrator_runs_total{pipeline="greet",outcome="success"} 1"#;
    eventually("the good run", || page().contains(greeted));

    // A process that lives on is sampled every second.
    let sampled = r#"orchestrator_plugin_memory_usage_bytes{plugin="scripted"} "#;
    eventually("the sample", || page().contains(sampled));

    let page = page();
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let done = finish(child);

    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (0, "", ""),
        "{page}"
    );
    for name in SEED_METRICS {
        assert!(
            page.contains(&format!("# TYPE {name} ")),
            "{name} is missing: {page}"
        );
    }
}

const ECHO: &str = "version: 1\nname: echo\nsteps:\n  - { id: a, plugin: scripted, phase: echo }\n";

/// Names that dashboards outside of this project rely on.
const SEED_METRICS: [&str; 5] = [
    "orchestrator_plugin_phase_executions_total",
    "orchestrator_plugin_phase_duration_seconds",
    "orchestrator_plugin_phase_errors_total",
    "orchestrator_plugin_memory_usage_bytes",
    "orchestrator_plugin_cpu_usage_percent",
];
