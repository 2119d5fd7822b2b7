//! The limits of one plugin, which may change while it runs.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use orchestrator_sandbox::{GroupLimits, GroupReport, Limits, groups};
use serde::Serialize;

use super::{Ceilings, Policy, Watch};

/// Memory a program needs besides what it was limited to where each of its processes is
/// bounded by itself: its own data, its stacks, what its runtime sets aside.
const DATA_HEADROOM: u64 = 64 << 20;
/// Tasks above the limit that the kernel still makes, so that the monitor sees what is
/// too much.
const TASKS_HEADROOM: u64 = 32;
/// Bytes by which one file may be larger than all of them together.
const DISK_HEADROOM: u64 = 1 << 16;

/// Why a limit of processor time is refused.
pub(super) const NOTHING_THROTTLES: &str = "its policy is `throttle`, and no control group of this host holds processor time; see \
     `orchestrator plugin doctor`";

/// By what a plugin can be held to its limits.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) policy: Policy,
    /// What the control groups of this host hold.
    pub(crate) groups: GroupReport,
    /// Whether its processes are counted apart from those of others.
    pub(crate) own_tasks: bool,
    /// Why it cannot be held to a limit of disk space, where it cannot.
    pub(crate) disk: Result<(), &'static str>,
}

impl Means {
    pub(super) fn holds_cpu_as_wanted(&self) -> bool {
        self.policy != Policy::Throttle || self.groups.cpu.is_some()
    }

    /// Whether the kernel is told of limits that are not to be exceeded.
    fn bounds(&self) -> bool {
        self.policy != Policy::Warn
    }

    fn memory_group(&self) -> Option<u8> {
        self.groups.memory.filter(|_| self.bounds())
    }

    fn cpu_group(&self) -> Option<u8> {
        self.groups.cpu.filter(|_| self.policy == Policy::Throttle)
    }
}

/// What one plugin may use now, and how it is held to that. Shared by everything that
/// runs the plugin.
#[derive(Debug)]
pub(crate) struct Bounds {
    state: Mutex<State>,
    /// Counts the changes.
    changes: AtomicU64,
    policy: Policy,
    ceilings: Ceilings,
}

#[derive(Clone, Debug)]
struct State {
    watch: Watch,
    means: Means,
}

impl Bounds {
    pub(super) fn new(watch: Watch, ceilings: Ceilings, means: Means) -> Self {
        Self {
            policy: means.policy,
            state: Mutex::new(State { watch, means }),
            changes: AtomicU64::new(0),
            ceilings,
        }
    }

    pub(crate) fn now(&self) -> Watch {
        self.state().watch
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// How often they have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Puts `watch` in place of what holds now. A process that runs is held to it from the
    /// next sample on, the next one from its start.
    ///
    /// # Errors
    ///
    /// The key of the limit that cannot change, and why.
    pub(crate) fn set(&self, watch: Watch) -> Result<(), (&'static str, &'static str)> {
        // Nobody may have looked while there was nothing to hold.
        let groups = groups();
        let mut state = self.state();
        state.means.groups = groups;
        if watch.disk_bytes != state.watch.disk_bytes {
            let why = "the room for its files is set aside when it starts";
            return Err(("max_disk_mb", why));
        }
        if watch.cpu_percent.is_some() && !state.means.holds_cpu_as_wanted() {
            return Err(("max_cpu_percent", NOTHING_THROTTLES));
        }
        state.watch = watch;
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// What each of its processes may use, as the kernel is told.
    pub(crate) fn of_each(&self) -> Limits {
        let State { watch, means } = &*self.state();
        let data = watch.memory_bytes.filter(|_| means.bounds());
        let data = data.filter(|_| means.memory_group().is_none());
        Limits {
            data_bytes: data.map(|bytes| bytes.saturating_add(DATA_HEADROOM)),
            open_files: self.files(watch, means),
            // Where both bound it, a full disk is told of as one.
            file_bytes: watch
                .disk_bytes
                .map(|bytes| bytes.saturating_add(DISK_HEADROOM)),
            // It would count those of the user, whoever started them.
            processes: with_headroom(watch.tasks).filter(|_| means.own_tasks),
            ..Limits::default()
        }
    }

    /// Whoever is only warned may have more than it asked for, and still not so many that the
    /// host has too few.
    fn files(&self, watch: &Watch, means: &Means) -> Option<u64> {
        if means.bounds() {
            return watch.files;
        }
        let most = self.ceilings.files?;
        Some(most.max(watch.files.unwrap_or_default()))
    }

    /// What all of them may use together, as the kernel is told.
    pub(crate) fn of_all(&self) -> GroupLimits {
        let State { watch, means } = &*self.state();
        let (memory, cpu) = (means.memory_group(), means.cpu_group());
        let tasks = self.tasks_group(watch, means);
        GroupLimits {
            memory_bytes: watch.memory_bytes.filter(|_| memory.is_some()),
            tasks: with_headroom(watch.tasks).filter(|_| tasks.is_some()),
            cpu_percent: watch.cpu_percent.filter(|_| cpu.is_some()),
        }
    }

    /// Who counts tasks: no group for the sake of a bound that a namespace holds well enough.
    fn tasks_group(&self, watch: &Watch, means: &Means) -> Option<u8> {
        let is_usual = means.own_tasks && watch.tasks == self.ceilings.tasks;
        means.groups.tasks.filter(|_| !is_usual)
    }

    /// Who holds the plugin to each of its limits.
    pub(crate) fn held(&self) -> Vec<HeldLimit> {
        let State { watch, means } = self.state().clone();
        let group = |version: Option<u8>| version.map(group_name);
        let each = means.bounds().then_some("rlimit");
        let memory = group(means.memory_group()).or(each);
        let namespace = means.own_tasks.then_some("namespace");
        let tasks = group(self.tasks_group(&watch, &means)).or(namespace);
        let cpu = group(means.cpu_group());
        let by = |kernel: Option<&'static str>| kernel.into_iter().chain(["monitor"]).collect();
        [
            ("memory", watch.memory_bytes, by(memory)),
            ("cpu", watch.cpu_percent, by(cpu)),
            ("tasks", watch.tasks, by(tasks)),
            ("files", watch.files, by(each)),
            ("disk", watch.disk_bytes, vec!["tmpfs", "rlimit"]),
        ]
        .into_iter()
        .filter_map(|(resource, limit, by)| {
            Some(HeldLimit {
                resource,
                limit: limit?,
                by,
                policy: means.policy,
            })
        })
        .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_headroom(tasks: Option<u64>) -> Option<u64> {
    tasks.map(|tasks| tasks.saturating_add(TASKS_HEADROOM))
}

fn group_name(version: u8) -> &'static str {
    match version {
        1 => "cgroup v1",
        _ => "cgroup v2",
    }
}

/// A limit of a plugin, and who holds the plugin to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldLimit {
    /// `memory`, `cpu`, `tasks`, `files` or `disk`.
    pub resource: &'static str,
    /// Bytes, hundredths of a core, or a number.
    pub limit: u64,
    /// `cgroup v1`, `cgroup v2`, `rlimit`, `namespace` and `tmpfs` are the kernel's;
    /// `monitor` looks at the whole process tree every second.
    pub by: Vec<&'static str>,
    /// What is done about more.
    pub policy: Policy,
}

/// By what this host holds plugins to a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitOfHost {
    /// The manifest's key.
    pub limit: &'static str,
    /// By what, as in [`HeldLimit::by`].
    pub by: Vec<&'static str>,
    /// Why no control group does; empty where one does or none is of use.
    pub reason: String,
    /// What to change; empty where nothing is to be.
    pub help: &'static str,
}

/// By what this host holds native plugins to their limits. Blocks, the first time for
/// some milliseconds.
pub fn limits_of_host() -> Vec<LimitOfHost> {
    of_report(&groups())
}

fn of_report(groups: &GroupReport) -> Vec<LimitOfHost> {
    let grouped = |limit, version: Option<u8>, others: &[&'static str]| {
        let by = version.map(group_name).into_iter();
        LimitOfHost {
            limit,
            by: by.chain(others.iter().copied()).collect(),
            reason: version.map_or_else(|| groups.reason.clone(), |_| String::new()),
            help: version.map_or(GroupReport::HELP, |_| ""),
        }
    };
    let plain = |limit, by: &[&'static str]| LimitOfHost {
        limit,
        by: by.to_vec(),
        reason: String::new(),
        help: "",
    };
    let memory: &[_] = match groups.memory {
        Some(_) => &["monitor"],
        None => &["rlimit", "monitor"],
    };
    vec![
        grouped("max_memory_mb", groups.memory, memory),
        grouped("max_cpu_percent", groups.cpu, &["monitor"]),
        grouped("max_tasks", groups.tasks, &["namespace", "monitor"]),
        plain("max_open_files", &["rlimit", "monitor"]),
        plain("max_disk_mb", &["tmpfs", "rlimit"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_control_groups_says_so_and_what_holds_instead() {
        let none = GroupReport {
            reason: "read-only".to_owned(),
            ..GroupReport::default()
        };
        let limits = of_report(&none);
        assert_eq!(limits[0].by, ["rlimit", "monitor"]);
        assert_eq!(
            (&*limits[0].reason, limits[0].help),
            ("read-only", GroupReport::HELP)
        );
        let all = GroupReport {
            memory: Some(2),
            tasks: Some(2),
            cpu: Some(1),
            ..GroupReport::default()
        };
        let limits = of_report(&all);
        assert_eq!(limits[0].by, ["cgroup v2", "monitor"]);
        assert_eq!(limits[1].by, ["cgroup v1", "monitor"]);
        assert!(
            limits
                .iter()
                .all(|it| it.reason.is_empty() && it.help.is_empty())
        );
    }
}
