//! A host that is killed while it reloads a plugin: nothing of it goes on, and the next
//! one serves.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use orchestrator_plugin_runtime::{Runtime, RuntimeSettings};
use orchestrator_signing::TrustLevel;
use orchestrator_testkit::descendants;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    counter_plugin::release_of,
    reload_faults::{processes_are, serves},
    support::{Home, PATIENCE, eventually, handle, leads_to, output, reloading},
};

/// Where the home of the host is, and its plugin.
const HOME: &str = "TEST_RELOAD_HOME";
const PLUGIN: &str = "TEST_RELOAD_PLUGIN";

/// Not a test: the host, when started as one. Reloads when a release is there, and says
/// how far it is.
#[tokio::test]
async fn host() {
    let Ok(place) = std::env::var(HOME) else {
        return;
    };
    let id = std::env::var(PLUGIN).unwrap();
    let mut settings = RuntimeSettings::default();
    settings.reload.hold_max = 4 * PATIENCE;
    let runtime = Home::start_at(Path::new(&place), settings).await;
    let runtime: Arc<Runtime> = Arc::new(runtime);
    output(&handle(&runtime, &id), "count", json!(0)).await;
    println!("serves");
    let new = Path::new(&place).join("released");
    eventually("nothing is released", || new.exists()).await;
    let reloading = reloading(&runtime, &id);
    leads_to(&runtime, &id, "1.1.0").await;
    println!("moves");
    reloading.await.unwrap().unwrap();
    println!("reloaded");
    std::future::pending().await
}

/// The host, and what it says.
struct Host {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Host {
    async fn start(home: &Home, id: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["reload_host::host", "--exact", "--nocapture"])
            .env(HOME, home.path(""))
            .env(PLUGIN, id)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut host = Self { process, said };
        host.says("serves").await;
        host
    }

    async fn says(&mut self, wanted: &str) {
        let hear = async {
            while let Some(line) = self.said.next_line().await.unwrap() {
                if line.ends_with(wanted) {
                    return;
                }
            }
            panic!("it ended before it said `{wanted}`");
        };
        timeout(PATIENCE, hear).await.unwrap();
    }

    /// Kills it, and waits until nothing of it goes on. Returns the control groups that
    /// its plugins were in. It must not have said more by then.
    async fn kill(mut self) -> BTreeSet<PathBuf> {
        let below = descendants(self.process.id().unwrap());
        assert!(below.len() >= 3, "a keeper and two plugins of {below:?}");
        let own = (namespaces("self"), groups("self"));
        let all = |of: fn(&str) -> BTreeSet<PathBuf>, own: &BTreeSet<PathBuf>| {
            let each = below.iter().flat_map(|pid| of(&pid.to_string()));
            each.filter(|it| !own.contains(it)).collect::<BTreeSet<_>>()
        };
        let (of_plugins, groups) = (all(namespaces, &own.0), all(groups, &own.1));
        assert!(!of_plugins.is_empty(), "they are confined");
        self.process.kill().await.unwrap();
        eventually("something of it goes on", || {
            let pids = fs::read_dir("/proc").unwrap().flatten();
            let mut pids = pids.filter_map(|it| it.file_name().into_string().ok());
            // The keeper is the last, and in none of these.
            !pids.any(|pid| !of_plugins.is_disjoint(&namespaces(&pid)))
                && !below.iter().any(|pid| is_left(*pid))
        })
        .await;
        let rest = self.said.next_line().await.unwrap();
        assert_eq!(rest, None, "it had not come further");
        groups
    }
}

fn is_left(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn namespaces(pid: &str) -> BTreeSet<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/ns"));
    let links = links.into_iter().flatten().flatten();
    links
        .filter_map(|it| fs::read_link(it.path()).ok())
        .collect()
}

/// The folders of the control groups that a process is in.
fn groups(pid: &str) -> BTreeSet<PathBuf> {
    let listed = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let folders = listed.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mounted = Path::new("/sys/fs/cgroup").join(controllers);
        Some(mounted.join(path.trim_start_matches('/')))
    });
    folders.filter(|folder| folder.is_dir()).collect()
}

/// A confined release of the plugin.
fn release(home: &Home, id: &str, version: &str, mode: &str, serial: u64) {
    let program = std::env::current_exe().unwrap().display().to_string();
    let keys = json!({ "capabilities": [format!("process:spawn={program}")] });
    release_of(home, id, version, mode, serial, keys);
}

/// The next host has the release that is installed, whole, and nothing of the last one.
async fn goes_on(home: &Home, id: &str, groups: &BTreeSet<PathBuf>) {
    home.no_process_left(id).await;
    let runtime = home.start().await;
    serves(&runtime, id, "1.1.0").await;
    let first = output(&handle(&runtime, id), "count", json!(0)).await;
    assert_eq!(first, json!(1));
    release(home, id, "1.2.0", "counts", 3);
    let done = runtime.reload(id).await.unwrap();
    assert!(done.state.kept, "{done:?}");
    assert_eq!(
        output(&handle(&runtime, id), "count", json!(0)).await,
        json!(2)
    );
    processes_are(id, 1).await;
    runtime.shutdown(PATIENCE).await.unwrap();
    drop(runtime);
    let left = fs::read_dir(home.path("run")).into_iter().flatten();
    assert_eq!(left.count(), 0, "private trees of plugins");
    let groups: Vec<_> = groups.iter().filter(|it| it.exists()).collect();
    assert!(groups.is_empty(), "{groups:?}");
}

#[tokio::test]
async fn a_host_that_is_killed_while_the_new_version_starts_leaves_a_home_that_serves() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let host = Host::start(&home, &id).await;
    release(&home, &id, "1.1.0", "slower", 2);
    fs::write(home.path("released"), "").unwrap();
    processes_are(&id, 2).await;
    let groups = host.kill().await;
    goes_on(&home, &id, &groups).await;
}

#[tokio::test]
async fn a_host_that_is_killed_while_a_state_moves_leaves_a_home_that_serves() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    let mut host = Host::start(&home, &id).await;
    release(&home, &id, "1.1.0", "hangs-later", 2);
    fs::write(home.path("released"), "").unwrap();
    host.says("moves").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let groups = host.kill().await;
    goes_on(&home, &id, &groups).await;
}
