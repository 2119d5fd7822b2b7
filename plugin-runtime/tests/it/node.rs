//! Plugins of kind `node` that behave.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{
    CallError, Event, Fault, HostCallError, HostFuture, HostOperation, HostService, LogLevel,
    LogStream, PluginId, PluginState, Reconciled, RetryAdvice, SessionId, Usage,
};
use orchestrator_plugin_runtime::StartMode;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::Service as _;

use crate::{
    node_plugin::install,
    support::{Home, PATIENCE, call, eventually, handle, output, phase_call, status},
};

#[tokio::test]
async fn calls_are_answered_by_one_process_that_is_started_once() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    assert!(plugin.is_available());
    assert_eq!(status(&runtime, &id).state, PluginState::Loaded);
    assert_eq!(status(&runtime, &id).pid, None, "started by its first call");

    let both = tokio::join!(
        output(&plugin, "pid", json!(0)),
        output(&plugin, "pid", json!(0))
    );
    assert_eq!(both.0, both.1);
    let seen = status(&runtime, &id);
    assert_eq!(json!(seen.pid.unwrap()), both.0);
    assert_eq!((seen.state, seen.restarts), (PluginState::Running, 0));

    let reply = call(&plugin, "echo", json!({ "a": 1 })).await.unwrap();
    assert_eq!(reply.output.bytes, "{\"a\":1}");
    assert_eq!(reply.metadata["by"], "node");
    assert_eq!(
        reply.usage,
        Usage {
            cpu_ms: 1,
            memory_bytes: 2
        }
    );
    assert!(home.events.has_line(LogLevel::Debug, "starting as good"));
    eventually("the welcome is logged", || {
        home.events.has_line(
            LogLevel::Info,
            "welcome by 1.2.3 with process:spawn=/bin/sh",
        )
    })
    .await;
    let pid_fails = call(&plugin, "fail", json!(0)).await;
    assert_eq!(pid_fails, Err(CallError::invalid_input("not this")));

    runtime.shutdown(Duration::from_secs(2)).await.unwrap();
    assert!(
        home.events.has_line(LogLevel::Info, "draining"),
        "it was asked to finish"
    );
    let gone = call(&plugin, "echo", json!(1)).await.unwrap_err();
    assert!(gone.not_started(), "{gone}");
    home.no_process_left(&id).await;
}

/// Closing its end and ending is how a plugin obeys; neither is taken for a crash.
#[tokio::test]
async fn a_plugin_that_is_stopped_has_its_time_to_end_and_is_not_started_again() {
    for mode in ["good", "closes-first"] {
        let mut home = Home::new();
        home.settings.restart.first = Duration::from_millis(1);
        let id = home.id("node");
        install(&home, &id, mode, json!({}));
        let runtime = home.start().await;
        let plugin = handle(&runtime, &id);
        output(&plugin, "echo", json!(1)).await;
        runtime.shutdown(Duration::from_secs(10)).await.unwrap();
        let tidied_up = home.events.has_line(LogLevel::Info, "tidied up");
        assert_eq!(tidied_up, mode == "closes-first");
        assert_eq!(status(&runtime, &id).pid, None, "{mode}");

        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = |event: &Event| matches!(event, Event::PluginRestarted { .. });
        assert!(!home.events.all().iter().any(again), "{mode}");
        assert_eq!(status(&runtime, &id).restarts, 0, "{mode}");
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn payloads_beyond_a_frame_travel_in_chunks_between_other_calls() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let long = json!("y".repeat(3 << 20));
    let (one, other, small) = tokio::join!(
        output(&plugin, "echo", long.clone()),
        output(&plugin, "big", json!(2 << 20)),
        output(&plugin, "echo", json!("small")),
    );
    assert!(one == long, "the long input came back changed");
    assert_eq!(other.as_str().unwrap().len(), (2 << 20) - 2);
    assert_eq!(small, json!("small"));
}

#[tokio::test]
async fn more_calls_than_credit_wait_and_all_are_answered() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let calls: Vec<_> = (0..200)
        .map(|n| tokio::spawn(plugin.clone().call(phase_call(&id, "echo", json!(n)))))
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let reply = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.output.decode::<usize>().unwrap(), n);
    }
    assert_eq!(status(&runtime, &id).calls, 0);
}

#[tokio::test]
async fn a_call_without_credit_waits_until_its_deadline_and_the_waiting_are_bounded() {
    let mut home = Home::new();
    home.settings.node.waiting_max = 1;
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let hanging: Vec<_> = (0..4)
        .map(|_| tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0)))))
        .collect();
    eventually("four calls hang", || status(&runtime, &id).calls == 4).await;
    tokio::time::sleep(Duration::from_millis(50)).await;

    let mut late = phase_call(&id, "echo", json!(2));
    late.deadline = Some((Instant::now() + Duration::from_millis(300)).into_std());
    let late = tokio::spawn(plugin.clone().call(late));
    eventually("one call waits", || status(&runtime, &id).waiting == 1).await;
    let refused = call(&plugin, "echo", json!(3)).await;
    assert_eq!(refused, Err(CallError::Overloaded { limit: 1 }));
    let error = timeout(PATIENCE, late).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, CallError::Unavailable { .. }), "{error:?}");

    // Giving the calls up is told to the plugin, which gives its credit back.
    for call in hanging {
        call.abort();
    }
    assert_eq!(output(&plugin, "echo", json!(4)).await, json!(4));
    eventually("nothing is in flight", || status(&runtime, &id).calls == 0).await;
    assert_eq!(status(&runtime, &id).restarts, 0);
}

#[tokio::test]
async fn progress_and_log_belong_to_their_call() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "progress", json!(1)).await;
    let run = phase_call(&id, "progress", json!(1)).run;
    let events = home.events.all();
    assert!(events.contains(&Event::StepProgress {
        run,
        step: "step".into(),
        percent: Some(50),
        message: "half way".into(),
    }));
    assert!(events.iter().any(|event| matches!(
        event,
        Event::PluginLog { stream: LogStream::Protocol, level: LogLevel::Warn, run: Some(of), message, .. }
            if *of == run && &**message == "said in a call"
    )));
}

struct Colours;

impl HostService for Colours {
    fn answer<'a>(
        &'a self,
        plugin: &'a PluginId,
        session: SessionId,
        operation: HostOperation,
    ) -> HostFuture<'a> {
        Box::pin(async move {
            match operation {
                HostOperation::SessionGet { key } => {
                    Ok(json!(format!("{key} of {session} for {plugin}")))
                }
                _ => Err(HostCallError::Unsupported),
            }
        })
    }
}

#[tokio::test]
async fn questions_to_the_host_are_answered_with_the_session_of_the_call() {
    let mut home = Home::new();
    home.host = Arc::new(Colours);
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let seen = output(&handle(&runtime, &id), "session", json!(1)).await;
    let session = phase_call(&id, "session", json!(1)).session;
    assert_eq!(
        seen["value"],
        json!(format!("colour of {session} for {id}"))
    );
    assert_eq!(seen["error"], Value::Null);
}

#[tokio::test]
async fn reconcile_is_asked_and_answered() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let phase = "echo".into();
    let Reconciled::Done(reply) = plugin.reconcile(&phase, "done").await else {
        panic!("the effect happened");
    };
    assert_eq!(reply.output.bytes, "true");
    assert_eq!(plugin.reconcile(&phase, "else").await, Reconciled::NotDone);
}

#[tokio::test]
async fn a_plugin_cannot_pass_its_failures_off_as_the_hosts() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let error = call(&handle(&runtime, &id), "claims-open-circuit", json!(1))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CallError::PluginTransient {
                retry_after_ms: Some(5),
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn eager_plugins_start_with_the_runtime_dependencies_first() {
    let mut home = Home::new();
    home.settings.start = StartMode::Eager;
    let (base, user) = (home.id("base"), home.id("a-user"));
    install(&home, &base, "good", json!({}));
    install(
        &home,
        &user,
        "good",
        json!({ "dependencies": { base.clone(): "^1" } }),
    );
    let runtime = home.start().await;
    for id in [&base, &user] {
        assert_eq!(status(&runtime, id).state, PluginState::Running);
    }
    let running: Vec<_> = home
        .events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::PluginStateChanged {
                plugin,
                state: PluginState::Running,
                ..
            } => Some(plugin.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(running, [base.clone(), user.clone()]);
    runtime.shutdown(Duration::from_secs(2)).await.unwrap();
    let stopped: Vec<_> = home
        .events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::PluginStateChanged {
                plugin,
                state: PluginState::Stopped,
                ..
            } => Some(plugin.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(stopped, [user, base], "dependants stop first");
}

#[tokio::test]
async fn a_disabled_plugin_keeps_its_process_and_refuses_calls() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let pid = output(&plugin, "pid", json!(0)).await;
    let running = tokio::spawn(plugin.clone().call(phase_call(&id, "big", json!(1 << 20))));
    tokio::task::yield_now().await;
    runtime.disable(&id).unwrap();
    assert!(!plugin.is_available());
    timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    let error = call(&plugin, "echo", json!(1)).await.unwrap_err();
    assert_eq!(error, CallError::Disabled);
    // Nobody's breaker moves for it, and nobody tries again.
    assert_eq!(error.fault(), Fault::Host);
    assert_eq!(error.retry(), RetryAdvice::Never);
    runtime.enable(&id).unwrap();
    assert_eq!(output(&plugin, "pid", json!(0)).await, pid);
    assert!(runtime.enable("node-x").is_err());
}

/// Calls that end and calls that are given up at every moment, from many threads: no
/// credit is lost, no answer goes astray, and the process lives through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_on_many_threads_lose_nothing() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(0)).await;
    let callers: Vec<_> = (0..16_u64)
        .map(|caller| {
            let (plugin, id) = (plugin.clone(), id.clone());
            tokio::spawn(async move {
                for n in 0..60 {
                    let value = json!([caller, n]);
                    if n % 5 == caller % 5 {
                        let patience = Duration::from_micros(n * 40);
                        let given_up = plugin.clone().call(phase_call(&id, "hang", value));
                        assert!(timeout(patience, given_up).await.is_err());
                    } else {
                        assert_eq!(output(&plugin, "echo", value.clone()).await, value);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        timeout(PATIENCE, caller).await.unwrap().unwrap();
    }
    // All four units of credit are back: four calls can hang at once and a fifth waits.
    let hanging: Vec<_> = (0..5)
        .map(|_| tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0)))))
        .collect();
    eventually("one of five waits", || {
        let seen = status(&runtime, &id);
        (seen.calls, seen.waiting) == (5, 1)
    })
    .await;
    for call in hanging {
        call.abort();
    }
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
    assert_eq!(status(&runtime, &id).restarts, 0);
}
