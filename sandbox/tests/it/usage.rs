//! What process trees use.

use std::time::Duration;

use orchestrator_sandbox::{ProcessTable, Signal, sample, spawn};
use rustix::process::{Pid, kill_process};

use crate::support::{ended, eventually, shell};

#[tokio::test]
async fn a_tree_is_the_process_and_all_it_started() {
    let script = "sleep 600 & setsid sleep 600 & wait";
    let child = spawn(shell(script)).await.expect("it starts");
    let usage = || sample(child.pid()).expect("/proc").expect("it runs");
    // A program that only begins to run has its libraries open as well, or no memory yet.
    let runs = || {
        let usage = usage();
        // Stdin, stdout and stderr of each.
        (usage.processes, usage.threads, usage.open_files) == (3, 3, 9)
            && (300_000..100_000_000).contains(&usage.memory_bytes)
    };
    eventually("all three run", runs).await;

    // One of them has a session of its own, which killing the group does not reach.
    let children = format!("/proc/{0}/task/{0}/children", child.pid());
    let children = std::fs::read_to_string(children).expect("they are listed");
    child.kill_group().expect("it runs");
    ended(&child).await;
    assert_eq!(sample(child.pid()).expect("/proc"), None);
    for pid in children.split_whitespace() {
        let pid = Pid::from_raw(pid.parse().expect("an id")).expect("an id");
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// A program that forks shares its pages with its children until they change them.
#[tokio::test]
async fn a_page_that_processes_share_counts_once() {
    const MIB: u64 = 1 << 20;
    let script = "x=$(head -c 33554432 /dev/zero | tr '\\0' x); \
                  (sleep 600; :) & (sleep 600; :) & (sleep 600; :) & wait";
    let child = spawn(shell(script)).await.expect("it starts");
    let usage = || sample(child.pid()).expect("/proc").expect("it runs");
    eventually("all seven run", || usage().processes == 7).await;
    let memory = usage().memory_bytes;
    assert!((32 * MIB..120 * MIB).contains(&memory), "{memory}");
}

#[tokio::test]
async fn only_what_was_asked_for_is_read() {
    let child = spawn(shell("sleep 600 & wait")).await.expect("it starts");
    let table = ProcessTable::read(&[child.pid()]).expect("/proc");
    assert!(table.usage(child.pid()).is_some());
    assert_eq!(table.usage(std::process::id()), None);
}

#[tokio::test]
async fn processor_time_grows_and_counts_ended_children() {
    let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let child = spawn(shell(format!("({work}); sleep 600")))
        .await
        .expect("it starts");
    eventually("the work shows", || {
        let usage = sample(child.pid()).expect("/proc").expect("it runs");
        usage.cpu_time >= Duration::from_millis(50)
    })
    .await;
}

#[test]
fn one_table_serves_every_tree() {
    let table = ProcessTable::read(&[0, std::process::id(), u32::MAX]).expect("/proc");
    let usage = table.usage(std::process::id()).expect("this process");
    assert!(
        usage.processes >= 1 && usage.open_files >= 3 && usage.memory_bytes > 0,
        "{usage:?}"
    );
    assert_eq!(table.usage(0), None);
    assert_eq!(table.usage(u32::MAX), None);
}
