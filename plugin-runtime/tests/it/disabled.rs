//! Plugins that an operator disables while they are reloaded, or before they are there.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{CallError, PluginState};
use orchestrator_plugin_runtime::Runtime;
use semver::Version;
use serde_json::{Value, json};
use tower::Service as _;

use crate::{
    counter_plugin::release,
    support::{
        File, Home, PATIENCE, call, eventually, handle, leads_to, output, phase_call, processes,
        reloading, shell_script,
    },
};

fn state(runtime: &Runtime, id: &str, version: &str) -> PluginState {
    let plugins = runtime.plugins().into_iter();
    let mut found = plugins.filter(|it| it.id == id && it.version.to_string() == version);
    found.next().unwrap().state
}

async fn takes_no_call(runtime: &Runtime, id: &str) {
    let refused = call(&handle(runtime, id), "version", json!(0)).await;
    assert_eq!(refused.unwrap_err(), CallError::Disabled);
}

/// A version that needs a plugin that is not there.
fn release_in_need(home: &Home, version: &str, needs: Value) {
    let script = shell_script("tool", &["run"], "run) echo 1;;").replace("1.0.0", version);
    let (path, content) = ("main.sh", &*script);
    let manifest = json!({ "version": version, "dependencies": needs });
    let dir = home.unsigned_package("tool", manifest, &[File { path, content }]);
    home.sign(&dir);
    home.grant_all(&dir);
}

#[tokio::test]
async fn a_version_that_cannot_be_enabled_keeps_no_other_from_it() {
    let home = Home::new();
    release_in_need(&home, "1.0.0", json!({ "nobody": "^1" }));
    release_in_need(&home, "1.1.0", json!({}));
    let runtime = home.start().await;
    runtime.disable("tool").unwrap();
    assert_eq!(state(&runtime, "tool", "1.1.0"), PluginState::Disabled);
    runtime.enable("tool").unwrap();
    assert_eq!(state(&runtime, "tool", "1.0.0"), PluginState::Error);
    output(&handle(&runtime, "tool"), "run", json!(0)).await;
}

#[tokio::test]
async fn what_is_disabled_while_the_new_version_starts_is_not_let_in() {
    let home = Home::new();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = Arc::new(home.start().await);
    output(&handle(&runtime, &id), "count", json!(0)).await;
    release(&home, &id, "1.1.0", "slow", 2);
    let reloading = reloading(&runtime, &id);
    let own = format!("ORCHESTRATOR_PLUGIN={id}");
    eventually("the new one starts", || processes(&own).len() == 2).await;
    runtime.disable(&id).unwrap();
    let done = reloading.await.unwrap().unwrap();
    assert_eq!(done.version, Version::new(1, 1, 0));
    assert_eq!(done.plugin.state, PluginState::Disabled);
    takes_no_call(&runtime, &id).await;
    runtime.enable(&id).unwrap();
    let answer = output(&handle(&runtime, &id), "version", json!(0)).await;
    assert_eq!(answer, json!("1.1.0"));
}

/// Names lead to the new version while the old one is waited for, which then goes on.
#[tokio::test]
async fn what_is_disabled_while_its_state_moves_stays_so_when_the_reload_fails() {
    let mut home = Home::new();
    home.settings.reload.settle = Duration::from_millis(100);
    home.settings.reload.hold_max = Duration::from_secs(1);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = Arc::new(home.start().await);
    let old = handle(&runtime, &id);
    let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
    output(&old, "version", json!(0)).await;
    release(&home, &id, "1.1.0", "counts", 2);
    let reloading = reloading(&runtime, &id);
    leads_to(&runtime, &id, "1.1.0").await;
    runtime.disable(&id).unwrap();
    let refused = call(&old, "version", json!(0)).await;
    assert_eq!(refused.unwrap_err(), CallError::Disabled, "on its way out");
    reloading.await.unwrap().unwrap_err();
    assert_eq!(state(&runtime, &id, "1.0.0"), PluginState::Disabled);
    takes_no_call(&runtime, &id).await;
    runtime.enable(&id).unwrap();
    output(&old, "now", json!(0)).await;
    tokio::time::timeout(PATIENCE, later)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_is_disabled_before_it_is_there_is_loaded_and_not_started() {
    let home = Home::new();
    let id = home.id("counter");
    let runtime = home.start().await;
    runtime.disable(&id).unwrap_err();
    runtime.keep_disabled(&id);
    release(&home, &id, "1.0.0", "counts", 1);
    let done = runtime.reload(&id).await.unwrap();
    assert_eq!(done.plugin.state, PluginState::Disabled);
    takes_no_call(&runtime, &id).await;
    assert_eq!(done.plugin.pid, None);
    runtime.enable(&id).unwrap();
    output(&handle(&runtime, &id), "count", json!(0)).await;
}

/// What was found before is what is stopped, and what is listed then.
#[tokio::test]
async fn a_reload_that_fails_while_all_is_stopped_leaves_nothing_behind() {
    let mut home = Home::new();
    home.settings.reload.hold_max = Duration::from_secs(1);
    let id = home.id("counter");
    let dir = release(&home, &id, "1.0.0", "counts", 1);
    let runtime = Arc::new(home.start().await);
    let old = handle(&runtime, &id);
    let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
    output(&old, "version", json!(0)).await;
    std::fs::remove_dir_all(dir).unwrap();
    release(&home, &id, "1.1.0", "counts", 2);
    let reloading = reloading(&runtime, &id);
    leads_to(&runtime, &id, "1.1.0").await;
    let stopped = tokio::join!(runtime.shutdown(Duration::from_secs(3)), reloading);
    stopped.1.unwrap().unwrap_err();
    assert_eq!(state(&runtime, &id, "1.0.0"), PluginState::Unloaded);
    let own = format!("ORCHESTRATOR_PLUGIN={id}");
    eventually("a process is left", || processes(&own).is_empty()).await;
    let _ = later.await;
}
