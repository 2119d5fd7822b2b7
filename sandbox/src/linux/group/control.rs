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

/// More than the kernel takes from a group's limit in one go, which it gives back when it is
/// too much.
const CHARGED_AT_ONCE: u64 = 1 << 20;

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

    /// How many processes were killed because the group wanted more memory than it may
    /// have; `None` when that is not counted here or the group is gone. Whom the kernel
    /// kills because the machine, or a group above this one, has no more is not among them.
    pub(super) fn killed(&self) -> Option<u64> {
        if !self.controllers.contains(&Controller::Memory) {
            return None;
        }
        let (killed, is_own) = match self.version {
            Version::One => {
                let killed = field(&self.read("memory.oom_control"), "oom_kill")?;
                (killed, self.came_to_its_limit())
            }
            Version::Two => {
                let events = self.read("memory.events");
                // Counted where the limit is, and not in the groups below.
                let own = field(&events, "oom").unwrap_or(0);
                (field(&events, "oom_kill")?, own > 0)
            }
        };
        Some(if is_own { killed } else { 0 })
    }

    /// Whether what is in it once used all that it may. The first version counts how often
    /// it was refused more (`memory.failcnt`), and newer kernels always say never.
    fn came_to_its_limit(&self) -> bool {
        let number = |file| self.read(file).trim().parse::<u64>().ok();
        let most = [
            "memory.max_usage_in_bytes",
            "memory.memsw.max_usage_in_bytes",
        ];
        let most = most.into_iter().filter_map(number).max();
        let most = most.zip(number("memory.limit_in_bytes"));
        // Where it cannot be told, a kill is taken for one of its own.
        most.is_none_or(|(most, limit)| most.saturating_add(CHARGED_AT_ONCE) >= limit)
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
                vec![
                    ("memory.usage_in_bytes", "1000\n"),
                    ("memory.stat", "inactive_file 1\ntotal_inactive_file 400\n"),
                    (
                        "memory.oom_control",
                        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                    ),
                    ("memory.max_usage_in_bytes", "1048000\n"),
                    ("memory.limit_in_bytes", "1048576\n"),
                    ("cpu.stat", "nr_periods 9\nnr_throttled 3\n"),
                ],
            ),
            (
                Version::Two,
                vec![
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

    #[test]
    fn whom_the_machine_killed_was_not_killed_for_the_group_s_limit() {
        let group = |version, files: &[(&str, &str)]| {
            let directory = tempfile::tempdir().expect("a directory");
            for (name, text) in files {
                fs::write(directory.path().join(name), text).expect("a file");
            }
            let group = Directory {
                version,
                controllers: ALL.to_vec(),
                path: directory.path().to_owned(),
            };
            group.killed()
        };
        let events = [(
            "memory.events",
            "max 7\noom 0\noom_kill 1\noom_group_kill 1\n",
        )];
        assert_eq!(group(Version::Two, &events), Some(0));
        let one = |most: &str| {
            let files = [
                ("memory.oom_control", "under_oom 0\noom_kill 1\n"),
                ("memory.failcnt", "0\n"),
                ("memory.max_usage_in_bytes", most),
                ("memory.memsw.max_usage_in_bytes", most),
                ("memory.limit_in_bytes", "41943040\n"),
            ];
            group(Version::One, &files)
        };
        assert_eq!(one("20971520\n"), Some(0));
        assert_eq!(one("41914368\n"), Some(1));
        assert_eq!(one("41943040\n"), Some(1));
    }
}
