//! Looks at processes from outside.

use std::{
    fs,
    time::{Duration, SystemTime},
};

/// The processes below `pid` that run: its children, theirs, and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let running: Vec<(u32, u32)> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent(process)?)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        let below = running.iter().filter(|(_, parent)| *parent == above);
        found.extend(below.map(|(process, _)| process));
        next += 1;
    }
    found.split_off(1)
}

/// The parent of `pid`, if that runs.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so fields are counted from behind it.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    (state != "Z").then(|| parent.parse().ok())?
}

/// Waits until `condition` holds, for at most `limit`. Returns whether it does.
#[expect(
    clippy::disallowed_methods,
    reason = "waits for other processes, outside of any runtime"
)]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = SystemTime::now();
    while !condition() {
        if started.elapsed().unwrap_or_default() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
