//! The limits of one plugin, which may change while it runs.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use orchestrator_manifest::Resources;
use orchestrator_sandbox::{GroupLimits, GroupReport, Limits, groups};

use super::{
    Ceilings, LimitChange, LimitRefusal, Policy, Watch,
    change::{OPERATOR, Origins, settle},
    held::{HeldLimit, group_name},
};

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
    /// The key of the configuration that the policy is from.
    pub(crate) policy_from: &'static str,
    /// What the control groups of this host hold.
    pub(crate) groups: GroupReport,
    /// Whether its processes are counted apart from those of others.
    pub(crate) own_tasks: bool,
    /// Why it cannot be held to a limit of disk space, where it cannot.
    pub(crate) disk: Result<(), &'static str>,
    /// Whether its room for files is nobody else's, so that what is in it is its own.
    pub(crate) own_disk: bool,
    /// Whether each of its calls has a process of its own.
    pub(crate) is_per_call: bool,
}

impl Means {
    fn holds_cpu_as_wanted(&self) -> bool {
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
    manifest: Resources,
    ceilings: Ceilings,
    /// The room for files that its processes have, which was set aside when it was loaded.
    room: Option<u64>,
}

#[derive(Clone, Debug)]
struct State {
    change: LimitChange,
    watch: Watch,
    origins: Origins,
    /// With the policy that holds now.
    means: Means,
    /// What the kernel was told of its last process.
    told: Option<Told>,
}

/// What the kernel is told of each process of a plugin, and of all together.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) each: Limits,
    pub(crate) all: GroupLimits,
}

impl Bounds {
    /// Those of a manifest, with what an operator has changed of them.
    pub(super) fn new(
        manifest: &Resources,
        change: LimitChange,
        ceilings: Ceilings,
        mut means: Means,
    ) -> Self {
        let (watch, origins) = settle(manifest, &change, &ceilings);
        adopt(&mut means, &change);
        Self {
            room: watch.disk_bytes,
            state: Mutex::new(State {
                change,
                watch,
                origins,
                means,
                told: None,
            }),
            changes: AtomicU64::new(0),
            manifest: manifest.clone(),
            ceilings,
        }
    }

    pub(crate) fn now(&self) -> Watch {
        self.state().watch
    }

    /// Whether its processes have room for files of their own.
    pub(crate) fn has_room(&self) -> bool {
        self.room.is_some()
    }

    pub(super) fn holds_cpu_as_wanted(&self) -> bool {
        self.state().means.holds_cpu_as_wanted()
    }

    /// What the monitor goes by.
    pub(crate) fn watched(&self) -> (Watch, Policy) {
        let state = self.state();
        let disk_bytes = self.room.filter(|_| state.means.own_disk);
        let watch = Watch {
            disk_bytes,
            ..state.watch
        };
        (watch, state.means.policy)
    }

    /// How often they have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether [`set`](Self::set) can be done.
    ///
    /// # Errors
    ///
    /// Which limit cannot change, and why.
    pub(crate) fn check(&self, id: &str, change: &LimitChange) -> Result<(), LimitRefusal> {
        change.check(id, &self.ceilings)?;
        let state = self.state().with(change, &self.manifest, &self.ceilings);
        let fixed = |key, why| LimitRefusal::Fixed {
            id: id.to_owned(),
            key,
            why,
        };
        if let (Some(1..), Err(why)) = (change.disk_mb, state.means.disk) {
            return Err(fixed("disk_mb", why));
        }
        if state.watch.cpu_percent.is_some() && !state.means.holds_cpu_as_wanted() {
            return Err(fixed("cpu_percent", NOTHING_THROTTLES));
        }
        Ok(())
    }

    /// Puts `change` in place of what holds now, as it was [checked](Self::check). A process
    /// that runs is held to it from the next sample on, the next one from its start.
    pub(crate) fn set(&self, change: &LimitChange) {
        let mut state = self.state();
        *state = state.with(change, &self.manifest, &self.ceilings);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// What the kernel is told of a process that is about to start.
    pub(crate) fn tell(&self) -> Told {
        let told = self.told();
        self.state().told = Some(told.clone());
        told
    }

    fn told(&self) -> Told {
        Told {
            each: self.of_each(),
            all: self.of_all(),
        }
    }

    /// What each of its processes may use, as the kernel is told.
    pub(crate) fn of_each(&self) -> Limits {
        let State { watch, means, .. } = &*self.state();
        let data = watch.memory_bytes.filter(|_| means.bounds());
        let data = data.filter(|_| means.memory_group().is_none());
        Limits {
            data_bytes: data.map(|bytes| bytes.saturating_add(DATA_HEADROOM)),
            open_files: self.files(watch, means),
            // Where both bound it, a full disk is told of as one.
            file_bytes: self.room.map(|bytes| bytes.saturating_add(DISK_HEADROOM)),
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
        let most = self.ceilings.files?.most;
        Some(most.max(watch.files.unwrap_or_default()))
    }

    /// What all of them may use together, as the kernel is told.
    pub(crate) fn of_all(&self) -> GroupLimits {
        let State { watch, means, .. } = &*self.state();
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
        let ceiling = self.ceilings.tasks.map(|ceiling| ceiling.most);
        let is_usual = means.own_tasks && watch.tasks == ceiling;
        means.groups.tasks.filter(|_| !is_usual)
    }

    /// Who holds the plugin to each of its limits.
    pub(crate) fn held(&self) -> Vec<HeldLimit> {
        let now = self.told();
        let state = self.state().clone();
        let State {
            watch,
            origins,
            means,
            ..
        } = &state;
        let [memory, cpu, tasks, files, disk] = self.holders(&state);
        let policy_from = match state.change.violation {
            Some(_) => OPERATOR,
            None => means.policy_from,
        };
        let held = |resource, limit: Option<u64>, by, from| {
            let waits_for = match resource {
                "disk" => (watch.disk_bytes != self.room).then_some("reload"),
                _ => state.waits(resource, &now).then_some("restart"),
            };
            Some(HeldLimit {
                resource,
                limit: limit?,
                by,
                policy: means.policy,
                from,
                policy_from,
                waits_for,
            })
        };
        let room = watch.disk_bytes.or(self.room);
        let all = [
            held("memory", watch.memory_bytes, memory, origins.memory),
            held("cpu", watch.cpu_percent, cpu, origins.cpu),
            held("tasks", watch.tasks, tasks, origins.tasks),
            held("files", watch.files, files, origins.files),
            held("disk", room, disk, origins.disk),
        ];
        all.into_iter().flatten().collect()
    }

    /// Who holds it to memory, processor time, tasks, files and disk space.
    fn holders(&self, State { watch, means, .. }: &State) -> [Vec<&'static str>; 5] {
        let group = |version: Option<u8>| version.map(group_name);
        let each = means.bounds().then_some("rlimit");
        let memory = group(means.memory_group()).or(each);
        let namespace = means.own_tasks.then_some("namespace");
        let tasks = group(self.tasks_group(watch, means)).or(namespace);
        let cpu = group(means.cpu_group());
        let room = means.own_disk.then_some("tmpfs");
        let and = |one: Option<&'static str>, other| one.into_iter().chain([other]).collect();
        [
            and(memory, "monitor"),
            and(cpu, "monitor"),
            and(tasks, "monitor"),
            and(each, "monitor"),
            and(room, "rlimit"),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The same with a change. What was told of a process that runs stays so.
    fn with(&self, change: &LimitChange, manifest: &Resources, ceilings: &Ceilings) -> Self {
        let change = change.over(self.change);
        let (watch, origins) = settle(manifest, &change, ceilings);
        let mut means = self.means.clone();
        // Nobody may have looked while there was nothing to hold.
        means.groups = groups();
        adopt(&mut means, &change);
        Self {
            change,
            watch,
            origins,
            means,
            told: self.told.clone(),
        }
    }

    /// Whether the kernel holds a process that runs to less than this limit, or leaves it
    /// to the monitor, until another one is started: so much is set at the start alone.
    fn waits(&self, resource: &str, now: &Told) -> bool {
        let Some(told) = self.told.as_ref().filter(|_| !self.means.is_per_call) else {
            return false;
        };
        let (was, is) = (&told.each, &now.each);
        let is_less =
            |was: Option<u64>, is: Option<u64>| was.is_some_and(|was| is.is_none_or(|is| is > was));
        let (had, has) = (&told.all, &now.all);
        let has_no_group = |had: Option<u64>, has: Option<u64>| had.is_none() && has.is_some();
        match resource {
            "memory" => {
                is_less(was.data_bytes, is.data_bytes)
                    || has_no_group(had.memory_bytes, has.memory_bytes)
            }
            "cpu" => has_no_group(had.cpu_percent, has.cpu_percent),
            "tasks" => is_less(was.processes, is.processes) || has_no_group(had.tasks, has.tasks),
            "files" => is_less(was.open_files, is.open_files),
            _ => false,
        }
    }
}

/// Has the policy be what an operator wants it to be.
fn adopt(means: &mut Means, change: &LimitChange) {
    if let Some(policy) = change.violation {
        means.policy = policy;
    }
}

fn with_headroom(tasks: Option<u64>) -> Option<u64> {
    tasks.map(|tasks| tasks.saturating_add(TASKS_HEADROOM))
}
