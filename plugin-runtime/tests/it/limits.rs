//! Plugins that want more than they may have, each really, and what becomes of them. What
//! a control group holds is only looked at where this host has them.

use std::time::Duration;

use orchestrator_contract::{CallError, ErrorKind, Event, ViolationAction};
use orchestrator_plugin_runtime::{LimitPolicy, PluginStatus, limits_of_host};
use orchestrator_signing::TrustLevel;
use serde_json::{Value, json};

use crate::{
    node_plugin::install,
    support::{File, Home, call, eventually, handle, output, shell_script, status},
};

/// Doubles a string until there is no more memory.
const TAKES_MEMORY: &str = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
/// Uses processor time for a second or more, then answers.
const BUSY: &str = "n=0; while [ $n -lt 600000 ]; do n=$((n+1)); done; echo 1";

pub(crate) fn plugin(home: &mut Home, id: &str, manifest: Value, branches: &str) {
    home.settings.monitor.interval = Duration::from_millis(50);
    home.settings.monitor.cpu_seconds_over = 3;
    let script = shell_script(id, &["run", "other"], branches);
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let mut whole = json!({ "phases": [{ "name": "run" }, { "name": "other" }] });
    for (key, value) in manifest.as_object().unwrap() {
        whole[key] = value.clone();
    }
    home.package(id, whole, &[file]);
}

/// Whether a control group of this host holds the limit.
fn is_grouped(limit: &str) -> bool {
    let limits = limits_of_host();
    let of = limits.iter().find(|it| it.limit == limit).unwrap();
    of.by.iter().any(|by| by.starts_with("cgroup"))
}

pub(crate) fn violations(home: &Home, resource: &str) -> Vec<ViolationAction> {
    let events = home.events.all().into_iter();
    let actions = events.filter_map(|event| match event {
        Event::ResourceViolation {
            resource: of,
            action,
            ..
        } if &*of == resource => Some(action),
        _ => None,
    });
    actions.collect()
}

pub(crate) fn resource(error: &CallError) -> &str {
    match error {
        CallError::ResourceLimit { resource, .. } => resource,
        other => panic!("no limit: {other:?}"),
    }
}

fn held_by(status: &PluginStatus, resource: &str) -> Vec<&'static str> {
    let mut held = status.limits_held.iter();
    held.find(|it| it.resource == resource).unwrap().by.clone()
}

#[tokio::test]
async fn a_memory_bomb_is_killed_by_the_kernel_and_is_no_crash() {
    if !is_grouped("max_memory_mb") {
        return;
    }
    for level in [TrustLevel::Untrusted, TrustLevel::Internal] {
        let mut home = Home::trusting(level);
        // Nobody looks: it is the kernel that sees it.
        let id = home.id("bomb");
        let branches =
            format!("run) {TAKES_MEMORY};;\nother) ({TAKES_MEMORY}); [ $? = 0 ] || exit 3;;");
        plugin(
            &mut home,
            &id,
            json!({ "resources": { "max_memory_mb": 24 } }),
            &branches,
        );
        home.settings.monitor.interval = Duration::from_secs(600);
        let runtime = home.start().await;
        let plugin = handle(&runtime, &id);
        for (told, phase) in ["run", "other"].into_iter().enumerate() {
            let error = call(&plugin, phase, json!({})).await.unwrap_err();
            assert_eq!(resource(&error), "memory", "{phase}");
            assert!(error.to_string().contains("ORC-3064"), "{error}");
            assert_eq!(violations(&home, "memory").len(), told + 1, "{phase}");
        }
        assert_eq!(violations(&home, "memory")[0], ViolationAction::Kill);
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn an_end_that_is_not_for_want_of_memory_stays_a_crash() {
    let mut home = Home::new();
    let id = home.id("crash");
    let branches = "run) kill -9 $$;;\nother) ulimit -d 20000; x=aaaaaaaaaaaaaaaa; \
        while :; do x=$x$x; done;;";
    plugin(
        &mut home,
        &id,
        json!({ "resources": { "max_memory_mb": 512 } }),
        branches,
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let error = call(&plugin, "run", json!({})).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Crash, "{error}");
    let error = call(&plugin, "other", json!({})).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::ResourceLimit, "{error}");
    assert_eq!(violations(&home, "memory"), []);
}

#[tokio::test]
async fn a_node_that_was_killed_for_memory_says_so_and_is_started_again() {
    if !is_grouped("max_memory_mb") {
        return;
    }
    let mut home = Home::new();
    home.settings.monitor.interval = Duration::from_secs(600);
    let id = home.id("node");
    install(
        &home,
        &id,
        "good",
        json!({ "resources": { "max_memory_mb": 200 } }),
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "echo", json!(1)).await;
    let error = call(&plugin, "memory", json!(1)).await.unwrap_err();
    assert_eq!(resource(&error), "memory");
    assert!(error.to_string().contains("ORC-3064"), "{error}");
    assert_eq!(violations(&home, "memory"), [ViolationAction::Kill]);
    let restarted = || {
        home.events.all().iter().any(|event| {
            matches!(event, Event::PluginRestarted { reason, .. } if reason.contains("ORC-3064"))
        })
    };
    eventually("it is started again", restarted).await;
    eventually("it runs", || status(&runtime, &id).pid.is_some()).await;
    assert_eq!(output(&plugin, "echo", json!(2)).await, json!(2));
}

#[tokio::test]
async fn processor_time_is_warned_of_kept_away_or_killed_for() {
    for policy in [LimitPolicy::Warn, LimitPolicy::Throttle, LimitPolicy::Kill] {
        if policy == LimitPolicy::Throttle && !is_grouped("max_cpu_percent") {
            continue;
        }
        let mut home = Home::trusting(TrustLevel::Untrusted);
        home.settings.monitor.policy.level1 = policy;
        let id = home.id("busy");
        let resources = json!({ "resources": { "max_cpu_percent": 20 } });
        let branch = match policy {
            LimitPolicy::Kill => "run) while :; do :; done;;".to_owned(),
            _ => format!("run) {BUSY};;"),
        };
        plugin(&mut home, &id, resources, &branch);
        let runtime = home.start().await;
        let called = call(&handle(&runtime, &id), "run", json!({})).await;
        let seen = violations(&home, "cpu");
        let has = |action| seen.contains(&action);
        use ViolationAction::{Kill, Throttle, Warn};
        match policy {
            LimitPolicy::Warn => {
                called.unwrap();
                assert!(has(Warn) && !has(Kill) && !has(Throttle), "{seen:?}");
            }
            LimitPolicy::Throttle => {
                called.unwrap();
                assert!(has(Throttle) && !has(Kill), "{seen:?}");
            }
            LimitPolicy::Kill => {
                assert_eq!(resource(&called.unwrap_err()), "cpu");
                assert!(has(Warn) && has(Kill), "{seen:?}");
            }
        }
        home.no_process_left(&id).await;
    }
}

#[tokio::test]
async fn whoever_is_only_warned_goes_on_with_more_than_it_may_have() {
    let mut home = Home::trusting(TrustLevel::Partner);
    home.settings.monitor.policy.level2 = LimitPolicy::Warn;
    let id = home.id("warned");
    let manifest = json!({
        "resources": { "max_memory_mb": 8, "max_tasks": 2, "max_open_files": 4 },
        "capabilities": ["process:spawn=/usr/bin/sleep"],
    });
    let branch = "run) x=aaaaaaaaaaaaaaaa; n=0; while [ $n -lt 21 ]; do x=$x$x; n=$((n+1)); done; \
        sleep 1 & sleep 1 & sleep 1 & wait; echo 1;;";
    plugin(&mut home, &id, manifest, branch);
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "run", json!({})).await;
    for resource in ["memory", "tasks", "files"] {
        let seen = violations(&home, resource);
        let warned = seen.iter().all(|action| *action == ViolationAction::Warn);
        assert!(warned && !seen.is_empty(), "{resource}: {seen:?}");
    }
    assert_eq!(held_by(&status(&runtime, &id), "memory"), ["monitor"]);
    assert_eq!(held_by(&status(&runtime, &id), "files"), ["monitor"]);
}

#[tokio::test]
async fn a_full_disk_is_the_plugin_s_own_and_empty_for_the_next_call() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("disk");
    let branch = "run) cd \"$TMPDIR\" || exit 9; for old in *; do [ -e \"$old\" ] && exit 8; done\n\
        k=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; k=$k$k$k$k$k$k$k$k; k=$k$k$k$k; n=0\n\
        while printf %s $k >> file; do n=$((n+1)); done 2> /dev/null\n\
        : > other && echo x > other; [ -s other ] && exit 7; sleep 0.3; echo $n;;";
    plugin(
        &mut home,
        &id,
        json!({
            "resources": { "max_disk_mb": 2 },
            "capabilities": ["process:spawn=/usr/bin/sleep"],
        }),
        branch,
    );
    let runtime = home.start().await;
    for _ in 0..2 {
        let kibibytes = output(&handle(&runtime, &id), "run", json!({})).await;
        let kibibytes = kibibytes.as_u64().unwrap();
        assert!((1900..=2048).contains(&kibibytes), "{kibibytes}");
    }
    assert_eq!(held_by(&status(&runtime, &id), "disk"), ["tmpfs", "rlimit"]);
    let told = violations(&home, "disk");
    let is_held = told.iter().all(|it| *it == ViolationAction::Throttle);
    assert!(is_held && !told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn a_limit_of_disk_space_is_refused_where_others_write_too() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let directory = home.path("data");
    std::fs::create_dir(&directory).unwrap();
    let id = home.id("writes");
    let manifest = json!({
        "resources": { "max_disk_mb": 2 },
        "capabilities": [format!("file:write={}", directory.display())],
    });
    plugin(&mut home, &id, manifest, "run) echo 1;;");
    let runtime = home.start().await;
    let problem = status(&runtime, &id).error.unwrap();
    assert_eq!(problem.code, "ORC-3019");
    assert!(
        problem.message.contains("file:write"),
        "{}",
        problem.message
    );
}

/// Its author does not say how much a plugin may use that is not trusted.
#[tokio::test]
async fn a_confined_plugin_has_what_the_operator_allows_whatever_it_asks_for() {
    let much = json!({ "max_memory_mb": 4000, "max_tasks": 4000, "max_open_files": 4000 });
    for (level, resources) in [
        (TrustLevel::Untrusted, json!({})),
        (TrustLevel::Untrusted, much.clone()),
        (TrustLevel::Partner, much.clone()),
        (TrustLevel::Internal, much),
    ] {
        let mut home = Home::trusting(level);
        home.settings.sandbox.memory_max = 24 << 20;
        home.settings.sandbox.tasks_max = 9;
        home.settings.sandbox.open_files_max = 70;
        let id = home.id("much");
        let branches = format!("run) ulimit -Hn;;\nother) {TAKES_MEMORY};;");
        plugin(&mut home, &id, json!({ "resources": resources }), &branches);
        let runtime = home.start().await;
        let has = status(&runtime, &id).limits;
        let plugin = handle(&runtime, &id);
        let files = output(&plugin, "run", json!({})).await;
        if level == TrustLevel::Internal {
            assert_eq!(
                (has.memory_bytes, has.tasks),
                (Some(4000 << 20), Some(4000))
            );
            assert_eq!(files, json!(4000));
            continue;
        }
        assert_eq!((has.memory_bytes, has.tasks), (Some(24 << 20), Some(9)));
        assert_eq!(files, json!(70));
        // Where nobody but the monitor sees it, an allocation may fail before.
        let error = call(&plugin, "other", json!({})).await.unwrap_err();
        if is_grouped("max_memory_mb") {
            assert_eq!(resource(&error), "memory", "{error}");
        }
    }
}

#[tokio::test]
async fn a_fork_bomb_ends_and_nothing_of_it_is_left() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("forks");
    let manifest = json!({
        "resources": { "max_tasks": 10 },
        "capabilities": ["process:spawn=/usr/bin/sleep"],
    });
    plugin(
        &mut home,
        &id,
        manifest,
        "run) while :; do sleep 600 & done;;",
    );
    let runtime = home.start().await;
    let error = call(&handle(&runtime, &id), "run", json!({}))
        .await
        .unwrap_err();
    // Whoever can make no more may give up before anybody looks.
    if error.kind() == ErrorKind::ResourceLimit {
        assert_eq!(resource(&error), "tasks");
        assert!(violations(&home, "tasks").contains(&ViolationAction::Kill));
    }
    home.no_process_left(&id).await;
    let by = held_by(&status(&runtime, &id), "tasks");
    let kernel = if is_grouped("max_tasks") {
        "cgroup"
    } else {
        "namespace"
    };
    assert!(by[0].starts_with(kernel), "{by:?}");
}
