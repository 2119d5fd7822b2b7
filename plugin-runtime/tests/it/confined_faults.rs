//! Faults of plugins that are confined: calls in flight end with the right error in bounded
//! time, nothing is orphaned, and the next call works.

use std::{fs, path::PathBuf, time::Duration};

use orchestrator_contract::{CallError, Event, PluginState};
use orchestrator_plugin_runtime::{PluginHandle, Runtime};
use orchestrator_signing::TrustLevel;
use orchestrator_testkit::{Signal, send};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::Service as _;

use crate::{
    node_plugin,
    support::{
        File, Home, PATIENCE, call, eventually, handle, output, phase_call, shell_script, status,
    },
};

/// A node of level 1 that may start what its `start` phase needs.
fn node(home: &Home, id: &str) {
    let program = std::env::current_exe().unwrap().display().to_string();
    let spawn = [&*program, "/usr/bin/sleep", "/usr/bin/setsid"];
    let spawn = spawn.map(|path| format!("process:spawn={path}"));
    node_plugin::install(home, id, "good", json!({ "capabilities": spawn }));
}

fn pid(runtime: &Runtime, id: &str) -> u32 {
    status(runtime, id).pid.expect("it runs")
}

/// The namespace of processes that `pid` is in.
fn namespace(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap()
}

/// Fails unless all processes of `namespace` are gone soon.
async fn emptied(namespace: &PathBuf) {
    eventually("a process is left in the namespace", || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut namespaces =
            processes.filter_map(|it| fs::read_link(it.path().join("ns/pid")).ok());
        !namespaces.any(|it| it == *namespace)
    })
    .await;
}

async fn works_again(runtime: &Runtime, id: &str, plugin: &PluginHandle) {
    eventually("it is not started again", || {
        let now = status(runtime, id);
        now.state == PluginState::Running && now.restarts == 1
    })
    .await;
    assert_eq!(output(plugin, "echo", json!([7])).await, json!([7]));
}

/// A confined node with a child in a session of its own, and what became of a call that
/// hangs while `fault` happens to its process.
async fn struck(home: &Home, fault: Signal) -> (Runtime, Result<(), CallError>) {
    let id = home.id("node");
    node(home, &id);
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let child = "setsid sleep 999 <&- >&- 2>&- & echo $!";
    output(&plugin, "start", json!(child)).await;
    let struck = pid(&runtime, &id);
    let namespace = namespace(struck);
    let hanging = plugin.clone().call(phase_call(&id, "hang", Value::Null));
    let hanging = tokio::spawn(timeout(Duration::from_secs(2), hanging));
    eventually("the call does not begin", || {
        status(&runtime, &id).calls > 0
    })
    .await;
    send(struck, fault);
    let ended = timeout(PATIENCE, hanging).await.unwrap().unwrap();
    emptied(&namespace).await;
    works_again(&runtime, &id, &plugin).await;
    // Who gave up waiting was told nothing.
    (runtime, ended.map_or(Ok(()), |ended| ended.map(drop)))
}

#[tokio::test]
async fn a_killed_plugin_fails_its_calls_and_leaves_nothing() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let (_runtime, ended) = struck(&home, Signal::KILL).await;
    let error = ended.unwrap_err();
    let by_signal = "was killed by signal 9";
    assert!(
        matches!(&error, CallError::Crash { status, .. } if status == by_signal),
        "{error:?}"
    );
}

/// It cannot take the cancellation of a call that nobody waits for any more.
#[tokio::test]
async fn a_stopped_plugin_is_replaced_when_a_call_is_given_up() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    home.settings.node.cancel_grace = Duration::from_millis(200);
    let (_runtime, ended) = struck(&home, Signal::STOP).await;
    ended.expect("the caller gave up first");
    assert!(home.events.all().iter().any(|event| matches!(
        event,
        Event::PluginRestarted { reason, .. } if reason.contains("ignored_cancel")
    )));
}

fn exec(home: &Home, id: &str, phases: &[&str], branches: &str) {
    let script = shell_script(id, phases, branches);
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let phases: Vec<_> = phases.iter().map(|name| json!({ "name": name })).collect();
    let manifest = json!({
        "phases": phases,
        "capabilities": ["process:spawn=/usr/bin/sleep"],
    });
    home.package(id, manifest, &[file]);
}

#[tokio::test]
async fn a_stopped_call_of_an_exec_plugin_ends_with_who_waits_for_it() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("exec");
    exec(
        &home,
        &id,
        &["hangs", "works"],
        "hangs) sleep 999;;\n works) echo 1;;",
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let hanging = tokio::spawn(plugin.clone().call(phase_call(&id, "hangs", Value::Null)));
    let marked = format!("ORCHESTRATOR_PLUGIN={id}");
    let running = || crate::support::processes(&marked);
    eventually("both processes run", || running().len() == 2).await;
    let namespace = namespace(running()[0]);
    for pid in running() {
        send(pid, Signal::STOP);
    }
    hanging.abort();
    emptied(&namespace).await;
    assert_eq!(output(&plugin, "works", Value::Null).await, json!(1));
}

#[tokio::test]
async fn closed_pipes_end_no_call_that_could_go_on_and_hold_up_none() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("exec");
    let branches = "reads-nothing) exec <&-; echo 1;;\n\
         says-nothing) exec >&- 2>&-; exit 0;;\n\
         stays) exec <&- >&- 2>&-; sleep 999;;";
    exec(
        &home,
        &id,
        &["reads-nothing", "says-nothing", "stays"],
        branches,
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    // More than any pipe holds.
    let much = json!("x".repeat(4 << 20));
    assert_eq!(
        output(&plugin, "reads-nothing", much.clone()).await,
        json!(1)
    );
    let silent = call(&plugin, "says-nothing", Value::Null)
        .await
        .unwrap_err();
    assert!(
        matches!(
            silent,
            CallError::InvalidOutput { .. } | CallError::Protocol { .. }
        ),
        "{silent:?}"
    );
    let stays = tokio::spawn(plugin.clone().call(phase_call(&id, "stays", much)));
    let marked = format!("ORCHESTRATOR_PLUGIN={id}");
    eventually("it stays", || crate::support::processes(&marked).len() == 2).await;
    stays.abort();
    home.no_process_left(&id).await;
    assert_eq!(
        output(&plugin, "reads-nothing", Value::Null).await,
        json!(1)
    );
}

/// A machine that slept: all clocks are a day later at once.
#[tokio::test]
async fn a_jump_of_the_clock_ends_no_plugin() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("node");
    node(&home, &id);
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let before = pid(&runtime, &id);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    tokio::time::resume();
    assert_eq!(output(&plugin, "echo", json!(2)).await, json!(2));
    assert_eq!(
        (pid(&runtime, &id), status(&runtime, &id).restarts),
        (before, 0)
    );
}
