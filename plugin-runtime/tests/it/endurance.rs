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
use orchestrator_testkit::{Signal, descendants, keeper, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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

/// What could be left behind. Where there are two, they are of the host and of the parent
/// of its plugins.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: [usize; 2],
    /// Those below each, zombies too.
    processes: [usize; 2],
    mounts: [usize; 2],
    /// Those that a process below the host is in, or that one of the two holds open.
    namespaces: usize,
    /// Control groups below those that the host holds open, which are its own.
    groups: usize,
}

impl Held {
    fn now() -> Self {
        let host = std::process::id();
        let keeper = keeper(host).expect("something was started");
        let both = [host, keeper];
        let opened = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let opened = opened.filter_map(|it| fs::read_link(it.path()).ok());
        let places: BTreeSet<PathBuf> = opened
            .filter(|path| path.starts_with("/sys/fs/cgroup"))
            .collect();
        Self {
            descriptors: both.map(|pid| count(&format!("/proc/{pid}/fd"))),
            processes: both.map(children),
            mounts: both.map(|pid| {
                let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
                mounts.unwrap().lines().count()
            }),
            namespaces: namespaces(both),
            groups: places.iter().map(|place| directories_below(place)).sum(),
        }
    }

    fn is_within(&self, before: &Self) -> bool {
        let within = |now: [usize; 2], before: [usize; 2]| {
            let [host, keeper] = now;
            host <= before[0] && keeper <= before[1]
        };
        within(self.descriptors, before.descriptors)
            && within(self.processes, before.processes)
            && within(self.mounts, before.mounts)
            && self.namespaces <= before.namespaces
            && self.groups <= before.groups
    }
}

/// The children of every thread, as the kernel lists them.
fn children(pid: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let children = threads.map(|it| fs::read_to_string(it.path().join("children")));
    let children = children.map(|listed| listed.unwrap_or_default().split_whitespace().count());
    children.sum()
}

/// By the links that name them, of processes and of descriptors.
fn namespaces(holders: [u32; 2]) -> usize {
    const KINDS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let [host, keeper] = holders;
    let below = descendants(host).into_iter();
    let of_processes = below.map(|pid| format!("/proc/{pid}/ns"));
    let held = [host, keeper].map(|pid| format!("/proc/{pid}/fd"));
    let links = of_processes
        .chain(held)
        .filter_map(|it| fs::read_dir(it).ok());
    let links = links
        .flatten()
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok());
    let is_namespace = |link: &PathBuf| {
        let kind = link.to_str().and_then(|it| it.split_once(":["));
        kind.is_some_and(|(kind, _)| KINDS.contains(&kind))
    };
    links.filter(is_namespace).collect::<BTreeSet<_>>().len()
}

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
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
                    send(pid, Signal::KILL);
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
    until("the first is gone", || Held::now().processes[1] <= 1).await;
    let (before, memory_before, kernel_before) = (Held::now(), memory(), kernel_objects());

    for number in 0..PLUGINS {
        install(&home, &format!("plugin-{number}"));
    }
    let runtime = home.start().await;
    until("all run", || running(&runtime.plugins()) == PLUGINS).await;
    let idle = Held::now();
    assert_eq!(idle.processes[1] - before.processes[1], PLUGINS);
    // Each has several of its own, so that what is left would be seen.
    assert!(idle.namespaces >= before.namespaces + PLUGINS, "{idle:?}");
    let each = memory().saturating_sub(memory_before) / PLUGINS as u64;
    println!("{each} bytes of memory for each plugin, {idle:?}");
    assert!(each <= MEMORY_EACH_MAX, "{each} bytes for each plugin");
    let descriptors = idle.descriptors[0] - before.descriptors[0];
    assert!(descriptors <= 12 * PLUGINS, "{descriptors} descriptors");

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
