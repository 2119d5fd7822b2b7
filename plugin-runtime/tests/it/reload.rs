//! Plugins that go on with what is installed now, while they are used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use miette::Diagnostic as _;
use orchestrator_contract::{Event, PluginState, ReloadOutcome};
use orchestrator_plugin_runtime::{PluginHandle, Runtime, RuntimeError};
use semver::VersionReq;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    counter_plugin::release,
    support::{
        File, Home, PATIENCE, call, eventually, handle, leads_to, output, phase_call, processes,
        reloading, shell_script,
    },
};
use tower::Service as _;

const CALLS: u64 = 10_000;
const RELOADS: u64 = 20;
const CALLERS: u64 = 8;

fn home() -> Home {
    let mut home = Home::new();
    // As long as it takes on a machine with other work.
    home.settings.reload.settle = PATIENCE;
    home.settings.reload.hold_max = 2 * PATIENCE;
    home
}

fn code(error: &RuntimeError) -> String {
    error.code().unwrap().to_string()
}

async fn count(runtime: &Runtime, id: &str) -> u64 {
    let plugin = handle(runtime, id);
    output(&plugin, "count", json!(0)).await.as_u64().unwrap()
}

async fn version(plugin: &PluginHandle) -> Value {
    output(plugin, "version", json!(0)).await
}

fn pids(id: &str) -> usize {
    processes(&format!("ORCHESTRATOR_PLUGIN={id}")).len()
}

/// None fails, and each counts exactly once, whichever version it meets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_during_twenty_reloads_are_all_counted() {
    let home = home();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = Arc::new(home.start().await);
    let (begun, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (runtime, id) = (Arc::clone(&runtime), id.clone());
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        callers.spawn(async move {
            let mut counts = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < CALLS {
                counts.push(count(&runtime, &id).await);
                ended.fetch_add(1, Ordering::Relaxed);
            }
            counts
        });
    }
    for n in 1..=RELOADS {
        eventually("the calls stopped", || {
            ended.load(Ordering::Relaxed) >= n * CALLS / (RELOADS + 2)
        })
        .await;
        let version = format!("1.0.{n}");
        release(&home, &id, &version, "counts", n + 1);
        let done = runtime.reload(&id).await.unwrap();
        assert_eq!(done.version.to_string(), version);
        assert!(done.state.kept, "{}", done.state.reason);
    }
    let mut counts: Vec<u64> = callers.join_all().await.into_iter().flatten().collect();
    counts.sort_unstable();
    assert_eq!(counts.len() as u64, CALLS);
    assert!(
        counts.into_iter().eq(1..=CALLS),
        "some were lost or doubled"
    );
    assert_eq!(version(&handle(&runtime, &id)).await, json!("1.0.20"));
    let told = home.events.all();
    let switched = told.iter().filter(|event| {
        matches!(
            event,
            Event::PluginReloaded {
                outcome: ReloadOutcome::Switched,
                ..
            }
        )
    });
    assert_eq!(switched.count() as u64, RELOADS);
    eventually("an old process is left", || pids(&id) == 1).await;
}

/// Whatever a new release does wrong, the old one serves, with its state.
#[tokio::test]
async fn a_release_that_cannot_take_over_leaves_the_old_one_serving() {
    let mut home = home();
    home.settings.reload.hold_max = Duration::from_secs(5);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = home.start().await;
    assert_eq!(count(&runtime, &id).await, 1);
    let pid = handle_pid(&runtime, &id, "1.0.0");
    for (mode, serial, expected, says) in [
        ("exits", 2, "ORC-3054", "status 3"),
        ("refuses", 3, "ORC-3056", "a state of 1.0.0 is too old"),
    ] {
        let dir = release(&home, &id, "1.1.0", mode, serial);
        let refused = runtime.reload(&id).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
        assert!(refused.to_string().contains(says), "{refused}");
        assert_eq!(version(&handle(&runtime, &id)).await, json!("1.0.0"));
        eventually("the new process is left", || pids(&id) == 1).await;
        std::fs::remove_dir_all(dir).unwrap();
    }
    // What was tampered with is not even started.
    let dir = release(&home, &id, "1.1.0", "counts", 4);
    std::fs::write(dir.join("main.sh"), "exit 0").unwrap();
    let refused = runtime.reload(&id).await.unwrap_err();
    assert!(code(&refused).starts_with("ORC-20"), "{refused}");

    assert_eq!(count(&runtime, &id).await, 2, "the state is as it was");
    assert_eq!(handle_pid(&runtime, &id, "1.0.0"), pid);
    let failed = |event: &&Event| {
        matches!(
            event,
            Event::PluginReloaded {
                outcome: ReloadOutcome::Failed,
                ..
            }
        )
    };
    assert_eq!(home.events.all().iter().filter(failed).count(), 3);
    let of_new = |event: &Event| matches!(event, Event::PluginStateChanged { version, .. } if **version == *"1.1.0");
    assert!(!home.events.all().iter().any(of_new), "it is on trial");
}

fn handle_pid(runtime: &Runtime, id: &str, version: &str) -> Option<u32> {
    let plugins = runtime.plugins().into_iter();
    let mut found = plugins.filter(|it| it.id == id && it.version.to_string() == version);
    found.next().unwrap().pid
}

#[tokio::test]
async fn a_state_that_is_too_large_or_never_comes_stays_where_it_is() {
    for (mode, says) in [("large", "1048576 allowed"), ("silent", "longer than 1s")] {
        let mut home = home();
        home.settings.reload.hold_max = Duration::from_secs(1);
        home.settings.node.cancel_grace = Duration::from_millis(50);
        let id = home.id("counter");
        release(&home, &id, "1.0.0", mode, 1);
        let runtime = home.start().await;
        count(&runtime, &id).await;
        release(&home, &id, "1.1.0", "counts", 2);
        let refused = runtime.reload(&id).await.unwrap_err();
        assert_eq!(code(&refused), "ORC-3056");
        assert!(refused.to_string().contains(says), "{refused}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(count(&runtime, &id).await, 2, "{mode}: it goes on");
    }
}

#[tokio::test]
async fn a_call_in_flight_ends_on_the_version_it_began_on() {
    let home = home();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "forgets", 1);
    let runtime = home.start().await;
    let old = handle(&runtime, &id);
    let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
    version(&old).await;

    release(&home, &id, "1.1.0", "counts", 2);
    let done = runtime.reload(&id).await.unwrap();
    assert!(!done.state.kept && done.state.reason.contains("1.0.0 hands none on"));
    assert!(done.left > 0 && done.held_ms == 0, "{done:?}");
    assert_eq!(version(&handle(&runtime, &id)).await, json!("1.1.0"));
    // Whoever began with the old one keeps it.
    assert_eq!(output(&old, "now", json!(0)).await, json!("1.0.0"));
    let reply = later.await.unwrap().unwrap();
    assert_eq!(reply.output.decode::<Value>().unwrap(), json!("1.0.0"));
    assert_eq!(pids(&id), 2);
    drop(old);
    eventually("the old process is left", || pids(&id) == 1).await;
}

/// State can only move when nobody works with it.
#[tokio::test]
async fn calls_that_do_not_end_keep_the_state_and_those_that_waited_are_answered() {
    let mut home = home();
    home.settings.reload.settle = Duration::from_millis(100);
    home.settings.reload.hold_max = Duration::from_secs(1);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = Arc::new(home.start().await);
    assert_eq!(count(&runtime, &id).await, 1);
    let old = handle(&runtime, &id);
    let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
    version(&old).await;
    release(&home, &id, "1.1.0", "counts", 2);
    let reloading = reloading(&runtime, &id);
    leads_to(&runtime, &id, "1.1.0").await;
    let waited = handle(&runtime, &id);
    let counted = call(&waited, "count", json!(0)).await.unwrap();
    assert_eq!(counted.output.decode::<u64>().unwrap(), 2);
    assert_eq!(
        version(&waited).await,
        json!("1.0.0"),
        "the old one answered"
    );
    let refused = reloading.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "ORC-3055");
    output(&old, "now", json!(0)).await;
    later.await.unwrap().unwrap();
    assert_eq!(count(&runtime, &id).await, 3);
}

/// Who holds on to the old version longer than others wait keeps it, and what it
/// changes there is lost. This is what the counts of the calls above would show.
#[tokio::test]
async fn what_an_old_version_changes_after_its_state_moved_is_lost() {
    let mut home = home();
    home.settings.reload.settle = Duration::from_millis(10);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = home.start().await;
    let old = handle(&runtime, &id);
    assert_eq!(output(&old, "count", json!(0)).await, json!(1));
    release(&home, &id, "1.1.0", "counts", 2);
    let done = runtime.reload(&id).await.unwrap();
    assert!(done.state.kept && done.left == 1, "{done:?}");
    assert_eq!(output(&old, "count", json!(0)).await, json!(2));
    assert_eq!(count(&runtime, &id).await, 2);
}

/// Each old version costs a process for as long as somebody uses it.
#[tokio::test]
async fn earlier_versions_in_use_are_bounded() {
    let home = home();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "forgets", 1);
    let runtime = home.start().await;
    let mut kept = Vec::new();
    for n in 1..=4 {
        kept.push(handle(&runtime, &id));
        release(&home, &id, &format!("1.0.{n}"), "forgets", n + 1);
        runtime.reload(&id).await.unwrap();
    }
    kept.push(handle(&runtime, &id));
    release(&home, &id, "1.1.0", "forgets", 6);
    let refused = runtime.reload(&id).await.unwrap_err();
    assert_eq!(code(&refused), "ORC-3058");
    kept.remove(0);
    for _ in 0..500 {
        if runtime.reload(&id).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(version(&handle(&runtime, &id)).await, json!("1.1.0"));
}

/// A builtin changes with its host, and a dependant is not left without what it needs.
#[tokio::test]
async fn what_others_need_is_not_taken_away() {
    let home = home();
    let (id, user) = (home.id("counter"), home.id("user"));
    release(&home, &id, "1.0.0", "counts", 1);
    let keys = json!({ "dependencies": { (id.clone()): "^1" } });
    crate::counter_plugin::release_of(&home, &user, "1.0.0", "counts", 1, keys);
    let runtime = home.start().await;
    assert_eq!(count(&runtime, &user).await, 1);
    let old = home.path("plugins").join(&id).join("1.0.0");
    std::fs::remove_dir_all(old).unwrap();
    release(&home, &id, "2.0.0", "counts", 2);
    let refused = runtime.reload(&id).await.unwrap_err();
    assert_eq!(code(&refused), "ORC-3057");
    assert!(refused.to_string().contains(&user), "{refused}");
    release(&home, &id, "1.1.0", "counts", 3);
    runtime.reload(&id).await.unwrap();
    assert_eq!(count(&runtime, &user).await, 2);
}

#[tokio::test]
async fn the_same_version_built_anew_takes_over_and_names_are_found_after_a_removal() {
    let home = home();
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let runtime = home.start().await;
    assert_eq!(count(&runtime, &id).await, 1);
    let before = handle(&runtime, &id).digest().to_owned();
    // Another build of it: its manifest is another.
    let more = json!({ "description": "Built anew." });
    let dir = crate::counter_plugin::release_of(&home, &id, "1.0.0", "counts", 2, more);
    let done = runtime.reload(&id).await.unwrap();
    assert_eq!(done.from, Some(done.version.clone()));
    assert_ne!(handle(&runtime, &id).digest(), before);
    assert_eq!(count(&runtime, &id).await, 2);
    eventually("the old process is left", || pids(&id) == 1).await;
    let states = home
        .events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::PluginStateChanged { state, .. } => Some(state),
            _ => None,
        });
    assert_eq!(
        states.last(),
        Some(PluginState::Running),
        "one of them serves"
    );

    std::fs::remove_dir_all(dir).unwrap();
    let gone = runtime.reload(&id).await.unwrap_err();
    assert_eq!(code(&gone), "ORC-3052");
    assert_eq!(
        code(&runtime.reload("nobody").await.unwrap_err()),
        "ORC-3050"
    );
    assert_eq!(count(&runtime, &id).await, 3);
}

#[tokio::test]
async fn a_plugin_that_came_later_is_loaded_and_one_that_is_disabled_stays_so() {
    let home = home();
    let id = home.id("counter");
    let runtime = home.start().await;
    release(&home, &id, "1.0.0", "counts", 1);
    let done = runtime.reload(&id).await.unwrap();
    assert_eq!(done.from, None);
    assert_eq!(count(&runtime, &id).await, 1);

    runtime.disable(&id).unwrap();
    release(&home, &id, "1.1.0", "counts", 2);
    let done = runtime.reload(&id).await.unwrap();
    assert_eq!(done.plugin.state, PluginState::Disabled);
    let refused = call(&handle(&runtime, &id), "count", json!(0)).await;
    assert!(refused.is_err());
    runtime.enable(&id).unwrap();
    assert_eq!(version(&handle(&runtime, &id)).await, json!("1.1.0"));
}

#[tokio::test]
async fn what_runs_for_each_call_is_another_program_from_the_next_call_on() {
    let home = home();
    let write = |version: &str, serial| {
        let script = shell_script("tool", &["run"], &format!("run) echo '\"{version}\"';;"));
        let script = script.replace("1.0.0", version);
        let (path, content) = ("main.sh", &*script);
        let manifest = json!({ "version": version });
        let dir = home.unsigned_package("tool", manifest, &[File { path, content }]);
        home.sign_as_release(&dir, serial);
        home.grant_all(&dir);
    };
    write("1.0.0", 1);
    let runtime = home.start().await;
    let old = handle(&runtime, "tool");
    assert_eq!(output(&old, "run", json!(0)).await, json!("1.0.0"));
    write("1.1.0", 2);
    runtime.reload("tool").await.unwrap();
    assert_eq!(
        output(&handle(&runtime, "tool"), "run", json!(0)).await,
        json!("1.1.0")
    );
    assert_eq!(output(&old, "run", json!(0)).await, json!("1.0.0"));
}

/// Two processes of one plugin, each of the version that was asked for.
#[tokio::test]
async fn versions_run_side_by_side_and_a_channel_chooses() {
    use orchestrator_manifest::Channel;
    let mut home = home();
    let id = home.id("counter");
    for (n, (version, channel)) in [
        ("1.0.0", "deprecated"),
        ("1.5.0", "stable"),
        ("2.0.0", "beta"),
    ]
    .into_iter()
    .enumerate()
    {
        let keys = json!({ "channel": channel });
        let serial = n as u64 + 1;
        crate::counter_plugin::release_of(&home, &id, version, "counts", serial, keys);
    }
    let runtime = home.start().await;
    let all = VersionReq::STAR;
    let meant = |channel| runtime.resolve_in(&id, &all, channel).unwrap();
    let (stable, beta) = (meant(None), meant(Some(Channel::Beta)));
    for n in 1..=3 {
        assert_eq!(output(&stable, "count", json!(0)).await, json!(n));
    }
    assert_eq!(output(&beta, "count", json!(0)).await, json!(1));
    assert_eq!(version(&stable).await, json!("1.5.0"));
    assert_eq!(version(&beta).await, json!("2.0.0"));
    assert_eq!(pids(&id), 2);
    let old = runtime
        .resolve(&id, &"^1.0, <1.5".parse().unwrap())
        .unwrap();
    assert_eq!(version(&old).await, json!("1.0.0"));
    assert_eq!((pids(&id), old.channel()), (3, Channel::Deprecated));
    drop((stable, beta, old));
    drop(runtime);

    home.settings.channels.insert(id.clone(), Channel::Beta);
    let runtime = home.start().await;
    assert_eq!(version(&handle(&runtime, &id)).await, json!("2.0.0"));
}
