//! Looks at processes from outside.

use std::{
    fs,
    time::{Duration, SystemTime},
};

/// The processes whose parent is `pid`, zombies left out.
pub fn children(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| {
            let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else {
                return false;
            };
            // The name may hold anything, so fields are counted from behind it.
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let mut fields = fields.split_whitespace();
            let (state, parent) = (fields.next(), fields.next());
            state != Some("Z") && parent == Some(&pid.to_string())
        })
        .collect()
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
