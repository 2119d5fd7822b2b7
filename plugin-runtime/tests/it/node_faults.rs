//! Plugins of kind `node` that break every rule.

use std::time::Duration;

use orchestrator_contract::{CallError, ErrorKind, Event, LogLevel, PhaseReply, PluginState};
use orchestrator_plugin_runtime::{PluginHandle, Runtime};
use orchestrator_testkit::{Signal, send};
use serde_json::json;
use tokio::{task::JoinHandle, time::timeout};
use tower::Service as _;

use crate::{
    node_plugin::install,
    support::{
        Home, PATIENCE, call, eventually, handle, output, phase_call, rule, signal_the_keeper,
        status,
    },
};

/// Every fault has its own rule, costs the process its life, and the next call is
/// answered by a new one.
#[tokio::test]
async fn every_fault_has_its_own_rule_and_ends_the_process() {
    let mut home = Home::new();
    home.settings.restart.crash_loop_restarts = 100;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let faults = [
        ("unknown-call", "unknown_call"),
        ("length", "length_mismatch"),
        ("chunk-first", "unexpected_chunk"),
        ("over-credit", "over_credit"),
        ("garbage", "frame_too_long"),
        ("half-frame", "half_frame"),
        ("wrong-direction", "unexpected_frame"),
        ("close", "connection_closed"),
    ];
    for (before, (phase, expected)) in faults.into_iter().enumerate() {
        let pid = answering_pid(&home, &plugin).await;
        let (failed, bystander) = tokio::join!(call(&plugin, phase, json!(1)), async {
            tokio::task::yield_now().await;
            call(&plugin, "hang", json!(1)).await
        });
        assert_eq!(rule(&failed.unwrap_err()), expected, "{phase}");
        assert!(
            bystander.is_err(),
            "{phase}: the process is gone for everybody"
        );
        eventually("the process is gone", || {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        })
        .await;
        eventually("it was started again", || {
            status(&runtime, &id).restarts == before as u64 + 1
        })
        .await;
    }
    runtime.shutdown(Duration::from_secs(1)).await.unwrap();
    home.no_process_left(&id).await;
}

/// What it sent before it ended counts, also when the host notices the end because it
/// cannot send any more.
#[tokio::test]
async fn a_fault_is_told_as_such_while_the_host_is_sending() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.max = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 100;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let much = json!("x".repeat(8 << 20));
    for _ in 0..20 {
        answering_pid(&home, &plugin).await;
        let (failed, _) = tokio::join!(
            call(&plugin, "half-frame", json!(1)),
            call(&plugin, "echo", much.clone())
        );
        assert_eq!(rule(&failed.unwrap_err()), "half_frame");
    }
}

/// The process that answers, once one does.
async fn answering_pid(home: &Home, plugin: &PluginHandle) -> u64 {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match call(plugin, "pid", json!(0)).await {
            Ok(reply) => return reply.output.decode().unwrap(),
            Err(error) => {
                assert!(error.not_started(), "{error:?} for {}", home.unique);
                assert!(tokio::time::Instant::now() < end, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_second_reply_ends_the_process_after_the_first_was_taken() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(1))));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(output(&plugin, "two-replies", json!(1)).await, json!(1));
    let error = timeout(PATIENCE, hanging)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(rule(&error), "second_reply");
}

#[tokio::test]
async fn an_answer_to_another_question_fails_that_call() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let error = call(&handle(&runtime, &id), "wrong-answer", json!(1))
        .await
        .unwrap_err();
    assert_eq!(rule(&error), "wrong_answer");
}

#[tokio::test]
async fn a_process_that_ends_takes_its_last_words_into_the_error() {
    let mut home = Home::new();
    home.settings.restart.crash_loop_restarts = 100;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for (phase, expected, words) in [
        ("exit3", "exited with status 3", "last words"),
        ("crash", "was killed by signal 6", "about to abort"),
    ] {
        answering_pid(&home, &plugin).await;
        let error = call(&plugin, phase, json!(1)).await.unwrap_err();
        let CallError::Crash { status, output } = error else {
            panic!("{phase}: no crash: {error:?}");
        };
        assert_eq!(status, expected);
        assert!(output.contains(words), "{phase}: {output}");
    }
}

/// A plugin with a call that hangs.
struct Hanging {
    home: Home,
    plugin: PluginHandle,
    pid: u64,
    call: JoinHandle<Result<PhaseReply, CallError>>,
    _runtime: Runtime,
}

impl Hanging {
    async fn begin() -> Self {
        let home = Home::new();
        let id = home.id("node");
        install(&home, &id, "good", json!({}));
        let runtime = home.start().await;
        let plugin = handle(&runtime, &id);
        let pid = answering_pid(&home, &plugin).await;
        let call = tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(1))));
        tokio::time::sleep(Duration::from_millis(50)).await;
        Self {
            home,
            plugin,
            pid,
            call,
            _runtime: runtime,
        }
    }

    /// What the call got, once another process answers.
    async fn error(self) -> (Home, CallError) {
        let ended = timeout(PATIENCE, self.call).await.unwrap().unwrap();
        assert_ne!(answering_pid(&self.home, &self.plugin).await, self.pid);
        (self.home, ended.unwrap_err())
    }
}

#[tokio::test]
async fn a_killed_process_is_noticed_at_once_and_replaced() {
    let hanging = Hanging::begin().await;
    send(hanging.pid as u32, Signal::KILL);
    let (home, error) = hanging.error().await;
    assert!(
        matches!(&error, CallError::Crash { status, .. } if status == "was killed by signal 9"),
        "{error:?}"
    );
    assert!(home.events.all().iter().any(|event| matches!(
        event,
        Event::PluginRestarted { reason, .. } if &**reason == "its process was killed by signal 9"
    )));
}

/// Nobody can say how the process ended, and the error says why.
#[tokio::test]
async fn a_call_is_told_when_the_keeper_was_killed() {
    let hanging = Hanging::begin().await;
    signal_the_keeper(Signal::KILL);
    let (_, error) = hanging.error().await;
    assert!(error.to_string().contains("keeper"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_ignores_cancel_is_killed_and_its_slots_come_back() {
    let mut home = Home::new();
    home.settings.node.cancel_grace = Duration::from_millis(200);
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let pid = answering_pid(&home, &plugin).await;
    for _ in 0..4 {
        let call = plugin
            .clone()
            .call(phase_call(&id, "ignore-cancel", json!(1)));
        assert!(timeout(Duration::from_millis(50), call).await.is_err());
    }
    let next = answering_pid(&home, &plugin).await;
    assert_ne!(next, pid, "a new process with all its credit");
    assert!(home.events.all().iter().any(|event| matches!(
        event,
        Event::PluginRestarted { reason, .. } if reason.contains("ignored_cancel")
    )));
}

#[tokio::test]
async fn an_output_over_the_limit_is_refused_before_it_is_sent() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let error = call(&handle(&runtime, &id), "too-big", json!(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceLimit);
    assert!(
        error.to_string().contains("limit of output exceeded"),
        "{error}"
    );
}

#[tokio::test]
async fn an_input_over_the_limit_is_refused_before_it_is_sent() {
    let mut home = Home::new();
    home.settings.node.payload_bytes_max = 1000;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let error = call(&plugin, "echo", json!("x".repeat(1000)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
}

#[tokio::test]
async fn a_flood_on_stdout_does_not_stop_calls() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    assert_eq!(output(&plugin, "flood", json!(5)).await, json!(5));
    let lines = home.events.lines().len();
    assert!(lines < 5_000, "{lines} lines of 100000 got through");
}

/// Program and manifest do not belong together: no restart, and the reason is told
/// to every call until an operator acts.
#[tokio::test]
async fn a_handshake_that_contradicts_the_manifest_is_refused_for_good() {
    for (mode, expected) in [
        ("wrong-version", "wrong_version"),
        ("wrong-plugin", "wrong_plugin"),
        ("fewer-phases", "wrong_phases"),
    ] {
        let home = Home::new();
        let id = home.id("node");
        install(&home, &id, mode, json!({}));
        let runtime = home.start().await;
        let plugin = handle(&runtime, &id);
        let error = call(&plugin, "echo", json!(1)).await.unwrap_err();
        assert_eq!(rule(&error), expected);
        let seen = status(&runtime, &id);
        assert_eq!(
            (seen.state, seen.restarts),
            (PluginState::Error, 0),
            "{mode}"
        );
        assert_eq!(seen.error.unwrap().code, "ORC-3042");
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn a_handshake_that_fails_otherwise_is_tried_again_until_it_is_a_crash_loop() {
    for (mode, expected) in [
        ("exit-at-once", "exited with status 3"),
        ("garbage", "frame_too_long"),
        ("half-hello", "half_frame"),
        ("not-hello", "unexpected_frame"),
        ("silent", "did not say who it is within 200ms"),
    ] {
        let mut home = Home::new();
        home.settings.restart.first = Duration::from_millis(1);
        home.settings.restart.crash_loop_restarts = 1;
        home.settings.node.handshake_timeout = Duration::from_millis(200);
        if mode != "silent" {
            home.settings.node.handshake_timeout = PATIENCE;
        }
        let id = home.id("node");
        install(&home, &id, mode, json!({}));
        let runtime = home.start().await;
        let plugin = handle(&runtime, &id);
        let error = call(&plugin, "echo", json!(1)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{mode}: {error}");
        assert!(error.not_started(), "{mode}: {error:?}");
        eventually("it is a crash loop", || {
            status(&runtime, &id).state == PluginState::CrashLoop
        })
        .await;
        let seen = status(&runtime, &id);
        let problem = seen.error.unwrap();
        assert_eq!((&*problem.code, seen.restarts), ("ORC-3043", 1), "{mode}");
        assert!(
            problem.message.contains(expected),
            "{mode}: {}",
            problem.message
        );
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn an_operator_gets_a_plugin_out_of_a_crash_loop() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 1;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for _ in 0..2 {
        answering_pid(&home, &plugin).await;
        let _ = call(&plugin, "exit3", json!(1)).await;
    }
    eventually("it is a crash loop", || {
        status(&runtime, &id).state == PluginState::CrashLoop
    })
    .await;
    assert!(!plugin.is_available());
    let refused = call(&plugin, "echo", json!(1)).await.unwrap_err();
    assert!(refused.to_string().contains("ORC-3043"), "{refused}");
    runtime.enable(&id).unwrap();
    eventually("it runs again", || {
        status(&runtime, &id).state == PluginState::Running
    })
    .await;
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
    assert!(home.events.has_line(LogLevel::Error, "last words"));
}

#[tokio::test]
async fn a_flood_of_progress_is_bounded_and_ends_with_the_latest() {
    let mut home = Home::new();
    home.settings.log.burst = 50;
    home.settings.log.lines_per_second = 20;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let started = tokio::time::Instant::now();
    let flooding = plugin
        .clone()
        .call(phase_call(&id, "progress-flood", json!(100_000)));
    let flooding = tokio::spawn(flooding);
    let seen = || -> Vec<String> {
        let events = home.events.all().into_iter();
        events
            .filter_map(|event| match event {
                Event::StepProgress { message, .. } => Some(message.to_string()),
                _ => None,
            })
            .collect()
    };
    let suppressed = || -> u64 {
        let lines = home.events.lines().into_iter();
        let counts = lines.filter_map(|(_, line)| {
            let count = line.strip_suffix(" progress reports suppressed: they came too fast")?;
            count.parse::<u64>().ok()
        });
        counts.sum()
    };
    eventually("the latest is not told", || {
        seen().last().is_some_and(|last| last == "100000 done")
    })
    .await;
    eventually("every report is told or counted", || {
        seen().len() as u64 + suppressed() == 100_000
    })
    .await;
    let allowed = 50.0 + started.elapsed().as_secs_f64() * 20.0;
    assert!(seen().len() as f64 <= allowed + 1.0, "{}", seen().len());
    flooding.abort();
}

#[tokio::test]
async fn a_report_that_was_held_back_is_not_told_after_its_call() {
    let mut home = Home::new();
    home.settings.log.burst = 2;
    home.settings.log.lines_per_second = 4;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let flooding = plugin
        .clone()
        .call(phase_call(&id, "progress-flood", json!(1000)));
    assert!(timeout(Duration::from_millis(200), flooding).await.is_err());
    let told = |events: &[Event]| {
        let progress = events
            .iter()
            .filter(|event| matches!(event, Event::StepProgress { .. }));
        progress.count()
    };
    let before = told(&home.events.all());
    eventually("what was held back is counted", || {
        let lines = home.events.lines();
        lines
            .iter()
            .any(|(_, line)| line.contains("progress reports suppressed"))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&home.events.all()), before);
}
