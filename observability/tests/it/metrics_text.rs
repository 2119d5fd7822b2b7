use std::{sync::Arc, time::Duration};

use orchestrator_contract::{
    BreakerState, DenialRule, ErrorKind, Event, EventSink, FallbackKind, LogLevel, LogStream,
    PhaseName, PluginId, PluginState, RefusedBy, ReloadOutcome, RunId, RunOutcome, SessionId,
    StepId, StepOutcome, TraceContext, ViolationAction,
};
use orchestrator_observability::{Build, Telemetry, names};

fn telemetry() -> Arc<Telemetry> {
    Arc::new(Telemetry::new(Build { version: "1.2.3" }))
}

fn plugin() -> PluginId {
    PluginId::new("git-history")
}

fn phase() -> PhaseName {
    PhaseName::new("collect")
}

fn started() -> Event {
    Event::RunStarted {
        run: RunId::from_parts(1, 1),
        pipeline: "notes".into(),
        session: SessionId::from_parts(1, 1),
        trace: TraceContext::from_random(1, 1, true),
        resumed: false,
    }
}

fn finished(outcome: RunOutcome) -> Event {
    Event::RunFinished {
        run: RunId::from_parts(1, 1),
        pipeline: "notes".into(),
        outcome,
        duration_ms: 1_200,
    }
}

fn breaker(sequence: u64, to: BreakerState) -> Event {
    Event::BreakerChanged {
        plugin: plugin(),
        phase: None,
        sequence,
        from: BreakerState::Closed,
        to,
        reason: "failure_ratio".into(),
        enforced: true,
    }
}

fn plugin_events() -> Vec<Event> {
    vec![
        Event::PluginStateChanged {
            plugin: plugin(),
            version: "0.1.0".into(),
            state: PluginState::Running,
            reason: "started".into(),
        },
        Event::PluginSampled {
            plugin: plugin(),
            memory_bytes: 1 << 20,
            cpu_percent: 99.5,
            cpu_micros: 250_000,
            tasks: 7,
            open_files: 12,
        },
        Event::PluginHealthChanged {
            plugin: plugin(),
            version: "1.0.0".into(),
            healthy: true,
            reason: "".into(),
        },
        Event::PluginReloaded {
            plugin: plugin(),
            from: Some("1.0.0".into()),
            version: Some("1.1.0".into()),
            outcome: ReloadOutcome::Switched,
            reason: "8 bytes of state moved".into(),
        },
        Event::PluginRestarted {
            plugin: plugin(),
            reason: "exited with status 3".into(),
            delay_ms: 1_000,
        },
        Event::ResourceViolation {
            plugin: plugin(),
            resource: "memory".into(),
            current: 2,
            limit: 1,
            action: ViolationAction::Kill,
            timestamp_ms: 1_700_000_000_000,
        },
        Event::CapabilityDenied {
            plugin: plugin(),
            capability: "network:access".into(),
            resource: "example.com:443".into(),
            rule: DenialRule::NotGranted,
            suppressed: 2,
        },
        Event::PluginLog {
            plugin: plugin(),
            stream: LogStream::Stderr,
            level: LogLevel::Error,
            message: "oh".into(),
            run: None,
            trace: None,
        },
    ]
}

fn call_events() -> Vec<Event> {
    let (plugin, phase) = (plugin(), phase());
    vec![
        Event::StepFinished {
            run: RunId::from_parts(1, 1),
            step: StepId::new("collect"),
            plugin: plugin.clone(),
            phase: phase.clone(),
            outcome: StepOutcome::Success,
            attempts: 2,
            duration_ms: 5,
            error: None,
        },
        Event::CallRetried {
            run: RunId::from_parts(1, 1),
            step: StepId::new("collect"),
            plugin: plugin.clone(),
            phase: phase.clone(),
            attempt: 1,
            delay_ms: 100,
        },
        Event::RetryGivenUp {
            run: RunId::from_parts(1, 1),
            step: StepId::new("collect"),
            plugin: plugin.clone(),
            phase: phase.clone(),
            reason: "exhausted".into(),
        },
        Event::CallRefused {
            run: RunId::from_parts(1, 1),
            step: StepId::new("collect"),
            plugin: plugin.clone(),
            phase: phase.clone(),
            by: RefusedBy::Breaker,
        },
        Event::CallWouldBeRefused {
            plugin: plugin.clone(),
            phase: None,
            by: RefusedBy::Breaker,
        },
        Event::CallFellBack {
            run: RunId::from_parts(1, 1),
            step: StepId::new("collect"),
            plugin,
            phase,
            by: FallbackKind::LastGood,
            answered: true,
            error: ErrorKind::Timeout,
        },
        breaker(1, BreakerState::Open),
        Event::JournalCommitted {
            events: 7,
            duration_us: 400,
        },
    ]
}

/// A telemetry in which every metric has at least one series.
fn busy() -> Arc<Telemetry> {
    let telemetry = telemetry();
    let recorder = telemetry.recorder();
    recorder.emit(started());
    plugin_events().into_iter().for_each(|e| recorder.emit(e));
    call_events().into_iter().for_each(|e| recorder.emit(e));
    recorder.emit(finished(RunOutcome::Success));
    let metrics = telemetry.phase("git-history", "collect");
    let going_on = metrics.in_flight();
    metrics.attempted();
    metrics.executed(Duration::from_millis(30), Some(ErrorKind::Timeout));
    drop(going_on);
    telemetry.http_request("/api/v1/runs", "POST", 202, Duration::from_millis(2));
    telemetry.events_dropped(3);
    for index in 0..=names::VALUES_PER_LABEL {
        telemetry.phase("crowd", &format!("phase-{index}"));
    }
    telemetry
}

#[test]
fn the_five_documented_metrics_have_their_exact_names_and_help() {
    let text = busy().render();
    for line in [
        "# HELP orchestrator_plugin_phase_executions_total Total number of phase executions",
        "# TYPE orchestrator_plugin_phase_executions_total counter",
        r#"orchestrator_plugin_phase_executions_total{plugin="git-history",phase="collect"} 1"#,
        "# HELP orchestrator_plugin_phase_duration_seconds Phase execution duration in seconds",
        "# TYPE orchestrator_plugin_phase_duration_seconds histogram",
        r#"orchestrator_plugin_phase_duration_seconds_bucket{plugin="git-history",phase="collect",le="0.025"} 0"#,
        r#"orchestrator_plugin_phase_duration_seconds_bucket{plugin="git-history",phase="collect",le="0.05"} 1"#,
        r#"orchestrator_plugin_phase_duration_seconds_bucket{plugin="git-history",phase="collect",le="600"} 1"#,
        r#"orchestrator_plugin_phase_duration_seconds_sum{plugin="git-history",phase="collect"} 0.03"#,
        "# HELP orchestrator_plugin_phase_errors_total Total number of phase execution errors",
        r#"orchestrator_plugin_phase_errors_total{plugin="git-history",phase="collect",error_type="timeout"} 1"#,
        r#"orchestrator_plugin_phase_errors_total{plugin="git-history",phase="collect",error_type="panic"} 0"#,
        "# HELP orchestrator_plugin_memory_usage_bytes Current memory usage in bytes",
        r#"orchestrator_plugin_memory_usage_bytes{plugin="git-history"} 1048576"#,
        "# HELP orchestrator_plugin_cpu_usage_percent Current CPU usage percentage",
        r#"orchestrator_plugin_cpu_usage_percent{plugin="git-history"} 99.5"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
    }
}

#[test]
fn events_become_the_other_metrics() {
    let text = busy().render();
    for line in [
        r#"orchestrator_runs_total{pipeline="notes",outcome="success"} 1"#,
        r#"orchestrator_runs_in_flight{pipeline="notes"} 0"#,
        r#"orchestrator_run_duration_seconds_sum{pipeline="notes",outcome="success"} 1.2"#,
        r#"orchestrator_plugin_state{plugin="git-history",state="running"} 1"#,
        r#"orchestrator_plugin_state{plugin="git-history",state="crash_loop"} 0"#,
        r#"orchestrator_plugin_restarts_total{plugin="git-history"} 1"#,
        r#"orchestrator_plugin_reloads_total{plugin="git-history",outcome="switched"} 1"#,
        r#"orchestrator_plugin_cpu_seconds_total{plugin="git-history"} 0.25"#,
        r#"orchestrator_plugin_denials_total{plugin="git-history",capability="network:access",rule="not_granted"} 3"#,
        r#"orchestrator_plugin_resource_violations_total{plugin="git-history",resource="memory",action="kill"} 1"#,
        r#"orchestrator_plugin_log_lines_total{plugin="git-history",level="error"} 1"#,
        r#"orchestrator_plugin_phase_attempts_total{plugin="git-history",phase="collect"} 1"#,
        r#"orchestrator_phases_in_flight{plugin="git-history"} 0"#,
        r#"orchestrator_retry_attempts_total{plugin="git-history",phase="collect",result="retried"} 1"#,
        r#"orchestrator_retry_attempts_total{plugin="git-history",phase="collect",result="success"} 1"#,
        r#"orchestrator_retry_attempts_total{plugin="git-history",phase="collect",result="exhausted"} 1"#,
        r#"orchestrator_calls_refused_total{plugin="git-history",phase="collect",by="breaker"} 1"#,
        r#"orchestrator_calls_would_be_refused_total{plugin="git-history",by="breaker"} 1"#,
        r#"orchestrator_fallbacks_total{plugin="git-history",phase="collect",by="last_good",result="answered"} 1"#,
        r#"orchestrator_circuit_breaker_state{plugin="git-history",state="open"} 1"#,
        r#"orchestrator_circuit_breaker_state{plugin="git-history",state="closed"} 0"#,
        r#"orchestrator_circuit_breaker_transitions_total{plugin="git-history",to="open"} 1"#,
        "orchestrator_journal_commits_total 1",
        "orchestrator_journal_events_total 7",
        r#"orchestrator_journal_commit_duration_seconds_bucket{le="0.0005"} 1"#,
        r#"orchestrator_http_requests_total{route="/api/v1/runs",method="POST",status="202"} 1"#,
        "orchestrator_events_dropped_total 3",
        r#"orchestrator_build_info{version="1.2.3"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
    }
}

#[test]
fn every_metric_in_the_table_is_fed_and_described() {
    let text = busy().render();
    for metric in names::ALL {
        let help = format!("# HELP {} {}", metric.name, metric.help);
        assert!(text.lines().any(|line| line == help), "{help}");
    }
    let described = text.matches("# HELP ").count();
    assert_eq!(described, names::ALL.len(), "something is not in the table");
}

#[test]
fn a_breakers_state_is_the_latest_even_when_told_out_of_order() {
    let telemetry = telemetry();
    let recorder = telemetry.recorder();
    recorder.emit(breaker(2, BreakerState::HalfOpen));
    recorder.emit(breaker(1, BreakerState::Open));
    let text = telemetry.render();
    assert!(
        text.contains(r#"state{plugin="git-history",state="half_open"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"state{plugin="git-history",state="open"} 0"#),
        "{text}"
    );
    assert!(
        text.contains(r#"transitions_total{plugin="git-history",to="open"} 1"#),
        "{text}"
    );
}

#[test]
fn a_plugin_without_a_process_uses_nothing() {
    let telemetry = telemetry();
    let recorder = telemetry.recorder();
    plugin_events().into_iter().for_each(|e| recorder.emit(e));
    recorder.emit(Event::PluginStateChanged {
        plugin: plugin(),
        version: "0.1.0".into(),
        state: PluginState::CrashLoop,
        reason: "ended 6 times in 10 s".into(),
    });
    let text = telemetry.render();
    assert!(
        text.contains(r#"memory_usage_bytes{plugin="git-history"} 0"#),
        "{text}"
    );
    assert!(
        text.contains(r#"state{plugin="git-history",state="crash_loop"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"state{plugin="git-history",state="running"} 0"#),
        "{text}"
    );
}

#[test]
fn a_version_that_is_refused_says_nothing_about_the_one_that_runs() {
    let telemetry = telemetry();
    let recorder = telemetry.recorder();
    plugin_events().into_iter().for_each(|e| recorder.emit(e));
    recorder.emit(Event::PluginStateChanged {
        plugin: plugin(),
        version: "9.0.0".into(),
        state: PluginState::Error,
        reason: "no signature found".into(),
    });
    let text = telemetry.render();
    for line in [
        r#"orchestrator_plugin_memory_usage_bytes{plugin="git-history"} 1048576"#,
        r#"orchestrator_plugin_cpu_usage_percent{plugin="git-history"} 99.5"#,
        r#"orchestrator_plugin_tasks{plugin="git-history"} 7"#,
        r#"orchestrator_plugin_open_files{plugin="git-history"} 12"#,
        r#"orchestrator_plugin_state{plugin="git-history",state="running"} 1"#,
        r#"orchestrator_plugin_state{plugin="git-history",state="error"} 0"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nin\n{text}");
    }
}

#[test]
fn two_engines_in_one_process_do_not_meet() {
    let (first, second) = (telemetry(), telemetry());
    first.phase("p", "f").executed(Duration::ZERO, None);
    second.recorder().emit(started());
    let line = r#"orchestrator_plugin_phase_executions_total{plugin="p",phase="f"} 1"#;
    assert!(first.render().contains(line));
    assert!(!second.render().contains("phase_executions_total{"));
    assert!(!first.render().contains("runs_in_flight"));
    assert!(second.render().contains("runs_in_flight"));
}

#[test]
fn renderings_at_once_lose_no_sample() {
    let telemetry = telemetry();
    let metrics = telemetry.phase("p", "f");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..2_000).for_each(|_| metrics.executed(Duration::ZERO, None)));
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20 {
                    telemetry.render();
                }
            });
        }
    });
    let line = r#"phase_duration_seconds_count{plugin="p",phase="f"} 4000"#;
    assert!(telemetry.render().contains(line));
}

/// `promtool check metrics` is Prometheus' own linter.
#[test]
#[expect(clippy::disallowed_types, reason = "runs the linter, not a plugin")]
fn promtool_finds_nothing_to_complain_about() {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    let program = std::env::var_os("ORCHESTRATOR_TEST_PROMTOOL")
        .expect("ORCHESTRATOR_TEST_PROMTOOL names promtool; `cargo xtask test` installs it");
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = busy().render();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
