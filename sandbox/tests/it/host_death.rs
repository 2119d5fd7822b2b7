//! Nothing outlives a host that is killed.

use orchestrator_sandbox::{Child, spawn};
use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    helper::RUN_DIRECTORY,
    support::{self, eventually, gone, pipe, read_until, stranger},
};

/// A running host, the id of its plugin and the path of its tree.
async fn host(run: &std::path::Path) -> (Child, u32, std::path::PathBuf) {
    let (mut reader, writer) = pipe();
    let spec = support::helper("helper::host")
        .variable(RUN_DIRECTORY, run)
        .descriptor(1, writer);
    let host = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| text.contains("ready\n")).await;
    let word = |name: &str| {
        let (_, rest) = text.split_once(name).expect("the host says it");
        rest.lines().next().expect("a line").to_owned()
    };
    (
        host,
        word("plugin ").parse().expect("an id"),
        word("tree ").into(),
    )
}

#[tokio::test]
async fn a_killed_host_leaves_no_process_and_no_directory() {
    let run = tempfile::tempdir().expect("a directory");
    let (host, plugin, tree) = host(run.path()).await;
    let plugin = stranger(plugin);
    assert_eq!(
        std::fs::read(tree.join("a/b/file")).expect("the file"),
        b"text"
    );
    let left = || {
        std::fs::read_dir(run.path())
            .expect("the run directory")
            .count()
    };
    assert_eq!(left(), 1);

    // The host alone: its group holds no other process anyway.
    pidfd_send_signal(host.pidfd(), Signal::KILL).expect("it runs");
    gone(host.pidfd()).await;
    tokio::time::timeout(std::time::Duration::from_secs(2), gone(plugin))
        .await
        .expect("the plugin is gone within two seconds");
    eventually("the run directory is empty", || left() == 0).await;
}

#[tokio::test]
async fn the_watcher_ignores_signals_that_ask() {
    let run = tempfile::tempdir().expect("a directory");
    let (host, _, _) = host(run.path()).await;
    // A process that has just started has no arguments for a moment.
    eventually("the watcher runs", || watcher_of(run.path()).is_some()).await;
    let watcher = stranger(watcher_of(run.path()).expect("the watcher runs"));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        pidfd_send_signal(&watcher, signal).expect("it runs");
    }
    pidfd_send_signal(host.pidfd(), Signal::KILL).expect("it runs");
    let left = || {
        std::fs::read_dir(run.path())
            .expect("the run directory")
            .count()
    };
    eventually("the run directory is empty", || left() == 0).await;
    gone(watcher).await;
}

/// The watcher of the host in `run`, found by its arguments.
fn watcher_of(run: &std::path::Path) -> Option<u32> {
    let run = run.to_str().expect("UTF-8");
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let arguments = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (arguments.starts_with("orchestrator-watcher") && arguments.contains(run))
                .then_some(pid)
        })
}
