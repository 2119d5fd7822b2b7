//! What an operator does with plugins that run, what depends on what, and health.

use std::time::Duration;

use orchestrator_contract::{CallError, Event, PluginState};
use orchestrator_plugin_runtime::{Runtime, RuntimeError, StartMode};
use orchestrator_testkit::{Signal, send, stop};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::Service as _;

use crate::{
    node_plugin::install,
    support::{Events, Home, PATIENCE, call, eventually, handle, output, phase_call, status},
};

/// The states that plugins came to, in order.
fn states(events: &Events) -> Vec<(String, PluginState)> {
    let changes = events.all().into_iter().filter_map(|event| match event {
        Event::PluginStateChanged { plugin, state, .. } => Some((plugin.to_string(), state)),
        _ => None,
    });
    changes.collect()
}

fn came_to(events: &Events, state: PluginState) -> Vec<String> {
    let changes = states(events).into_iter();
    let there = changes.filter(|(_, to)| *to == state);
    there.map(|(plugin, _)| plugin).collect()
}

async fn in_state(runtime: &Runtime, id: &str, state: PluginState) {
    let what = format!("{id} is {}", state.as_str());
    eventually(&what, || status(runtime, id).state == state).await;
}

fn needs(ids: &[&str]) -> Value {
    let ranges = ids.iter().map(|id| ((*id).to_owned(), json!("^1")));
    json!({ "dependencies": ranges.collect::<serde_json::Map<_, _>>() })
}

#[tokio::test]
async fn a_restart_lets_calls_end_and_those_that_come_wait() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "finishes", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let before = output(&plugin, "pid", json!(0)).await;
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0))));
    eventually("the call has begun", || status(&runtime, &id).calls == 1).await;
    let coming = async {
        in_state(&runtime, &id, PluginState::Starting).await;
        output(&plugin, "pid", json!(0)).await
    };
    let (restarted, after) = tokio::join!(runtime.restart(&id, PATIENCE), coming);
    restarted.unwrap();
    let finished = timeout(PATIENCE, hanging).await.unwrap().unwrap().unwrap();
    assert_eq!(finished.output.bytes, "\"finished\"");
    assert_ne!(before, after);
    let seen = status(&runtime, &id);
    assert_eq!((seen.state, seen.restarts), (PluginState::Running, 0));
    assert_eq!(json!(seen.pid.unwrap()), after);
    assert!(seen.started_at.is_some() && seen.last_problem.is_none());
    let why = |reason: &str| seen.history.iter().any(|it| &*it.reason == reason);
    assert!(why("restarted by an operator"), "{:?}", seen.history);
}

#[tokio::test]
async fn a_restart_cuts_calls_off_at_its_deadline() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(0)).await;
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0))));
    eventually("the call has begun", || status(&runtime, &id).calls == 1).await;
    runtime
        .restart(&id, Duration::from_millis(100))
        .await
        .unwrap();
    let cut = timeout(PATIENCE, hanging).await.unwrap().unwrap();
    assert!(matches!(cut, Err(CallError::Cancelled { .. })), "{cut:?}");
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
}

#[tokio::test]
async fn a_restart_ends_a_crash_loop_and_tells_when_it_does_not() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 1;
    let (good, bad) = (home.id("good"), home.id("bad"));
    install(&home, &good, "good", json!({}));
    install(&home, &bad, "exit-at-once", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &good);
    for _ in 0..2 {
        in_state(&runtime, &good, status(&runtime, &good).state).await;
        eventually("it can be called", || plugin.is_available()).await;
        let _ = call(&plugin, "exit3", json!(1)).await;
    }
    in_state(&runtime, &good, PluginState::CrashLoop).await;
    let problem = status(&runtime, &good).last_problem.unwrap();
    assert!(problem.message.contains("status 3"), "{problem:?}");
    runtime.restart(&good, PATIENCE).await.unwrap();
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
    let seen = status(&runtime, &good);
    assert!(seen.error.is_none() && seen.last_problem.is_some());

    let refused = runtime.restart(&bad, PATIENCE).await.unwrap_err();
    assert!(
        matches!(&refused, RuntimeError::NotRestarted { .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("did not start again"),
        "{refused}"
    );
    in_state(&runtime, &bad, PluginState::CrashLoop).await;
}

#[tokio::test]
async fn what_is_disabled_or_unknown_is_not_restarted() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    runtime.disable(&id).unwrap();
    let refused = runtime.restart(&id, PATIENCE).await.unwrap_err();
    assert!(refused.to_string().contains("is disabled"), "{refused}");
    assert_eq!(status(&runtime, &id).state, PluginState::Disabled);
    assert!(runtime.restart("node-x", PATIENCE).await.is_err());
}

/// By what happened before what, since a loaded machine says nothing of time.
#[tokio::test]
async fn independent_plugins_start_side_by_side() {
    let mut home = Home::new();
    home.settings.start = StartMode::Eager;
    let ids: Vec<_> = (0..10).map(|n| home.id(&format!("slow{n}"))).collect();
    for id in &ids {
        install(&home, id, "slow-start", json!({}));
    }
    let runtime = home.start().await;
    let states = states(&home.events);
    let at = |wanted| {
        states
            .iter()
            .position(|(_, state)| *state == wanted)
            .unwrap()
    };
    let started = |upto: usize| {
        let before = states[..upto].iter();
        before
            .filter(|(_, state)| *state == PluginState::Starting)
            .count()
    };
    assert_eq!(started(at(PluginState::Running)), ids.len(), "{states:?}");
    for id in &ids {
        assert_eq!(status(&runtime, id).state, PluginState::Running);
    }
}

/// Of a chain whose third does not start, the first two are ended again.
#[tokio::test]
async fn a_start_that_fails_takes_back_what_was_started_for_it() {
    let home = Home::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| home.id(name));
    install(&home, &a, "good", json!({}));
    install(&home, &b, "good", needs(&[&a]));
    install(&home, &c, "wrong-version", needs(&[&b]));
    install(&home, &d, "good", needs(&[&c]));
    let runtime = home.start().await;
    let failed = call(&handle(&runtime, &d), "echo", json!(1))
        .await
        .unwrap_err();
    let text = failed.to_string();
    assert!(
        text.contains(&format!("dependency {c} not running for plugin {d}")),
        "{text}"
    );
    for id in [&a, &b] {
        assert_eq!(status(&runtime, id).state, PluginState::Loaded);
        assert_eq!(status(&runtime, id).pid, None);
        home.no_process_left(id).await;
    }
    assert_eq!(
        came_to(&home.events, PluginState::Running),
        [a.clone(), b.clone()]
    );
    assert_eq!(
        came_to(&home.events, PluginState::Stopped),
        [b.clone(), a.clone()]
    );
    assert_eq!(status(&runtime, &c).state, PluginState::Error);
    assert_eq!(status(&runtime, &d).state, PluginState::Loaded);
    // Nothing is spoiled: they start when they are called.
    assert_eq!(
        output(&handle(&runtime, &b), "echo", json!(1)).await,
        json!(1)
    );
}

#[tokio::test]
async fn what_somebody_else_uses_is_not_taken_back() {
    let home = Home::new();
    let [base, user, bad] = ["base", "user", "bad"].map(|name| home.id(name));
    install(&home, &base, "good", json!({}));
    install(&home, &user, "good", needs(&[&base]));
    install(&home, &bad, "wrong-version", needs(&[&base]));
    let runtime = home.start().await;
    assert_eq!(
        output(&handle(&runtime, &user), "echo", json!(1)).await,
        json!(1)
    );
    let pid = status(&runtime, &base).pid;
    call(&handle(&runtime, &bad), "echo", json!(1))
        .await
        .unwrap_err();
    assert_eq!(status(&runtime, &base).pid, pid);
    assert_eq!(status(&runtime, &base).state, PluginState::Running);
}

#[tokio::test]
async fn all_are_stopped_backwards_and_all_that_went_wrong_is_told() {
    let mut home = Home::new();
    home.settings.start = StartMode::Eager;
    home.settings.stop_timeout = Duration::from_millis(200);
    home.settings.node.drain_grace = Duration::from_secs(60);
    let [a, b, c] = ["a", "b", "c"].map(|name| home.id(name));
    install(&home, &a, "deaf", json!({}));
    install(&home, &b, "good", needs(&[&a]));
    install(&home, &c, "deaf", needs(&[&b]));
    let runtime = home.start().await;
    let failed = runtime.shutdown(PATIENCE * 3).await.unwrap_err();
    let RuntimeError::Stop { failures } = &failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures.iter().all(|it| it.code == "ORC-3034"),
        "{failures:?}"
    );
    assert_eq!(came_to(&home.events, PluginState::Stopping), [&*c, &b, &a]);
    for id in [&a, &b, &c] {
        home.no_process_left(id).await;
        assert_eq!(status(&runtime, id).pid, None);
    }
}

/// The process is gone, and why is said, before the first health check.
#[tokio::test]
async fn a_plugin_that_is_not_well_after_its_start_is_stopped_again() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "health-sick", json!({}));
    let runtime = home.start().await;
    let refused = call(&handle(&runtime, &id), "echo", json!(1))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("the disk is gone (ORC-3033)"),
        "{refused}"
    );
    let seen = status(&runtime, &id);
    assert_eq!((seen.state, seen.pid), (PluginState::Error, None));
    assert_eq!(seen.health.healthy, Some(false));
    assert!(came_to(&home.events, PluginState::Running).is_empty());
    home.no_process_left(&id).await;
}

#[tokio::test]
async fn a_silent_plugin_is_late_and_well_again_when_it_speaks() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "health", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let limit = Duration::from_millis(300);
    assert_eq!(plugin.check_health(limit).await, None, "it does not run");
    output(&plugin, "echo", json!(1)).await;
    assert_eq!(
        status(&runtime, &id).health.healthy,
        None,
        "it was not asked"
    );
    assert_eq!(plugin.check_health(PATIENCE).await, Some(Ok(())));
    let well = status(&runtime, &id);
    assert_eq!(well.health.healthy, Some(true));
    assert!(well.last_seen >= well.started_at && well.started_at.is_some());

    let pid = well.pid.unwrap();
    stop(pid).await;
    let late = plugin.check_health(limit).await.unwrap();
    send(pid, Signal::CONT);
    assert_eq!(late, Err("timeout after 300ms".to_owned()));
    let sick = status(&runtime, &id);
    assert_eq!(
        (sick.health.healthy, sick.health.consecutive_fails),
        (Some(false), 1)
    );
    assert_eq!(plugin.check_health(PATIENCE).await, Some(Ok(())));
    let health = status(&runtime, &id).health;
    assert_eq!((health.healthy, health.consecutive_fails), (Some(true), 0));
    assert_eq!((health.metrics.checks, health.metrics.failures), (3, 1));
}

/// All credit is spent, and it is asked all the same.
#[tokio::test]
async fn a_busy_plugin_can_say_that_it_is_well() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "health", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let hang = || tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0))));
    let hanging: Vec<_> = (0..5).map(|_| hang()).collect();
    eventually("one waits", || status(&runtime, &id).waiting == 1).await;
    assert_eq!(plugin.check_health(PATIENCE).await, Some(Ok(())));
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Not well at once, and not only when it does not answer the next time.
#[tokio::test]
async fn a_killed_process_is_not_well_from_then_on() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_secs(600);
    home.settings.restart.max = Duration::from_secs(600);
    let id = home.id("node");
    install(&home, &id, "health", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    assert_eq!(plugin.check_health(PATIENCE).await, Some(Ok(())));
    let pid = status(&runtime, &id).pid.unwrap();
    send(pid, Signal::KILL);
    eventually("it is not well", || {
        status(&runtime, &id).health.healthy == Some(false)
    })
    .await;
    let seen = status(&runtime, &id);
    assert_eq!((seen.state, seen.pid), (PluginState::Starting, None));
    assert!(seen.last_seen.is_some() && seen.started_at.is_none());
    let problem = seen.last_problem.unwrap();
    assert_eq!(&*problem.message, "its process was killed by signal 9");
    assert_eq!(seen.health.metrics.checks, 1, "nobody had to ask");
    assert_eq!(plugin.check_health(PATIENCE).await, None);
}
