//! Looks at processes from outside.

use std::{fs, time::Duration};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::time::Instant;

/// The processes below `pid` that run: its children, theirs, and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let running = running();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        let below = running.iter().filter(|it| it.parent == above);
        found.extend(below.map(|it| it.pid));
        next += 1;
    }
    found.split_off(1)
}

/// The process that is the parent of `host`'s plugins, once it has started one.
pub fn keeper(host: u32) -> Option<u32> {
    let is_keeper = |it: &Process| it.parent == host && it.name == "orch-keeper";
    running().into_iter().find(is_keeper).map(|it| it.pid)
}

/// What `/proc` says of a process.
struct Process {
    pid: u32,
    name: String,
    parent: u32,
}

/// Every process that has not ended.
fn running() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so fields are counted from behind it.
    let (before, fields) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = fields.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
    (state != "Z").then_some(Process { pid, name, parent })
}

/// Sends a signal.
///
/// # Panics
///
/// When there is no such process.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("an id"), signal).expect("a process");
}

/// Stops a process, and waits until it stands still, for at most a minute: each thread
/// takes the signal when it comes to it.
///
/// # Panics
///
/// When there is no such process, or it goes on.
pub async fn stop(pid: u32) {
    send(pid, Signal::STOP);
    for _ in 0..12_000 {
        if threads(pid).is_some_and(|mut threads| threads.all(|state| state == "T")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("process {pid} goes on");
}

/// The state of each.
fn threads(pid: u32) -> Option<impl Iterator<Item = String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    Some(threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned())
    }))
}

/// Waits until `condition` holds, for at most `limit`. Returns whether it does.
#[expect(
    clippy::disallowed_methods,
    reason = "waits for other processes, outside of any runtime"
)]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
