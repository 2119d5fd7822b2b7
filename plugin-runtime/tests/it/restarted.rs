//! Which versions of a plugin a restart is about, and what is out of service.

use std::collections::BTreeSet;

use orchestrator_contract::PluginState;
use orchestrator_manifest::PluginName;
use orchestrator_plugin_runtime::{Runtime, RuntimeError};
use orchestrator_signing::GrantStore;
use serde_json::json;

use crate::{
    counter_plugin::release,
    support::{Home, PATIENCE, eventually, handle, output, processes, status},
};

fn running(id: &str) -> BTreeSet<u32> {
    let own = format!("ORCHESTRATOR_PLUGIN={id}");
    processes(&own).into_iter().collect()
}

/// The installed first version is there anew after the reload, and nobody has called it.
#[tokio::test]
async fn a_restart_starts_what_serves_and_what_is_still_used() {
    let home = Home::new();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "forgets", 1);
    let runtime = home.start().await;
    let old = handle(&runtime, &id);
    output(&old, "version", json!(0)).await;
    release(&home, &id, "1.1.0", "forgets", 2);
    runtime.reload(&id).await.unwrap();
    let before = running(&id);
    assert_eq!(before.len(), 2, "{before:?}");
    runtime.restart(&id, PATIENCE).await.unwrap();
    let after = running(&id);
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    let versions = [&old, &handle(&runtime, &id)];
    let [first, second] = versions.map(|plugin| output(plugin, "version", json!(0)));
    assert_eq!(
        (first.await, second.await),
        (json!("1.0.0"), json!("1.1.0"))
    );

    // Whoever has not called it for long has no part in it.
    drop(old);
    eventually("the old one is gone", || running(&id).len() == 1).await;
    runtime.restart(&id, PATIENCE).await.unwrap();
    assert_eq!(running(&id).len(), 1);
}

fn revoke(home: &Home, id: &str) {
    let mut grants = GrantStore::open(&home.path("grants.toml")).unwrap();
    let name = PluginName::parse(id).unwrap();
    grants.revoke(&name, None).unwrap();
}

async fn is_withdrawn(runtime: &Runtime, id: &str) {
    let state = || status(runtime, id).state;
    eventually("it goes on", || state() == PluginState::Unloaded).await;
}

#[tokio::test]
async fn what_was_withdrawn_is_disabled_until_it_is_enabled() {
    let home = Home::new();
    let id = home.id("tool");
    let dir = home.shell(&id, &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "run", json!(0)).await;
    revoke(&home, &id);
    is_withdrawn(&runtime, &id).await;
    let refused = [
        runtime.enable(&id).unwrap_err(),
        runtime.restart(&id, PATIENCE).await.unwrap_err(),
    ];
    for refused in refused {
        let RuntimeError::Refused(problem) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(problem.code, "ORC-2120");
        let reload = format!("`orchestrator plugin reload {id}` loads it again");
        assert!(problem.help.ends_with(&reload), "{}", problem.help);
    }

    runtime.disable(&id).unwrap();
    home.grant_all(&dir);
    let done = runtime.reload(&id).await.unwrap();
    assert_eq!(done.plugin.state, PluginState::Disabled);
    revoke(&home, &id);
    is_withdrawn(&runtime, &id).await;
    runtime.enable(&id).unwrap();
    runtime.enable(&id).unwrap_err();
    home.grant_all(&dir);
    runtime.reload(&id).await.unwrap();
    output(&handle(&runtime, &id), "run", json!(0)).await;
}
