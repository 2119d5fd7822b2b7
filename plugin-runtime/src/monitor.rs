//! Looks at every plugin's process tree once a second.

mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, Event, PluginId};
use orchestrator_sandbox::{Group, ProcessTable, SCRATCH};
use rustix::fs::statvfs;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use self::judge::{Judge, Used, Violation};
use crate::{limits::Bounds, outlet::Outlet, process::Process, settings::MonitorSettings};

/// Looks at every plugin's process tree.
pub(crate) struct Monitor {
    settings: MonitorSettings,
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    watched: BTreeMap<u64, Arc<Watched>>,
    /// Processor time of processes that ended since the last sample.
    finished: BTreeMap<PluginId, (Arc<Outlet>, Duration)>,
    /// Plugins whose last sample was not zero.
    shown: BTreeMap<PluginId, Arc<Outlet>>,
}

struct Watched {
    pid: u32,
    group: Option<Group>,
    outlet: Arc<Outlet>,
    bounds: Arc<Bounds>,
    judge: Mutex<Judge>,
    violation: watch::Sender<Option<CallError>>,
}

/// A process tree under watch. Dropping it ends the watch.
pub(crate) struct WatchGuard {
    monitor: Arc<Monitor>,
    key: u64,
    watched: Arc<Watched>,
    violation: watch::Receiver<Option<CallError>>,
}

/// What one sample of one tree showed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    memory_bytes: u64,
    cpu: Duration,
    cpu_percent: f64,
    tasks: u64,
    open_files: u64,
}

impl Monitor {
    pub(crate) fn new(settings: MonitorSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            state: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Puts what `process` is and starts under watch, to be held to `bounds`.
    pub(crate) fn watch(
        self: &Arc<Self>,
        process: &Process,
        outlet: &Arc<Outlet>,
        bounds: &Arc<Bounds>,
    ) -> WatchGuard {
        self.watch_tree(process.pid(), process.group().cloned(), outlet, bounds)
    }

    fn watch_tree(
        self: &Arc<Self>,
        pid: u32,
        group: Option<Group>,
        outlet: &Arc<Outlet>,
        bounds: &Arc<Bounds>,
    ) -> WatchGuard {
        let (sender, violation) = watch::channel(None);
        let watched = Arc::new(Watched {
            pid,
            group,
            outlet: Arc::clone(outlet),
            bounds: Arc::clone(bounds),
            judge: Mutex::new(Judge::new(Instant::now(), bounds.changes())),
            violation: sender,
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().watched.insert(key, Arc::clone(&watched));
        WatchGuard {
            monitor: Arc::clone(self),
            key,
            watched,
            violation,
        }
    }

    /// Samples until nobody else holds the monitor any more.
    pub(crate) async fn run(monitor: Weak<Self>, every: Duration) {
        let mut ticks = interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(monitor) = monitor.upgrade() else {
                return;
            };
            let watched: Vec<_> = monitor.lock().watched.values().cloned().collect();
            // Nothing is asked of `/proc` while nothing runs, and asking can block on a
            // process that is swapping.
            let usages = match watched.is_empty() {
                true => Vec::new(),
                false => match tokio::task::spawn_blocking(|| look_at(watched)).await {
                    Ok(Ok(usages)) => usages,
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "resource use cannot be sampled");
                        continue;
                    }
                    Err(_) => return,
                },
            };
            monitor.take(usages, Instant::now());
        }
    }

    /// Takes one sample of every tree, judges it and tells the plugin's outlet.
    fn take(&self, usages: Vec<(Arc<Watched>, Option<Used>)>, now: Instant) {
        let mut totals: BTreeMap<PluginId, (Arc<Outlet>, Sample)> = BTreeMap::new();
        let (finished, shown) = {
            let mut state = self.lock();
            (
                std::mem::take(&mut state.finished),
                std::mem::take(&mut state.shown),
            )
        };
        let mut add = |outlet: &Arc<Outlet>, sample: Sample| {
            let empty = (Arc::clone(outlet), Sample::ZERO);
            let (_, total) = totals.entry(outlet.plugin().clone()).or_insert(empty);
            total.memory_bytes += sample.memory_bytes;
            total.cpu += sample.cpu;
            total.cpu_percent += sample.cpu_percent;
            total.tasks += sample.tasks;
            total.open_files += sample.open_files;
        };
        for (watched, usage) in usages {
            let Some(usage) = usage else { continue };
            let (sample, violations) = watched.judge(&usage, now, &self.settings);
            add(&watched.outlet, sample);
            for violation in &violations {
                watched.act(violation);
            }
        }
        let seconds = self.settings.interval.as_secs_f64();
        for (outlet, cpu) in finished.values() {
            let cpu_percent = 100.0 * cpu.as_secs_f64() / seconds;
            add(
                outlet,
                Sample {
                    cpu: *cpu,
                    cpu_percent,
                    ..Sample::ZERO
                },
            );
        }
        let seen: BTreeSet<_> = totals.keys().cloned().collect();
        for (outlet, sample) in totals.values() {
            outlet.emit(sample.event(outlet.plugin()));
        }
        // A gauge must not stay where the last process left it.
        for (plugin, outlet) in shown.iter().filter(|(plugin, _)| !seen.contains(*plugin)) {
            outlet.emit(Sample::ZERO.event(plugin));
        }
        let shown = totals
            .into_iter()
            .map(|(plugin, (outlet, _))| (plugin, outlet));
        self.lock().shown.extend(shown);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every tree uses at one moment; nothing for one that is gone. Limits that have
/// changed are put in force first.
fn look_at(watched: Vec<Arc<Watched>>) -> io::Result<Vec<(Arc<Watched>, Option<Used>)>> {
    let roots: Vec<u32> = watched.iter().map(|watched| watched.pid).collect();
    let table = ProcessTable::read(&roots)?;
    let used = |watched: Arc<Watched>| {
        watched.put_in_force();
        let usage = table.usage(watched.pid);
        let disk = watched.disk_bytes();
        let used = usage.map(|usage| Used::new(usage, watched.group.as_ref(), disk));
        (watched, used)
    };
    Ok(watched.into_iter().map(used).collect())
}

impl Watched {
    /// Bytes in the files of the directory of its own, where it has one and that is
    /// bounded.
    fn disk_bytes(&self) -> Option<u64> {
        let (watch, _) = self.bounds.watched();
        watch.disk_bytes?;
        let state = statvfs(format!("/proc/{}/root{SCRATCH}", self.pid)).ok()?;
        let used = state.f_blocks.saturating_sub(state.f_bfree);
        Some(used.saturating_mul(state.f_frsize))
    }

    /// Tells the group of limits that have changed.
    fn put_in_force(&self) {
        let changes = self.bounds.changes();
        let mut judge = self.judging();
        if judge.changes == changes {
            return;
        }
        judge.changes = changes;
        drop(judge);
        if let Some(group) = &self.group
            && let Err(error) = group.set(&self.bounds.of_all())
        {
            // The monitor goes by the new ones all the same.
            let plugin = self.outlet.plugin();
            tracing::warn!(%plugin, %error, "its control group does not hold the new limits");
        }
    }

    fn judge(
        &self,
        used: &Used,
        now: Instant,
        settings: &MonitorSettings,
    ) -> (Sample, Vec<Violation>) {
        let holds_cpu = self.group.as_ref().is_some_and(Group::holds_cpu);
        let (watch, policy) = self.bounds.watched();
        let mut judge = self.judging();
        judge.judge(used, now, settings, &watch, (policy, holds_cpu))
    }

    fn act(&self, violation: &Violation) {
        self.outlet.violation(
            violation.resource,
            violation.current,
            violation.limit,
            violation.action,
        );
        if let Some(error) = violation.error() {
            // What was found first ended it; what else a sample shows came of that.
            self.violation.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(error);
                is_first
            });
        }
    }

    fn judge_of_kills(&self) -> Option<Violation> {
        let killed = self.group.as_ref()?.killed_for_memory();
        let (watch, policy) = self.bounds.watched();
        self.judging().judge_kills(killed, &watch, policy)
    }

    fn judging(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchGuard {
    /// Waits until the tree uses more than it may and has to be killed. Giving up
    /// the wait loses nothing.
    pub(crate) async fn violated(&self) -> CallError {
        let mut violation = self.violation.clone();
        let seen = violation.wait_for(Option::is_some).await;
        let error = seen.ok().and_then(|error| error.clone());
        match error {
            Some(error) => error,
            // The sender lives as long as the guard, so this is never reached.
            None => std::future::pending().await,
        }
    }

    /// The tree has ended, or is about to: the error that explains it when the kernel
    /// killed some of it because it wanted more memory than it may have.
    pub(crate) fn killed_for_memory(&self) -> Option<CallError> {
        if let Some(violation) = self.watched.judge_of_kills() {
            self.watched.act(&violation);
        }
        let killed = self.watched.group.as_ref()?.killed_for_memory();
        let limit = self.watched.bounds.now().memory_bytes;
        (killed > 0).then(|| judge::out_of_memory(limit.unwrap_or(0)))
    }

    /// The tree has ended after using this much processor time in all.
    pub(crate) fn ended(&self, cpu_time: Duration) {
        let counted = self.watched.judging().cpu_time;
        let rest = cpu_time.saturating_sub(counted);
        if !rest.is_zero() {
            let outlet = &self.watched.outlet;
            let mut state = self.monitor.lock();
            let none = (Arc::clone(outlet), Duration::ZERO);
            state
                .finished
                .entry(outlet.plugin().clone())
                .or_insert(none)
                .1 += rest;
        }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.monitor.lock().watched.remove(&self.key);
    }
}

impl Sample {
    const ZERO: Self = Self {
        memory_bytes: 0,
        cpu: Duration::ZERO,
        cpu_percent: 0.0,
        tasks: 0,
        open_files: 0,
    };

    fn event(&self, plugin: &PluginId) -> Event {
        Event::PluginSampled {
            plugin: plugin.clone(),
            memory_bytes: self.memory_bytes,
            cpu_percent: self.cpu_percent,
            cpu_micros: u64::try_from(self.cpu.as_micros()).unwrap_or(u64::MAX),
            tasks: self.tasks,
            open_files: self.open_files,
        }
    }
}
