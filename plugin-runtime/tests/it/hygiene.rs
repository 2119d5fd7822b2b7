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

/// Zombies of this process and of the keeper between it and its plugins.
fn zombies() -> usize {
    let stats: Vec<(u32, String, u32)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (pid, _) = stat.split_once(' ')?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?.to_owned(), fields.next()?);
            Some((pid.parse().ok()?, state, parent.parse().ok()?))
        })
        .collect();
    let own = std::process::id();
    let mut parents: Vec<u32> = stats
        .iter()
        .filter(|(_, _, parent)| *parent == own)
        .map(|(pid, _, _)| *pid)
        .collect();
    parents.push(own);
    stats
        .iter()
        .filter(|(_, state, parent)| state == "Z" && parents.contains(parent))
        .count()
}

/// Leaves group, session, environment and parent behind, writes its id to descriptor 1
/// and goes on.
const STRAY: &str = "(env -i setsid sh -c 'echo $$; exec sleep 999' </dev/null 2>/dev/null &)";

async fn gone(pid: u64) {
    eventually("a stray is left", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn what_an_exec_plugin_leaves_behind_goes_with_its_call() {
    let home = Home::new();
    let id = home.id("exec");
    // Told before the plugin ends: it may never get to say it itself.
    let stray = |descriptors: &str| {
        format!("echo $(env -i setsid sh -c 'sleep 999 </dev/null {descriptors} & echo $!')")
    };
    let branches = format!(
        "ends) {};;\n holds) exec 3>&1; {};;\n hangs) {STRAY} >&2; sleep 999;;",
        stray(">/dev/null 2>/dev/null"),
        stray(">&3 2>/dev/null"),
    );
    home.shell(&id, &["ends", "hangs", "holds"], &branches);
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    // Also where the stray holds the pipe that is read to its end.
    for phase in ["ends", "holds"] {
        let pid = output(&plugin, phase, json!(1)).await;
        gone(pid.as_u64().unwrap()).await;
    }
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hangs", json!(1))));
    let said = || home.events.lines().first().map(|(_, line)| line.clone());
    eventually("it has started a stray", || said().is_some()).await;
    hanging.abort();
    gone(said().unwrap().parse().unwrap()).await;
}

#[tokio::test]
async fn what_a_node_plugin_leaves_behind_goes_with_its_process() {
    let mut home = Home::new();
    home.settings.restart.first = Duration::from_millis(1);
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let stray = async || {
        let pid = output(&plugin, "start", json!(STRAY)).await;
        let pid = pid.as_u64().unwrap();
        assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
        assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "it may go on");
        pid
    };
    let first = stray().await;
    call(&plugin, "exit3", json!(1)).await.unwrap_err();
    gone(first).await;
    eventually("it is started again", || plugin.is_available()).await;
    let second = stray().await;
    runtime.shutdown(Duration::from_secs(2)).await.unwrap();
    gone(second).await;
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
