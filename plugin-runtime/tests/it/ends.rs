//! How processes are ended: while they are asked for the first time whether they are
//! well, while they drain, and when somebody stops waiting.

use std::{path::Path, sync::Arc, time::Duration};

use orchestrator_contract::{CallError, PhaseCall, PluginState, ViolationAction};
use orchestrator_plugin_runtime::{Builtin, Runtime};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    monitor::violated,
    node_plugin::install,
    support::{Home, PATIENCE, call, eventually, handle, output, processes, status},
};

/// What a call of a plugin gets whose process breaks a rule in its first check.
async fn refused_in_the_first_check(home: &mut Home, mode: &str) -> CallError {
    home.settings.monitor.interval = Duration::from_millis(50);
    home.settings.monitor.cpu_seconds_over = 1;
    home.settings.restart.first = Duration::from_secs(600);
    home.settings.restart.max = Duration::from_secs(600);
    let id = home.id("node");
    let manifest = json!({ "resources": { "max_cpu_percent": 5 } });
    install(home, &id, mode, manifest);
    let runtime = home.start().await;
    let refused = call(&handle(&runtime, &id), "echo", json!(1)).await;
    eventually("its process is gone", || {
        status(&runtime, &id).pid.is_none()
    })
    .await;
    assert_eq!(status(&runtime, &id).state, PluginState::Starting);
    refused.unwrap_err()
}

#[tokio::test]
async fn the_monitor_is_heard_during_the_first_check() {
    let mut home = Home::new();
    let refused = refused_in_the_first_check(&mut home, "health-works").await;
    assert!(refused.to_string().contains("cpu"), "{refused}");
    assert!(violated(&home, "cpu", ViolationAction::Kill));
}

#[tokio::test]
async fn a_broken_rule_is_heard_during_the_first_check() {
    let mut home = Home::new();
    let refused = refused_in_the_first_check(&mut home, "health-garbage").await;
    assert!(refused.to_string().contains("frame_too_long"), "{refused}");
}

/// Ended for its health it ends by itself, as far as a crash loop goes.
#[tokio::test]
async fn a_plugin_that_is_never_well_is_not_started_again_for_ever() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 1;
    let id = home.id("node");
    install(&home, &id, "health", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let before = status(&runtime, &id).pid;
    plugin.restart(PATIENCE, "it is not well").await.unwrap();
    let seen = status(&runtime, &id);
    assert_eq!((seen.state, seen.restarts), (PluginState::Running, 1));
    assert_ne!(seen.pid, before);
    let refused = plugin.restart(PATIENCE, "it is not well").await;
    assert!(refused.is_err());
    let seen = status(&runtime, &id);
    assert_eq!((seen.state, seen.pid), (PluginState::CrashLoop, None));
    let problem = seen.error.unwrap();
    assert!(problem.message.contains("it is not well"), "{problem:?}");
    let refused = plugin.restart(PATIENCE, "it is not well").await;
    assert!(refused.is_err(), "only an operator ends a crash loop");
    runtime.restart(&id, PATIENCE).await.unwrap();
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
}

#[tokio::test]
async fn a_plugin_that_was_well_for_long_is_started_again_each_time() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 1;
    home.settings.restart.crash_loop_window = Duration::from_millis(200);
    let id = home.id("node");
    install(&home, &id, "health", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(300)).await;
        assert_eq!(plugin.check_health(PATIENCE).await, Some(Ok(())));
        plugin.restart(PATIENCE, "it is not well").await.unwrap();
    }
    assert_eq!(status(&runtime, &id).restarts, 3);
}

#[tokio::test]
async fn a_process_that_drains_can_be_stopped() {
    let mut home = Home::new();
    home.settings.node.drain_grace = Duration::from_millis(100);
    let id = home.id("node");
    install(&home, &id, "deaf", json!({}));
    let runtime = Arc::new(home.start().await);
    output(&handle(&runtime, &id), "echo", json!(1)).await;
    let (other, name) = (Arc::clone(&runtime), id.clone());
    let restart = tokio::spawn(async move { other.restart(&name, Duration::from_secs(600)).await });
    eventually("it drains", || {
        home.events
            .lines()
            .iter()
            .any(|(_, line)| line == "draining")
    })
    .await;
    timeout(PATIENCE, runtime.shutdown(PATIENCE))
        .await
        .unwrap()
        .unwrap();
    assert!(is_gone(&id), "a process is left");
    let restarted = timeout(PATIENCE, restart).await.unwrap().unwrap();
    assert!(restarted.is_err(), "it was stopped instead");
}

fn is_gone(id: &str) -> bool {
    processes(&format!("ORCHESTRATOR_PLUGIN={id}")).is_empty()
}

/// Whose process is there, and stopped by the time that it is said to be.
async fn stops_while_it_starts(mode: &str) {
    let mut home = Home::new();
    home.settings.node.handshake_timeout = PATIENCE;
    let id = home.id("node");
    install(&home, &id, mode, json!({}));
    let runtime = Arc::new(home.start().await);
    let plugin = handle(&runtime, &id);
    let calling = tokio::spawn(async move { call(&plugin, "echo", json!(1)).await });
    let mut pids = Vec::new();
    eventually("it starts", || {
        pids = processes(&format!("ORCHESTRATOR_PLUGIN={id}"));
        !pids.is_empty() && (mode == "silent" || status(&runtime, &id).pid.is_some())
    })
    .await;
    shut_down(&runtime).await;
    let is_left = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    assert!(!pids.iter().any(is_left), "a process is left");
    calling.await.unwrap().unwrap_err();
}

async fn shut_down(runtime: &Runtime) {
    let stopped = timeout(PATIENCE, runtime.shutdown(Duration::from_millis(1)));
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_process_in_its_first_check_is_gone_when_it_has_stopped() {
    stops_while_it_starts("health-silent").await;
}

#[tokio::test]
async fn a_process_in_its_handshake_is_gone_when_it_has_stopped() {
    stops_while_it_starts("silent").await;
}

/// Its calls end in their own time, and then it is there again.
#[tokio::test]
async fn a_restart_that_nobody_waits_for_goes_on() {
    let home = Home::new();
    let id = home.id("slow");
    let answer = async |call: PhaseCall, _| {
        sleep(Duration::from_secs(1)).await;
        Ok(call.input)
    };
    let slow = Builtin::phase(&id, "1.0.0", "echo", answer).unwrap();
    let runtime = home.start_with(vec![slow]).await.unwrap();
    let plugin = handle(&runtime, &id);
    let calling = plugin.clone();
    let calling = tokio::spawn(async move { call(&calling, "echo", json!(1)).await });
    eventually("the call has begun", || status(&runtime, &id).calls == 1).await;
    let state = || status(&runtime, &id).state;
    eventually("it runs", || state() == PluginState::Running).await;
    let given_up = timeout(
        Duration::from_millis(100),
        runtime.restart(&id, Duration::from_millis(500)),
    );
    assert!(given_up.await.is_err());
    eventually("it is there again", || state() == PluginState::Running).await;
    let _ = calling.await.unwrap();
    assert_eq!(output(&plugin, "echo", json!(2)).await, json!(2));
}
