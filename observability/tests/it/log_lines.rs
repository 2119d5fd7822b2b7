use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use orchestrator_contract::{
    ErrorKind, Event, EventSink, FallbackKind, LogLevel, LogStream, PhaseName, PluginId, RefusedBy,
    RunId, RunOutcome, SessionId, StepId, TraceContext,
};
use orchestrator_observability::{
    Build, Telemetry,
    log::{self, Format},
    trace::with_trace,
};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines_of(work: impl FnOnce(&dyn EventSink)) -> Vec<serde_json::Value> {
    let shared = Shared::default();
    let filter = "trace".parse().unwrap();
    let subscriber = log::subscriber(Format::Json, filter, shared.clone());
    let telemetry = Arc::new(Telemetry::new(Build { version: "0" }));
    tracing::subscriber::with_default(subscriber, || work(&telemetry.recorder()));
    let bytes = shared.0.lock().unwrap().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn run() -> RunId {
    RunId::from_parts(7, 7)
}

#[test]
fn a_runs_lines_carry_its_trace_from_first_to_last() {
    let trace = TraceContext::from_random(0xabc, 0xdef, true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let lines = lines_of(|sink| {
        sink.emit(Event::RunStarted {
            run: run(),
            pipeline: "notes".into(),
            session: SessionId::from_parts(1, 1),
            trace,
            resumed: false,
        });
        runtime.block_on(with_trace(trace, async {
            tokio::task::yield_now().await;
            sink.emit(Event::RunFinished {
                run: run(),
                pipeline: "notes".into(),
                outcome: RunOutcome::Failed,
                duration_ms: 12,
            });
        }));
    });
    let [started, finished] = &lines[..] else {
        panic!("{lines:?}");
    };
    for line in [started, finished] {
        assert_eq!(line["trace_id"], trace.trace_id.to_string());
        assert_eq!(line["run_id"], run().to_string());
        assert_eq!(line["pipeline"], "notes");
    }
    assert_eq!(started["event"], "run.started");
    assert_eq!(started["level"], "info");
    assert_eq!(finished["level"], "error");
    assert_eq!(finished["duration_ms"], 12);
}

/// Whoever reads the log alone learns that a run did not end, and which calls
/// of which run were refused or repeated.
#[test]
fn what_happens_to_a_run_names_it() {
    let step = || StepId::new("collect");
    let (plugin, phase) = (PluginId::new("git-history"), PhaseName::new("read"));
    let lines = lines_of(|sink| {
        sink.emit(Event::RunLeft {
            run: run(),
            pipeline: "notes".into(),
            reason: "the disk is full".into(),
        });
        sink.emit(Event::CallRetried {
            run: run(),
            step: step(),
            plugin: plugin.clone(),
            phase: phase.clone(),
            attempt: 1,
            delay_ms: 5,
        });
        sink.emit(Event::RetryGivenUp {
            run: run(),
            step: step(),
            plugin: plugin.clone(),
            phase: phase.clone(),
            reason: "budget".into(),
        });
        sink.emit(Event::CallRefused {
            run: run(),
            step: step(),
            plugin: plugin.clone(),
            phase: phase.clone(),
            by: RefusedBy::Breaker,
        });
        sink.emit(Event::CallFellBack {
            run: run(),
            step: step(),
            plugin,
            phase,
            by: FallbackKind::Value,
            answered: false,
            error: ErrorKind::Timeout,
        });
    });
    let expected = [
        ("run.left", "warn"),
        ("call.retried", "info"),
        ("call.retry_given_up", "warn"),
        ("call.refused", "debug"),
        ("call.fell_back", "warn"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (event, level)) in lines.iter().zip(expected) {
        assert_eq!(
            (&line["event"], &line["level"]),
            (&event.into(), &level.into())
        );
        assert_eq!(line["run_id"], run().to_string(), "{line}");
        let step = (event != "run.left").then_some("collect");
        assert_eq!(line["step"].as_str(), step, "{line}");
    }
    assert_eq!(lines[0]["reason"], "the disk is full");
}

#[test]
fn a_plugins_line_names_it_and_keeps_its_level() {
    let lines = lines_of(|sink| {
        for level in [LogLevel::Debug, LogLevel::Error] {
            sink.emit(Event::PluginLog {
                plugin: PluginId::new("git-history"),
                stream: LogStream::Stderr,
                level,
                message: "plugin=forged level=forged {not} a format".into(),
                run: Some(run()),
                trace: None,
            });
        }
    });
    assert_eq!(lines[0]["level"], "debug");
    assert_eq!(lines[1]["level"], "error");
    for line in &lines {
        assert_eq!(line["plugin"], "git-history");
        assert_eq!(line["stream"], "stderr");
        assert_eq!(line["message"], "plugin=forged level=forged {not} a format");
        assert_eq!(line["run_id"], run().to_string());
        assert!(line.get("trace_id").is_none());
    }
}

#[test]
fn what_happens_many_times_a_second_writes_no_line() {
    let lines = lines_of(|sink| {
        sink.emit(Event::JournalCommitted {
            events: 1,
            duration_us: 1,
        });
        sink.emit(Event::PluginSampled {
            plugin: PluginId::new("p"),
            memory_bytes: 1,
            cpu_percent: 1.0,
            cpu_micros: 1,
            tasks: 1,
            open_files: 1,
        });
    });
    assert_eq!(lines, Vec::<serde_json::Value>::new());
}
