//! Limits that the monitor enforces.

use std::time::Duration;

use orchestrator_contract::{CallError, Event, ViolationAction};
use orchestrator_signing::TrustLevel;
use serde_json::json;

use crate::{
    node_plugin::install,
    support::{File, Home, call, eventually, handle, output, shell_script},
};

fn limited(home: &mut Home, id: &str, resources: serde_json::Value, branch: &str) {
    home.settings.monitor.interval = Duration::from_millis(50);
    home.settings.monitor.cpu_seconds_over = 3;
    let script = shell_script(id, &["run"], &format!("run) {branch};;"));
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let manifest = json!({
        "resources": resources,
        "capabilities": ["process:spawn=/usr/bin/sleep"],
    });
    home.package(id, manifest, &[file]);
}

pub(crate) fn violated(home: &Home, resource: &str, action: ViolationAction) -> bool {
    home.events.all().iter().any(|event| matches!(
        event,
        Event::ResourceViolation { resource: of, action: by, .. } if &**of == resource && *by == action
    ))
}

#[tokio::test]
async fn too_many_tasks_too_many_files_and_too_much_processor_are_killed() {
    for level in [TrustLevel::Internal, TrustLevel::Untrusted] {
        every_limit_kills_at(level).await;
    }
}

async fn every_limit_kills_at(level: TrustLevel) {
    for (resource, resources, branch) in [
        (
            "tasks",
            json!({ "max_tasks": 3 }),
            "for n in 1 2 3 4 5 6; do sleep 60 & done; wait",
        ),
        (
            "files",
            json!({ "max_open_files": 12 }),
            "sleep 60 & sleep 60 & sleep 60 & sleep 60 & exec sleep 60",
        ),
        (
            "cpu",
            json!({ "max_cpu_percent": 5 }),
            "while :; do :; done",
        ),
    ] {
        let mut home = Home::trusting(level);
        let id = home.id("limit");
        limited(&mut home, &id, resources, branch);
        let runtime = home.start().await;
        let error = call(&handle(&runtime, &id), "run", json!({}))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, CallError::ResourceLimit { resource: of, .. } if of == resource),
            "{resource}: {error:?}"
        );
        assert!(
            violated(&home, resource, ViolationAction::Kill),
            "{resource}"
        );
        assert_eq!(
            violated(&home, resource, ViolationAction::Warn),
            resource == "cpu"
        );
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn a_node_that_takes_too_much_memory_is_killed_with_its_calls() {
    let mut home = Home::new();
    home.settings.monitor.interval = Duration::from_millis(50);
    let id = home.id("node");
    // The monitor's bound lies below what the kernel lets through.
    install(
        &home,
        &id,
        "good",
        json!({ "resources": { "max_memory_mb": 250 } }),
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let error = call(&plugin, "memory", json!(1)).await.unwrap_err();
    assert!(
        matches!(&error, CallError::ResourceLimit { resource, .. } if resource == "memory"),
        "{error:?}"
    );
    assert!(violated(&home, "memory", ViolationAction::Kill));
}

#[tokio::test]
async fn what_a_plugin_uses_is_sampled_and_falls_back_to_zero() {
    let mut home = Home::new();
    let id = home.id("sampled");
    limited(
        &mut home,
        &id,
        json!({}),
        "n=0; while [ $n -lt 60000 ]; do n=$((n+1)); done; sleep 0.3; echo 1",
    );
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "run", json!({})).await;
    let samples = || -> Vec<(u64, u64)> {
        let events = home.events.all().into_iter();
        events
            .filter_map(|event| match event {
                Event::PluginSampled {
                    memory_bytes,
                    cpu_micros,
                    ..
                } => Some((memory_bytes, cpu_micros)),
                _ => None,
            })
            .collect()
    };
    eventually("memory was seen", || {
        samples().iter().any(|(memory, _)| *memory > 100_000)
    })
    .await;
    eventually("processor time was seen", || {
        samples().iter().any(|(_, cpu)| *cpu > 0)
    })
    .await;
    eventually("the gauge is back at zero", || {
        samples().last() == Some(&(0, 0))
    })
    .await;
}
