//! Processes that stand still: a plugin's, and the parent of all of them. What waits for
//! them ends in bounded time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use orchestrator_contract::CallError;
use orchestrator_testkit::{Signal, keeper, send, stop};
use rustix::process::{Pid, kill_process};
use serde_json::json;
use tokio::time::timeout;
use tower::Service as _;

use crate::{
    counter_plugin::release,
    node_plugin::install,
    reload_faults::{code, processes_are, serves},
    support::{
        Home, PATIENCE, call, eventually, handle, leads_to, output, phase_call, processes,
        reloading, signal_the_keeper, status,
    },
};

fn home() -> Home {
    let mut home = Home::new();
    home.settings.reload.settle = Duration::from_millis(10);
    home.settings.reload.hold_max = Duration::from_secs(1);
    home
}

fn pid(id: &str, besides: Option<u32>) -> u32 {
    let mut all = processes(&format!("ORCHESTRATOR_PLUGIN={id}"));
    all.retain(|pid| Some(*pid) != besides);
    assert_eq!(all.len(), 1);
    all[0]
}

#[tokio::test]
async fn an_old_version_that_stands_still_is_not_reloaded_and_keeps_its_state() {
    let home = home();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "count", json!(0)).await;
    release(&home, &id, "1.1.0", "counts", 2);
    let old = pid(&id, None);
    stop(old).await;
    let refused = timeout(PATIENCE, runtime.reload(&id)).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(code(&refused), "ORC-3056", "{refused}");
    processes_are(&id, 1).await;
    send(old, Signal::CONT);
    let count = output(&handle(&runtime, &id), "count", json!(0)).await;
    assert_eq!(count, json!(2));
    runtime.reload(&id).await.unwrap();
    serves(&runtime, &id, "1.1.0").await;
}

/// In its start, and when it is to take over.
#[tokio::test]
async fn a_new_version_that_stands_still_does_not_take_over() {
    for (mode, expected) in [("slower", "ORC-3054"), ("counts", "ORC-3056")] {
        let mut home = home();
        home.settings.node.handshake_timeout = Duration::from_secs(6);
        let id = home.id("counter");
        release(&home, &id, "1.0.0", "counts", 1);
        let runtime = Arc::new(home.start().await);
        output(&handle(&runtime, &id), "count", json!(0)).await;
        let first = pid(&id, None);
        let old = handle(&runtime, &id);
        let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
        output(&old, "version", json!(0)).await;
        release(&home, &id, "1.1.0", mode, 2);
        let reloading = reloading(&runtime, &id);
        match mode {
            "slower" => processes_are(&id, 2).await,
            _ => leads_to(&runtime, &id, "1.1.0").await,
        }
        stop(pid(&id, Some(first))).await;
        output(&old, "now", json!(0)).await;
        timeout(PATIENCE, later).await.unwrap().unwrap().unwrap();
        let refused = timeout(PATIENCE, reloading).await.unwrap().unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
        processes_are(&id, 1).await;
        let count = output(&handle(&runtime, &id), "count", json!(0)).await;
        assert_eq!(count, json!(2));
        serves(&runtime, &id, "1.0.0").await;
    }
}

/// It stands between the host and its plugins when one starts or ends, and is told to
/// go on.
#[tokio::test]
async fn a_keeper_that_is_stopped_holds_up_neither_calls_nor_a_reload() {
    let home = home();
    let (id, exec) = (home.id("counter"), home.id("exec"));
    release(&home, &id, "1.0.0", "counts", 1);
    home.shell(&exec, &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "count", json!(0)).await;
    signal_the_keeper(Signal::STOP);
    let count = output(&handle(&runtime, &id), "count", json!(0)).await;
    assert_eq!(count, json!(2));
    release(&home, &id, "1.1.0", "counts", 2);
    let done = timeout(PATIENCE, runtime.reload(&id)).await.unwrap();
    assert!(done.unwrap().state.kept);
    signal_the_keeper(Signal::STOP);
    let ran = output(&handle(&runtime, &exec), "run", json!(0)).await;
    assert_eq!(ran, json!(1));
    let count = output(&handle(&runtime, &id), "count", json!(0)).await;
    assert_eq!(count, json!(3));
    processes_are(&id, 1).await;
}

/// Somebody who stops it whenever it goes on makes it useless, and it is given up with
/// all that is below it. Whoever needs it is told; the next one works.
#[tokio::test]
async fn a_keeper_that_is_stopped_again_and_again_is_replaced() {
    let home = home();
    let (id, exec) = (home.id("node"), home.id("exec"));
    install(&home, &id, "good", json!({}));
    home.shell(&exec, &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(0)).await;
    output(&handle(&runtime, &exec), "run", json!(0)).await;
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hang", json!(0))));
    eventually("the call has begun", || status(&runtime, &id).calls == 1).await;

    let is_over = Arc::new(AtomicBool::new(false));
    let target = keeper(std::process::id()).unwrap();
    let attacker = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let target = Pid::from_raw(target as i32).unwrap();
            // Until it is gone.
            while !is_over.load(Ordering::Relaxed) && kill_process(target, Signal::STOP).is_ok() {
                thread::yield_now();
            }
        })
    };
    let (refused, struck) = tokio::join!(
        async {
            loop {
                // Now and then one gets through.
                if let Err(error) = call(&handle(&runtime, &exec), "run", json!(0)).await {
                    return error;
                }
            }
        },
        timeout(PATIENCE, hanging)
    );
    is_over.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert!(refused.to_string().contains("keeper"), "{refused}");
    let struck = struck.unwrap().unwrap().unwrap_err();
    let is_told = matches!(&struck, CallError::Crash { status, .. } if status.contains("keeper"));
    assert!(is_told, "{struck:?}");
    assert_eq!(
        output(&handle(&runtime, &exec), "run", json!(0)).await,
        json!(1)
    );
    eventually("it is started again", || plugin.is_available()).await;
    assert_eq!(output(&plugin, "echo", json!(2)).await, json!(2));
    assert_ne!(keeper(std::process::id()), Some(target));
}
