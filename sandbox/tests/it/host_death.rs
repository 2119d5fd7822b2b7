//! Nothing outlives a host that is killed.

use rustix::process::{Signal, pidfd_send_signal};

use crate::support::{Host, eventually, gone, keeper_of, pipe, read_until, stranger};

/// A running host, and what it says behind a word.
async fn host(run: &std::path::Path) -> (Host, impl Fn(&str) -> String) {
    let (mut reader, writer) = pipe();
    let host = Host::start("helper::host", run, writer);
    let text = read_until(&mut reader, |text| text.contains("ready\n")).await;
    let word = move |name: &str| {
        let (_, rest) = text.split_once(name).expect("the host says it");
        rest.lines().next().expect("a line").trim().to_owned()
    };
    (host, word)
}

#[tokio::test]
async fn a_killed_host_leaves_no_process_and_no_directory() {
    let run = tempfile::tempdir().expect("a directory");
    let (mut host, word) = host(run.path()).await;
    let processes = ["plugin ", "other ", "stray ", "alone "]
        .map(|name| stranger(word(name).parse().expect("an id")));
    let tree = std::path::PathBuf::from(word("tree "));
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

    host.kill();
    for process in processes {
        tokio::time::timeout(std::time::Duration::from_secs(2), gone(process))
            .await
            .expect("the process is gone within two seconds");
    }
    eventually("the run directory is empty", || left() == 0).await;
}

/// Who stops the keeper first does not make it miss the end of its host.
#[tokio::test]
async fn a_host_killed_with_its_keeper_stopped_leaves_no_process() {
    let run = tempfile::tempdir().expect("a directory");
    let (mut host, word) = host(run.path()).await;
    let processes = ["plugin ", "other ", "stray ", "alone "]
        .map(|name| stranger(word(name).parse().expect("an id")));
    let keeper = stranger(keeper_of(host.id()));
    pidfd_send_signal(&keeper, Signal::STOP).expect("it runs");
    host.kill();
    for process in processes {
        gone(process).await;
    }
    gone(keeper).await;
}

#[tokio::test]
async fn the_watcher_ignores_signals_that_ask() {
    let run = tempfile::tempdir().expect("a directory");
    let (mut host, _) = host(run.path()).await;
    // A process that has just started has no arguments for a moment, and a shell ignores
    // nothing before it has read so.
    eventually("the watcher ignores signals", || {
        watcher_of(run.path()).is_some_and(ignores_signals)
    })
    .await;
    let watcher = stranger(watcher_of(run.path()).expect("the watcher runs"));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        pidfd_send_signal(&watcher, signal).expect("it runs");
    }
    host.kill();
    let left = || {
        std::fs::read_dir(run.path())
            .expect("the run directory")
            .count()
    };
    eventually("the run directory is empty", || left() == 0).await;
    gone(watcher).await;
}

/// Whether the process ignores `SIGTERM`.
fn ignores_signals(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (Signal::TERM.as_raw() - 1) > 0)
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
