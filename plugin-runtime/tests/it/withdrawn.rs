//! What was trusted or granted is taken back while plugins run.

use std::time::Duration;

use orchestrator_contract::PluginState;
use orchestrator_manifest::PluginName;
use orchestrator_plugin_runtime::Runtime;
use orchestrator_signing::{
    Delegation, GrantStore, KeyStatus, NamePattern, SecretKey, TrustLevel, TrustStore, cosign,
};
use serde_json::json;

use crate::{
    node_plugin::install,
    support::{Home, call, eventually, handle, output, status},
};

fn revoke_grants(home: &Home, id: &str) {
    let mut grants = GrantStore::open(&home.path("grants.toml")).unwrap();
    grants
        .revoke(&PluginName::parse(id).unwrap(), None)
        .unwrap();
}

fn trust(home: &Home) -> TrustStore {
    TrustStore::open(&home.path("trust")).unwrap()
}

async fn is_withdrawn(runtime: &Runtime, id: &str, code: &str) {
    eventually(&format!("{id} goes on"), || {
        status(runtime, id).state == PluginState::Unloaded
    })
    .await;
    assert_eq!(status(runtime, id).error.unwrap().code, code);
    let refused = runtime.resolve(id, &"*".parse().unwrap()).unwrap_err();
    assert_eq!(
        miette::Diagnostic::code(&refused).unwrap().to_string(),
        code
    );
}

#[tokio::test]
async fn a_grant_that_is_taken_back_stops_the_next_call_of_a_running_plugin() {
    let home = Home::new();
    let (node, other) = (home.id("node"), home.id("other"));
    install(&home, &node, "good", json!({}));
    home.shell(&other, &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &node);
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
    revoke_grants(&home, &node);
    is_withdrawn(&runtime, &node, "ORC-2120").await;
    let refused = call(&plugin, "echo", json!(1)).await.unwrap_err();
    assert!(refused.to_string().contains("ORC-2120"), "{refused}");
    home.no_process_left(&node).await;
    assert_eq!(
        output(&handle(&runtime, &other), "run", json!({})).await,
        json!(1)
    );
    assert!(
        runtime.enable(&node).is_err(),
        "nothing brings it back but a new start"
    );
}

#[tokio::test]
async fn a_revoked_key_stops_what_it_signed_after_the_calls_that_are_under_way() {
    let home = Home::new();
    home.shell("slow", &["run"], "run) sleep 3; echo 1;;");
    home.shell("idle", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let slow = handle(&runtime, "slow");
    output(&handle(&runtime, "idle"), "run", json!({})).await;
    let under_way = tokio::spawn(async move { output(&slow, "run", json!({})).await });
    eventually("the call is under way", || {
        status(&runtime, "slow").calls > 0
    })
    .await;
    // The first call starts with checks of its own, which have to be over.
    eventually("it runs", || {
        status(&runtime, "slow").state == PluginState::Running
    })
    .await;
    let revoke =
        trust(&home).edit(|next| next.set_status("tests", KeyStatus::Revoked, Some("stolen")));
    revoke.unwrap();
    is_withdrawn(&runtime, "idle", "ORC-2046").await;
    assert_eq!(
        under_way.await.unwrap(),
        json!(1),
        "what had begun has ended"
    );
    is_withdrawn(&runtime, "slow", "ORC-2046").await;
    let message = status(&runtime, "idle").error.unwrap().message;
    assert!(message.ends_with("is revoked: stolen"), "{message}");
}

/// Files change for other reasons, and are broken by mistake.
#[tokio::test]
async fn what_does_not_concern_a_plugin_does_not_stop_it() {
    let home = Home::new();
    home.shell("tool", &["run"], "run) echo 1;;");
    home.shell("gone", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let tool = handle(&runtime, "tool");
    output(&tool, "run", json!({})).await;
    let names = vec![NamePattern::parse("else").unwrap()];
    let key = SecretKey::generate("else").unwrap();
    let terms = Delegation::new(key.public().clone(), TrustLevel::Partner, names);
    trust(&home).add(terms).unwrap();
    revoke_grants(&home, "gone");
    is_withdrawn(&runtime, "gone", "ORC-2120").await;
    assert_eq!(output(&tool, "run", json!({})).await, json!(1));
    std::fs::write(home.path("grants.toml"), "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(output(&tool, "run", json!({})).await, json!(1));
}

#[tokio::test]
async fn less_trust_stops_what_needs_more() {
    let home = Home::new();
    home.shell("tool", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    let lower = trust(&home).edit(|next| {
        let mut terms = next.delegations()[0].clone();
        terms.trust_level = TrustLevel::Partner;
        next.replace(terms)
    });
    lower.unwrap();
    is_withdrawn(&runtime, "tool", "ORC-3018").await;
}

fn revoke_key(home: &Home) {
    trust(home)
        .edit(|next| next.set_status("tests", KeyStatus::Revoked, Some("stolen")))
        .unwrap();
}

/// The file that is broken may be another than the one that says no.
#[tokio::test]
async fn a_revoked_key_is_noticed_while_grants_cannot_be_read() {
    let home = Home::new();
    home.shell("tool", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    std::fs::write(home.path("grants.toml"), "nonsense").unwrap();
    revoke_key(&home);
    is_withdrawn(&runtime, "tool", "ORC-2046").await;
}

#[tokio::test]
async fn a_grant_that_is_taken_back_is_noticed_while_trust_cannot_be_read() {
    let home = Home::new();
    home.shell("tool", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    let root = home.path("trust/root.json");
    std::fs::rename(&root, home.path("elsewhere")).unwrap();
    revoke_grants(&home, "tool");
    is_withdrawn(&runtime, "tool", "ORC-2120").await;
}

/// What was taken back while nothing could be read is looked at again, also when
/// the file itself no longer changes.
#[tokio::test]
async fn what_could_not_be_read_is_read_again() {
    let home = Home::new();
    home.shell("tool", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let tool = handle(&runtime, "tool");
    output(&tool, "run", json!({})).await;
    let serials = home.path("trust/serials.json");
    let good = std::fs::read(&serials).unwrap();
    std::fs::write(&serials, "nonsense").unwrap();
    let copy = home.path("copy");
    std::fs::create_dir(&copy).unwrap();
    let files = ["root.key", "root.json", "anchor.json"];
    for file in files {
        std::fs::copy(home.path("trust").join(file), copy.join(file)).unwrap();
    }
    std::fs::write(copy.join("serials.json"), &good).unwrap();
    let mut next = TrustStore::open(&copy).unwrap();
    let revoke = next.edit(|next| next.set_status("tests", KeyStatus::Revoked, None));
    revoke.unwrap();
    for file in files {
        std::fs::rename(copy.join(file), home.path("trust").join(file)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    output(&tool, "run", json!({})).await;
    // Neither root.json nor grants.toml changes when the trouble is over.
    std::fs::write(&serials, good).unwrap();
    is_withdrawn(&runtime, "tool", "ORC-2046").await;
}

/// Two keys each suffice; the one that was granted to is taken away.
#[tokio::test]
async fn a_grant_goes_with_the_key_it_was_given_to() {
    let home = Home::new();
    let dir = home.shell("tool", &["run"], "run) echo 1;;");
    let second = SecretKey::generate("second").unwrap();
    let names = vec![NamePattern::parse("*").unwrap()];
    let terms = Delegation::new(second.public().clone(), TrustLevel::Internal, names);
    trust(&home).add(terms).unwrap();
    cosign(&dir, &second).unwrap();
    let runtime = home.start().await;
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    revoke_key(&home);
    is_withdrawn(&runtime, "tool", "ORC-2122").await;
}
