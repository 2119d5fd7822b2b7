//! Limits that an operator changes while the plugin runs.

use std::time::Duration;

use miette::Diagnostic as _;
use orchestrator_contract::{Event, ViolationAction};
use orchestrator_plugin_runtime::{
    Builtin, HeldLimit, LimitChange, LimitPolicy, PluginLimits, Runtime, RuntimeError,
};
use orchestrator_signing::TrustLevel;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    limits::{plugin, resource, violations},
    node_plugin::install,
    support::{Home, call, eventually, handle, output, status},
};

fn memory(mebibytes: u32) -> LimitChange {
    LimitChange {
        memory_mb: Some(mebibytes),
        ..LimitChange::default()
    }
}

fn files(count: u32) -> LimitChange {
    LimitChange {
        open_files: Some(count),
        ..LimitChange::default()
    }
}

fn disk(mebibytes: u32) -> LimitChange {
    LimitChange {
        disk_mb: Some(mebibytes),
        ..LimitChange::default()
    }
}

fn code(refused: Result<(), RuntimeError>) -> String {
    refused.unwrap_err().code().unwrap().to_string()
}

fn held(runtime: &Runtime, id: &str, resource: &str) -> HeldLimit {
    let limits = status(runtime, id).limits_held;
    let found = limits.into_iter().find(|it| it.resource == resource);
    found.unwrap()
}

/// A node that runs.
async fn live(home: &mut Home, resources: Value) -> (Runtime, String) {
    home.settings.monitor.interval = Duration::from_millis(50);
    let id = home.id("live");
    install(home, &id, "good", json!({ "resources": resources }));
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "echo", json!(1)).await;
    (runtime, id)
}

#[tokio::test]
async fn a_limit_that_is_lowered_holds_from_the_next_sample_on() {
    let mut home = Home::new();
    let (runtime, id) = live(&mut home, json!({ "max_memory_mb": 1000 })).await;
    assert_eq!(status(&runtime, &id).limits.memory_bytes, Some(1000 << 20));
    let plugin = handle(&runtime, &id);
    let hanging = call(&plugin, "hang", json!(1));
    let lower = async {
        sleep(Duration::from_millis(200)).await;
        assert_eq!(violations(&home, "memory"), []);
        runtime.set_limits(&id, &memory(1)).unwrap();
    };
    let (called, ()) = tokio::join!(hanging, lower);
    assert_eq!(resource(&called.unwrap_err()), "memory");
    assert!(violations(&home, "memory").contains(&ViolationAction::Kill));
    let unread = runtime.take_violations();
    let first = &unread.violations[0];
    assert_eq!(
        (&*first.plugin, &*first.resource, first.limit),
        (&*id, "memory", 1 << 20)
    );
    assert!(first.current >= first.limit);
    // One and the same violation is told of and kept.
    let told = home.events.all().into_iter().find_map(|event| match event {
        Event::ResourceViolation { timestamp_ms, .. } => Some(timestamp_ms),
        _ => None,
    });
    assert_eq!(told, Some(first.timestamp_ms));
    assert!(first.timestamp_ms > 1_700_000_000_000);
    // And one that is raised lets it run again.
    runtime.set_limits(&id, &memory(2000)).unwrap();
    let answer = async || call(&plugin, "echo", json!(2)).await;
    let until = tokio::time::Instant::now() + crate::support::PATIENCE;
    while answer().await.is_err() {
        assert!(tokio::time::Instant::now() < until, "it runs again");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn setting_limits_a_thousand_times_leaves_nothing_behind() {
    let mut home = Home::new();
    let (runtime, id) = live(&mut home, json!({ "max_memory_mb": 1000 })).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    for round in 0..1000 {
        runtime.set_limits(&id, &files(1000 + round)).unwrap();
    }
    output(&handle(&runtime, &id), "echo", json!(1)).await;
    eventually("as many tasks as before", || tasks() <= before).await;
    let limits = status(&runtime, &id).limits;
    assert_eq!(
        (limits.files, limits.memory_bytes),
        (Some(1999), Some(1000 << 20))
    );
}

#[tokio::test]
async fn limits_that_cannot_change_are_refused() {
    let mut home = Home::new();
    let (runtime, id) = live(&mut home, json!({ "max_memory_mb": 1000 })).await;
    let limits = status(&runtime, &id).limits;
    // It could write elsewhere.
    assert_eq!(code(runtime.set_limits(&id, &disk(1))), "ORC-3065");
    assert_eq!(code(runtime.set_limits("nobody", &memory(1))), "ORC-3050");
    assert_eq!(status(&runtime, &id).limits, limits);

    let echo = Builtin::phase("echo", "1.0.0", "echo", async |call, _| Ok(call.input));
    let runtime = home.start_with(vec![echo.unwrap()]).await.unwrap();
    let refused = runtime.set_limits("echo", &memory(1)).unwrap_err();
    assert!(
        refused.to_string().contains("no process of its own"),
        "{refused}"
    );
}

/// Who may not write more than so much into a manifest gets it by no other way.
#[tokio::test]
async fn nobody_gets_more_than_the_operator_lets_confined_plugins_have() {
    for level in [
        TrustLevel::Untrusted,
        TrustLevel::Partner,
        TrustLevel::Internal,
    ] {
        let mut home = Home::trusting(level);
        home.settings.sandbox.memory_max = 64 << 20;
        home.settings.sandbox.cpu_percent_max = 50;
        home.settings.sandbox.tasks_max = 9;
        home.settings.sandbox.open_files_max = 70;
        let id = home.id("more");
        let resources = json!({ "resources": { "max_memory_mb": 32 } });
        plugin(&mut home, &id, resources, "run) ulimit -Hn;;");
        let runtime = home.start().await;
        let before = status(&runtime, &id).limits;
        let all = LimitChange::default();
        let too_much = [
            memory(65),
            files(71),
            LimitChange {
                cpu_percent: Some(51),
                ..all
            },
            LimitChange {
                tasks: Some(10),
                ..all
            },
        ];
        for change in too_much {
            let set = runtime.set_limits(&id, &change);
            if level == TrustLevel::Internal {
                set.unwrap();
                continue;
            }
            let error = set.unwrap_err();
            assert_eq!(error.code().unwrap().to_string(), "ORC-3080");
            let help = error.help().unwrap().to_string();
            assert!(help.contains("runtime.sandbox."), "{help}");
            assert_eq!(status(&runtime, &id).limits, before);
        }
        if level == TrustLevel::Internal {
            continue;
        }
        assert_eq!(held(&runtime, &id, "memory").from, "manifest");
        runtime.set_limits(&id, &memory(64)).unwrap();
        assert_eq!(held(&runtime, &id, "memory").from, "operator");
        // None of its own is what all may have.
        runtime.set_limits(&id, &memory(0)).unwrap();
        let memory = held(&runtime, &id, "memory");
        assert_eq!(
            (memory.limit, memory.from),
            (64 << 20, "runtime.sandbox.memory_max")
        );
        runtime.set_limits(&id, &files(64)).unwrap();
        let has = output(&handle(&runtime, &id), "run", json!({})).await;
        assert_eq!(has, json!(64), "its next process has it");
        assert_eq!(held(&runtime, &id, "files").waits_for, None);
    }
}

#[tokio::test]
async fn what_only_a_new_process_has_says_so_until_there_is_one() {
    let mut home = Home::new();
    let resources = json!({ "max_memory_mb": 1000, "max_open_files": 100 });
    let (runtime, id) = live(&mut home, resources).await;
    let waits = || held(&runtime, &id, "files").waits_for;
    runtime.set_limits(&id, &files(90)).unwrap();
    assert_eq!(waits(), None, "the monitor sees to less");
    runtime.set_limits(&id, &files(200)).unwrap();
    assert_eq!(waits(), Some("restart"));
    runtime.restart(&id, Duration::ZERO).await.unwrap();
    assert_eq!(waits(), None);
    assert_eq!(held(&runtime, &id, "files").limit, 200);
}

#[tokio::test]
async fn what_is_done_about_more_can_change_too() {
    let mut home = Home::new();
    let (runtime, id) = live(&mut home, json!({ "max_memory_mb": 1000 })).await;
    let memory_of = || held(&runtime, &id, "memory");
    let before = memory_of();
    assert_eq!(
        (before.policy, before.policy_from),
        (LimitPolicy::Kill, "runtime.monitor.policy.level3")
    );
    let change = LimitChange {
        violation: Some(LimitPolicy::Warn),
        ..memory(1)
    };
    runtime.set_limits(&id, &change).unwrap();
    let now = memory_of();
    assert_eq!(
        (now.policy, now.policy_from),
        (LimitPolicy::Warn, "operator")
    );
    eventually("it is warned", || !violations(&home, "memory").is_empty()).await;
    assert_eq!(
        output(&handle(&runtime, &id), "echo", json!(2)).await,
        json!(2)
    );
    assert_eq!(violations(&home, "memory"), [ViolationAction::Warn]);
}

#[tokio::test]
async fn limits_outlast_a_reload_which_makes_the_room_for_files() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("kept");
    let branch = "run) cd \"$TMPDIR\" || exit 9; k=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; k=$k$k$k$k$k$k$k$k; \
        k=$k$k$k$k; n=0; while printf %s $k >> file; do n=$((n+1)); done 2> /dev/null; echo $n;;";
    let resources = json!({ "resources": { "max_disk_mb": 1, "max_tasks": 5 } });
    plugin(&mut home, &id, resources, branch);
    let runtime = home.start().await;
    let kibibytes = async || {
        let written = output(&handle(&runtime, &id), "run", json!({})).await;
        written.as_u64().unwrap()
    };
    let without_room = disk(0);
    let change = LimitChange {
        tasks: Some(7),
        ..disk(3)
    };
    runtime.set_limits(&id, &change).unwrap();
    let disk = held(&runtime, &id, "disk");
    assert_eq!(
        (disk.limit, disk.from, disk.waits_for),
        (3 << 20, "operator", Some("reload"))
    );
    assert!(kibibytes().await <= 1024);
    runtime.reload(&id).await.unwrap();
    assert_eq!(held(&runtime, &id, "disk").waits_for, None);
    assert!(kibibytes().await > 2048);
    let limits = status(&runtime, &id).limits;
    let expected = PluginLimits {
        tasks: Some(7),
        disk_bytes: Some(3 << 20),
        ..limits
    };
    assert_eq!(limits, expected);
    runtime.set_limits(&id, &without_room).unwrap();
    let disk = held(&runtime, &id, "disk");
    assert_eq!((disk.limit, disk.waits_for), (3 << 20, Some("reload")));
}
