//! Two hundred plugins at once, killed and started again and again, leave nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::BytesMut;
use orchestrator_contract::{
    PluginState,
    frame::{Frame, Hello, PROTOCOL_VERSION},
};
use orchestrator_plugin_runtime::{PluginStatus, Runtime, StartMode};
use orchestrator_signing::TrustLevel;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{File, Home};

const PLUGINS: usize = 200;
/// How many restarts there are in all; 10,000 where everything is run.
const RESTARTS: &str = "ORCHESTRATOR_ENDURANCE_RESTARTS";
const RESTARTS_USUALLY: u64 = 400;
/// What the host may hold for a plugin that does nothing, its image not counted.
const MEMORY_EACH_MAX: u64 = 200 << 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// A plugin that says who it is and then waits for its end, in a program that is small.
fn install(home: &Home, id: &str) {
    let hello = Frame::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        plugin: id.into(),
        version: "1.0.0".to_owned(),
        phases: vec!["run".into()],
        health: false,
        state: false,
    });
    let mut bytes = BytesMut::new();
    hello.encode(&mut bytes).unwrap();
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("printf '{octal}' >&3\nwhile read -r line <&3; do :; done\n");
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let resources = json!({ "max_memory_mb": 256 });
    let manifest = json!({ "kind": "node", "resources": resources });
    home.package(id, manifest, &[file]);
}

/// What could be left behind.
#[derive(Debug, PartialEq, Eq, PartialOrd)]
struct Held {
    /// Descriptors of the host, and of the parent of its plugins.
    descriptors: [usize; 2],
    /// Processes below that parent, zombies too.
    processes: usize,
    /// Mounts that the host sees.
    mounts: usize,
    /// Control groups below those that the host holds open, which are its own.
    groups: usize,
}

impl Held {
    fn now() -> Self {
        let keeper = keeper().expect("something was started");
        let open = |pid: u32| count(&format!("/proc/{pid}/fd"));
        let children = format!("/proc/{keeper}/task/{keeper}/children");
        let children = fs::read_to_string(children).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let opened = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let opened = opened.filter_map(|it| fs::read_link(it.path()).ok());
        let places: BTreeSet<PathBuf> = opened
            .filter(|path| path.starts_with("/sys/fs/cgroup"))
            .collect();
        Self {
            descriptors: [std::process::id(), keeper].map(open),
            processes: children.split_whitespace().count(),
            mounts: mounts.lines().count(),
            groups: places.iter().map(|place| directories_below(place)).sum(),
        }
    }

    fn is_within(&self, before: &Self) -> bool {
        let [host, keeper] = self.descriptors;
        host <= before.descriptors[0]
            && keeper <= before.descriptors[1]
            && self.processes <= before.processes
            && self.mounts <= before.mounts
            && self.groups <= before.groups
    }
}

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// The parent of this process's plugins.
fn keeper() -> Option<u32> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (pid, rest) = stat.split_once(" (orch-keeper) ")?;
            (rest.split(' ').nth(1)? == own).then(|| pid.parse().ok())?
        })
        .next()
}

fn directories_below(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()))
        .map(|entry| 1 + directories_below(&entry.path()))
        .sum()
}

/// Namespaces and mounts of the whole machine, by the kernel's own count, which is rough and
/// for root alone.
fn kernel_objects() -> BTreeMap<String, u64> {
    const COUNTED: [&str; 4] = [
        "net_namespace",
        "pid_namespace",
        "user_namespace",
        "mnt_cache",
    ];
    let caches = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let counted = caches.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next().filter(|name| COUNTED.contains(name))?;
        Some((name.to_owned(), fields.next()?.parse().ok()?))
    });
    counted.collect()
}

/// Bytes of memory that are the host's own.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

/// Two hundred plugins have more descriptors than a process usually may.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn back_to(before: &Held, when: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = Held::now();
        if now.is_within(before) {
            return;
        }
        assert!(Instant::now() < end, "{when}: {before:?}, now {now:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn running(plugins: &[PluginStatus]) -> usize {
    let state = |plugin: &&PluginStatus| plugin.state == PluginState::Running;
    plugins.iter().filter(state).count()
}

/// Kills every process as soon as it takes calls, until there were as many restarts.
async fn restart(runtime: &Runtime, wanted: u64) {
    let mut killed: BTreeMap<String, u32> = BTreeMap::new();
    let (mut kills, mut restarts) = (0, 0);
    while restarts < wanted {
        let before = restarts;
        until("they are started again", || {
            let plugins = runtime.plugins();
            restarts = plugins.iter().map(|plugin| plugin.restarts).sum();
            for plugin in plugins {
                let pid = plugin.pid.filter(|_| plugin.state == PluginState::Running);
                let is_new = |pid: &u32| kills < wanted && killed.get(&plugin.id) != Some(pid);
                if let Some(pid) = pid.filter(is_new) {
                    // It is not waited for before the host knows of its end.
                    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
                    killed.insert(plugin.id, pid);
                    kills += 1;
                }
            }
            restarts > before
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_plugins_restarted_again_and_again_leave_nothing() {
    allow_many_descriptors();
    let restarts = std::env::var(RESTARTS).map_or(RESTARTS_USUALLY, |it| it.parse().unwrap());
    let mut home = Home::trusting(TrustLevel::Untrusted);
    home.settings.start = StartMode::Eager;
    home.settings.start_timeout = PATIENCE;
    home.settings.node.handshake_timeout = PATIENCE;
    home.settings.node.drain_grace = Duration::from_millis(200);
    home.settings.restart.first = Duration::from_millis(1);
    home.settings.restart.max = Duration::from_millis(1);
    home.settings.restart.crash_loop_restarts = u32::MAX;
    install(&home, "first");
    // What is made once is there then.
    let runtime = home.start().await;
    until("the first runs", || running(&runtime.plugins()) == 1).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    drop(runtime);
    fs::remove_dir_all(home.path("plugins/first")).unwrap();
    until("the first is gone", || Held::now().processes <= 1).await;
    let (before, memory_before, kernel_before) = (Held::now(), memory(), kernel_objects());

    for number in 0..PLUGINS {
        install(&home, &format!("plugin-{number}"));
    }
    let runtime = home.start().await;
    until("all run", || running(&runtime.plugins()) == PLUGINS).await;
    let idle = Held::now();
    assert_eq!(idle.processes - before.processes, PLUGINS);
    let each = memory().saturating_sub(memory_before) / PLUGINS as u64;
    println!("{each} bytes of memory for each plugin, {idle:?}");
    assert!(each <= MEMORY_EACH_MAX, "{each} bytes for each plugin");
    let descriptors = idle.descriptors[0] - before.descriptors[0];
    assert!(descriptors <= 10 * PLUGINS, "{descriptors} descriptors");

    restart(&runtime, restarts).await;
    until("all run again", || running(&runtime.plugins()) == PLUGINS).await;
    back_to(&idle, "after the restarts").await;
    runtime.shutdown(PATIENCE).await.unwrap();
    drop(runtime);
    back_to(&before, "after the end").await;
    // Other tests have some of their own meanwhile, and the kernel takes its time.
    until("the kernel holds more than before", || {
        let now = kernel_objects();
        kernel_before
            .iter()
            .all(|(name, before)| now[name] < before + restarts / 2)
    })
    .await;
}
