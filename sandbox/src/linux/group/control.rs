//! The files of a control group, in both versions of their interface.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{GroupLimits, GroupUsage};

/// What of a process a group counts and bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Tasks,
    Cpu,
}

pub(super) const ALL: [Controller; 3] = [Controller::Memory, Controller::Tasks, Controller::Cpu];

impl Controller {
    /// The kernel's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tasks => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// Which interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// A group in one hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) path: PathBuf,
}

/// The time over which processor time is counted out, in microseconds.
const PERIOD_US: u64 = 100_000;

/// The limit that `controller` holds.
pub(super) fn wanted(limits: &GroupLimits, controller: &Controller) -> Option<u64> {
    match controller {
        Controller::Memory => limits.memory_bytes,
        Controller::Tasks => limits.tasks,
        Controller::Cpu => limits.cpu_percent,
    }
}

impl Directory {
    /// Sets every limit that is held here, and tells of the first that was refused.
    pub(super) fn set(&self, limits: &GroupLimits) -> io::Result<()> {
        let mut first = Ok(());
        for controller in &self.controllers {
            let set = match controller {
                Controller::Memory => self.set_memory(limits.memory_bytes),
                Controller::Tasks => self.write("pids.max", &number(limits.tasks, "max")),
                Controller::Cpu => self.set_cpu(limits.cpu_percent),
            };
            first = first.and(set);
        }
        first
    }

    fn set_memory(&self, limit: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::One => {
                let limit = number(limit, "-1");
                let memory = || self.write("memory.limit_in_bytes", &limit);
                // Never less than the other, so whether it is raised or lowered decides
                // which one comes first.
                let first = memory();
                optional(self.write("memory.memsw.limit_in_bytes", &limit))?;
                first.or_else(|_| memory())
            }
            Version::Two => {
                let swap = if limit.is_some() { "0" } else { "max" };
                optional(self.write("memory.swap.max", swap))?;
                // What lost one of its processes is not left to go on as it can.
                optional(self.write("memory.oom.group", "1"))?;
                self.write("memory.max", &number(limit, "max"))
            }
        }
    }

    fn set_cpu(&self, percent: Option<u64>) -> io::Result<()> {
        let quota = percent.map(|percent| percent.max(1).saturating_mul(PERIOD_US / 100));
        match self.version {
            Version::One => {
                self.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                match self.write("cpu.cfs_quota_us", &number(quota, "-1")) {
                    // A group above this one has less.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                    set => set,
                }
            }
            Version::Two => {
                let quota = number(quota, "max");
                self.write("cpu.max", &format!("{quota} {PERIOD_US}"))
            }
        }
    }

    pub(super) fn add_usage(&self, usage: &mut GroupUsage) {
        let has = |controller| self.controllers.contains(&controller);
        if has(Controller::Memory) {
            usage.memory_bytes = self.memory_bytes();
        }
        if has(Controller::Cpu) {
            usage.throttled = field(&self.read("cpu.stat"), "nr_throttled");
        }
    }

    fn memory_bytes(&self) -> Option<u64> {
        let (all, idle) = match self.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "inactive_file"),
        };
        let all: u64 = self.read(all).trim().parse().ok()?;
        let idle = field(&self.read("memory.stat"), idle).unwrap_or(0);
        Some(all.saturating_sub(idle))
    }

    /// How many processes were killed for want of memory; `None` when that is not
    /// counted here or the group is gone.
    pub(super) fn killed(&self) -> Option<u64> {
        if !self.controllers.contains(&Controller::Memory) {
            return None;
        }
        let counts = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(&self.read(counts), "oom_kill")
    }

    /// Kills what is in it.
    pub(super) fn kill(&self) {
        kill_all(&self.path);
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

/// Kills what is in the group at `path`. Where the kernel does not do that in one go, what
/// is made meanwhile is left for the next try, but for a group that counts tasks.
pub(super) fn kill_all(path: &Path) {
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    if processes.is_empty() || fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // No more are made then.
    let _ = fs::write(path.join("pids.max"), "0");
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Not every kernel has every file.
fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        written => written,
    }
}

fn number(limit: Option<u64>, none: &str) -> String {
    limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
}

/// The number behind `name` in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would be told, told to plain files.
    #[test]
    fn both_versions_are_told_the_same_in_their_own_words() {
        let limits = GroupLimits {
            memory_bytes: Some(1 << 20),
            tasks: Some(7),
            cpu_percent: Some(25),
        };
        let told = |version, limits: &GroupLimits, file: &str| {
            let directory = tempfile::tempdir().expect("a directory");
            let group = Directory {
                version,
                controllers: ALL.to_vec(),
                path: directory.path().to_owned(),
            };
            group.set(limits).expect("plain files");
            group.read(file)
        };
        use Version::{One, Two};
        for (version, file, set, none) in [
            (One, "memory.limit_in_bytes", "1048576", "-1"),
            (One, "memory.memsw.limit_in_bytes", "1048576", "-1"),
            (One, "pids.max", "7", "max"),
            (One, "cpu.cfs_quota_us", "25000", "-1"),
            (Two, "memory.max", "1048576", "max"),
            (Two, "memory.swap.max", "0", "max"),
            (Two, "memory.oom.group", "1", "1"),
            (Two, "pids.max", "7", "max"),
            (Two, "cpu.max", "25000 100000", "max 100000"),
        ] {
            assert_eq!(told(version, &limits, file), set, "{file}");
            let nothing = GroupLimits::default();
            assert_eq!(told(version, &nothing, file), none, "{file}");
        }
    }

    #[test]
    fn both_versions_tell_what_was_used_and_killed() {
        for (version, files) in [
            (
                Version::One,
                [
                    ("memory.usage_in_bytes", "1000\n"),
                    ("memory.stat", "inactive_file 1\ntotal_inactive_file 400\n"),
                    (
                        "memory.oom_control",
                        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                    ),
                    ("cpu.stat", "nr_periods 9\nnr_throttled 3\n"),
                ],
            ),
            (
                Version::Two,
                [
                    ("memory.current", "1000\n"),
                    ("memory.stat", "anon 5\ninactive_file 400\n"),
                    (
                        "memory.events",
                        "low 0\noom 3\noom_kill 2\noom_group_kill 1\n",
                    ),
                    ("cpu.stat", "usage_usec 1\nnr_throttled 3\n"),
                ],
            ),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            for (name, text) in files {
                fs::write(directory.path().join(name), text).expect("a file");
            }
            let group = Directory {
                version,
                controllers: ALL.to_vec(),
                path: directory.path().to_owned(),
            };
            let mut usage = GroupUsage::default();
            group.add_usage(&mut usage);
            let expected = GroupUsage {
                memory_bytes: Some(600),
                throttled: Some(3),
            };
            assert_eq!((usage, group.killed()), (expected, Some(2)));
        }
    }
}
