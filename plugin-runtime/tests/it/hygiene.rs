//! Nothing stays behind.

use std::{fs, time::Duration};

use serde_json::json;
use tokio::time::sleep;
use tower::Service as _;

use crate::{
    node_plugin::install,
    support::{Home, call, eventually, handle, output, phase_call, processes},
};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stats = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields: Vec<_> = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            Some((fields.first()?.clone(), fields.get(1)?.clone()))
        });
    stats
        .filter(|(state, parent)| state == "Z" && *parent == own)
        .count()
}

#[tokio::test]
async fn dropping_the_runtime_ends_every_process_and_every_call() {
    let home = Home::new();
    let (node, exec) = (home.id("node"), home.id("exec"));
    install(&home, &node, "good", json!({}));
    home.shell(&exec, &["run"], "run) sleep 999 & wait;;");
    let runtime = home.start().await;
    output(&handle(&runtime, &node), "echo", json!(1)).await;
    let calls = [
        tokio::spawn(handle(&runtime, &node).call(phase_call(&node, "hang", json!(1)))),
        tokio::spawn(handle(&runtime, &exec).call(phase_call(&exec, "run", json!(1)))),
    ];
    eventually("both run", || {
        processes(&format!("ORCHESTRATOR_PLUGIN={exec}")).len() >= 2
    })
    .await;
    drop(runtime);
    for call in calls {
        let ended = tokio::time::timeout(Duration::from_secs(5), call).await;
        ended.expect("the call should end").unwrap().unwrap_err();
    }
    home.no_process_left(&node).await;
    home.no_process_left(&exec).await;
}

#[tokio::test]
async fn a_hundred_calls_and_restarts_leak_no_descriptor_and_no_zombie() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = 1_000;
    let (node, exec) = (home.id("node"), home.id("exec"));
    install(&home, &node, "good", json!({}));
    home.shell(&exec, &["run", "fail"], "run) echo 1;; fail) exit 3;;");
    let runtime = home.start().await;
    output(&handle(&runtime, &exec), "run", json!(1)).await;
    output(&handle(&runtime, &node), "echo", json!(1)).await;
    let before = descriptors();
    for round in 0..50 {
        output(&handle(&runtime, &exec), "run", json!(1)).await;
        call(&handle(&runtime, &exec), "fail", json!(1))
            .await
            .unwrap_err();
        if round % 10 == 0 {
            call(&handle(&runtime, &node), "exit3", json!(1))
                .await
                .unwrap_err();
            while call(&handle(&runtime, &node), "echo", json!(1))
                .await
                .is_err()
            {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    eventually("descriptors are back", || descriptors() <= before).await;
    eventually("no zombie is left", || zombies() == 0).await;
    runtime.shutdown(Duration::from_secs(2)).await.unwrap();
    home.no_process_left(&node).await;
}

#[tokio::test]
async fn a_runtime_started_and_dropped_many_times_leaves_nothing() {
    let home = Home::new();
    let node = home.id("node");
    install(&home, &node, "good", json!({}));
    let first = home.start().await;
    output(&handle(&first, &node), "echo", json!(1)).await;
    drop(first);
    home.no_process_left(&node).await;
    sleep(Duration::from_millis(100)).await;
    let before = descriptors();
    for _ in 0..10 {
        let runtime = home.start().await;
        output(&handle(&runtime, &node), "echo", json!(1)).await;
    }
    home.no_process_left(&node).await;
    eventually("descriptors are back", || descriptors() <= before).await;
}
