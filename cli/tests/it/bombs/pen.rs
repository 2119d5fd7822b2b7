//! Control groups around one host, so that whatever it leaves is found there.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_testkit::wait_until;
use rustix::process::Signal;

use crate::{
    harness::{eventually, signal},
    users::{ORDINARY, User},
};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// One group in each hierarchy that bounds plugins; none where the tests may make none.
pub(super) struct Pen {
    directories: Vec<PathBuf>,
}

impl Pen {
    /// The ordinary user may enter it, and make groups in it where it `is_delegated`.
    pub(super) fn new(user: User, is_delegated: bool) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let name = format!("bombs-{}-{}", std::process::id(), fastrand::u32(..));
        // Of the second version, nobody enters a group who may not change the one above.
        let may_enter = |line: &&str| user == User::OfTheTests || !line.starts_with("0::");
        let places = own.lines().filter(may_enter).filter_map(place);
        let made = places.filter_map(|place| {
            let directory = place.join(&name);
            fs::create_dir(&directory).ok()?;
            let entry = directory.join("cgroup.procs");
            // Who is not root owns it anyway.
            chown(&entry, Some(ORDINARY), Some(ORDINARY)).ok();
            if is_delegated {
                chown(&directory, Some(ORDINARY), Some(ORDINARY)).ok();
            }
            Some(directory)
        });
        Self {
            directories: made.collect(),
        }
    }

    /// What a shell does to be in it, with all that it starts.
    pub(super) fn enter(&self) -> String {
        let each = self.directories.iter();
        let lines = each.map(|it| format!("echo $$ > {}/cgroup.procs || exit 99\n", it.display()));
        lines.collect()
    }

    /// The processes in it and the groups below it.
    pub(super) fn content(&self) -> (Vec<u32>, Vec<PathBuf>) {
        let mut content = (Vec::new(), Vec::new());
        for directory in &self.directories {
            add_content(directory, &mut content);
        }
        content
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        let (processes, mut groups) = self.content();
        for pid in processes {
            signal(pid, Signal::KILL);
        }
        groups.reverse();
        groups.extend(self.directories.iter().cloned());
        let is_removed = |it: &PathBuf| fs::remove_dir(it).is_ok() || !it.exists();
        let remove = || groups.iter().all(is_removed);
        match std::thread::panicking() {
            true => drop(wait_until(Duration::from_secs(5), remove)),
            false => eventually("the end of the groups", remove),
        }
    }
}

fn add_content(directory: &Path, content: &mut (Vec<u32>, Vec<PathBuf>)) {
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    content
        .0
        .extend(processes.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            content.1.push(entry.path());
            add_content(&entry.path(), content);
        }
    }
}

/// The directory of the group that a line of `/proc/self/cgroup` names.
fn place(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let bounds = |name: &str| ["memory", "pids", "cpu", ""].contains(&name);
    if !controllers.split(',').any(bounds) {
        return None;
    }
    let mut mounted = Path::new(GROUPS).join(controllers);
    if controllers.is_empty() {
        let beside = mounted.join("unified");
        mounted = if beside.exists() { beside } else { mounted };
    }
    let below = mounted.join(path.trim_start_matches('/'));
    below.join("cgroup.procs").exists().then_some(below)
}
