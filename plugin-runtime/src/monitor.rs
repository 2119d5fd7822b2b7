//! Looks at every plugin's process tree once a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, Event, PluginId, ViolationAction};
use orchestrator_sandbox::{ProcessTable, TreeUsage};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{limits::Watch, outlet::Outlet, settings::MonitorSettings};

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
    outlet: Arc<Outlet>,
    watch: Watch,
    record: Mutex<Record>,
    violation: watch::Sender<Option<CallError>>,
}

/// What the last samples of one process tree showed.
struct Record {
    at: Instant,
    cpu_time: Duration,
    /// Samples in a row above the processor limit.
    cpu_over: u32,
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
}

/// More than a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violation {
    resource: &'static str,
    current: u64,
    limit: u64,
    action: ViolationAction,
}

impl Monitor {
    pub(crate) fn new(settings: MonitorSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            state: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Puts the process tree below `pid` under watch.
    pub(crate) fn watch(
        self: &Arc<Self>,
        pid: u32,
        outlet: &Arc<Outlet>,
        watch: Watch,
    ) -> WatchGuard {
        let (sender, violation) = watch::channel(None);
        let watched = Arc::new(Watched {
            pid,
            outlet: Arc::clone(outlet),
            watch,
            record: Mutex::new(Record {
                at: Instant::now(),
                cpu_time: Duration::ZERO,
                cpu_over: 0,
            }),
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
    fn take(&self, usages: Vec<(Arc<Watched>, Option<TreeUsage>)>, now: Instant) {
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
        };
        for (watched, usage) in usages {
            let Some(usage) = usage else { continue };
            let (sample, violations) = watched.judge(&usage, now, &self.settings);
            add(&watched.outlet, sample);
            for violation in violations {
                watched.act(violation);
            }
        }
        let seconds = self.settings.interval.as_secs_f64();
        for (outlet, cpu) in finished.values() {
            let cpu_percent = 100.0 * cpu.as_secs_f64() / seconds;
            add(
                outlet,
                Sample {
                    memory_bytes: 0,
                    cpu: *cpu,
                    cpu_percent,
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

/// What every tree uses at one moment; nothing for one that is gone.
fn look_at(watched: Vec<Arc<Watched>>) -> io::Result<Vec<(Arc<Watched>, Option<TreeUsage>)>> {
    let roots: Vec<u32> = watched.iter().map(|watched| watched.pid).collect();
    let table = ProcessTable::read(&roots)?;
    let usage = |watched: Arc<Watched>| {
        let usage = table.usage(watched.pid);
        (watched, usage)
    };
    Ok(watched.into_iter().map(usage).collect())
}

impl Watched {
    /// Compares `usage` with what is allowed. The first violation that kills is the
    /// last in the list.
    fn judge(
        &self,
        usage: &TreeUsage,
        now: Instant,
        settings: &MonitorSettings,
    ) -> (Sample, Vec<Violation>) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        // Processor time of children goes back when one ends without being waited for.
        let cpu = usage.cpu_time.saturating_sub(record.cpu_time);
        // The first sample may come right after the start. Processor time comes in
        // ticks of 10 ms, each of them much of so short a time.
        let elapsed = now.saturating_duration_since(record.at);
        let over = elapsed.max(settings.interval).as_secs_f64();
        let cpu_percent = 100.0 * cpu.as_secs_f64() / over.max(0.001);
        record.cpu_time = record.cpu_time.max(usage.cpu_time);
        record.at = now;
        let sample = Sample {
            memory_bytes: usage.memory_bytes,
            cpu,
            cpu_percent,
        };
        let over = |resource, current: u64, limit: Option<u64>, action| {
            let limit = limit.filter(|limit| current > *limit)?;
            Some(Violation {
                resource,
                current,
                limit,
                action,
            })
        };
        let cpu_over = over(
            "cpu",
            cpu_percent as u64,
            self.watch.cpu_percent,
            ViolationAction::Warn,
        );
        record.cpu_over = cpu_over.map_or(0, |_| record.cpu_over + 1);
        let cpu_action = match record.cpu_over >= settings.cpu_seconds_over.max(1) {
            true => ViolationAction::Kill,
            false => ViolationAction::Warn,
        };
        let kill = ViolationAction::Kill;
        let violations = [
            cpu_over.map(|violation| Violation {
                action: cpu_action,
                ..violation
            }),
            over("memory", usage.memory_bytes, self.watch.memory_bytes, kill),
            over("tasks", usage.threads, self.watch.tasks, kill),
            over("files", usage.open_files, self.watch.files, kill),
        ];
        (sample, violations.into_iter().flatten().collect())
    }

    fn act(&self, violation: Violation) {
        let Violation {
            resource,
            current,
            limit,
            action,
        } = violation;
        self.outlet.violation(resource, current, limit, action);
        if action == ViolationAction::Kill {
            let unit = match resource {
                "memory" => " bytes",
                "cpu" => " percent of a core",
                _ => "",
            };
            self.violation.send_replace(Some(CallError::ResourceLimit {
                resource: resource.to_owned(),
                message: format!("{current}{unit} used, {limit} allowed"),
            }));
        }
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

    /// The tree has ended after using this much processor time in all.
    pub(crate) fn ended(&self, cpu_time: Duration) {
        let counted = self
            .watched
            .record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cpu_time;
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
    };

    fn event(&self, plugin: &PluginId) -> Event {
        Event::PluginSampled {
            plugin: plugin.clone(),
            memory_bytes: self.memory_bytes,
            cpu_percent: self.cpu_percent,
            cpu_micros: u64::try_from(self.cpu.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::{NoEvents, NoHost};

    use super::*;
    use crate::settings::LogSettings;

    fn watched(watch: Watch) -> WatchGuard {
        let (events, host) = (Arc::new(NoEvents), Arc::new(NoHost));
        let outlet = Outlet::new("p".into(), events, host, &LogSettings::default());
        Monitor::new(MonitorSettings::default()).watch(1, &Arc::new(outlet), watch)
    }

    fn busy_for(seconds: u64) -> TreeUsage {
        TreeUsage {
            cpu_time: Duration::from_secs(seconds),
            ..TreeUsage::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn processor_time_over_the_limit_is_warned_of_and_kills_only_in_a_row() {
        let guard = watched(Watch {
            cpu_percent: Some(50),
            ..Watch::default()
        });
        let settings = MonitorSettings {
            cpu_seconds_over: 3,
            ..MonitorSettings::default()
        };
        let mut cpu = 0;
        let mut actions = Vec::new();
        for busy in [1, 1, 0, 1, 1, 1] {
            tokio::time::advance(Duration::from_secs(1)).await;
            cpu += busy;
            let usage = busy_for(cpu);
            let (sample, violations) = guard.watched.judge(&usage, Instant::now(), &settings);
            assert_eq!(sample.cpu_percent, 100.0 * busy as f64);
            actions.push(violations.first().map(|violation| violation.action));
        }
        let (warn, kill) = (Some(ViolationAction::Warn), Some(ViolationAction::Kill));
        assert_eq!(actions, [warn, warn, None, warn, warn, kill]);
    }

    /// A sample may be taken right after the start, and processor time comes in ticks
    /// of 10 ms.
    #[tokio::test(start_paused = true)]
    async fn a_tick_within_the_first_moment_is_not_taken_for_a_busy_processor() {
        let guard = watched(Watch {
            cpu_percent: Some(50),
            ..Watch::default()
        });
        let settings = MonitorSettings {
            cpu_seconds_over: 1,
            ..MonitorSettings::default()
        };
        tokio::time::advance(Duration::from_millis(1)).await;
        let tick = TreeUsage {
            cpu_time: Duration::from_millis(10),
            ..TreeUsage::default()
        };
        let (sample, violations) = guard.watched.judge(&tick, Instant::now(), &settings);
        assert_eq!(violations, []);
        assert_eq!(sample.cpu, tick.cpu_time, "it is counted all the same");
        assert!(sample.cpu_percent < 2.0, "{}", sample.cpu_percent);
    }

    #[tokio::test(start_paused = true)]
    async fn every_other_limit_kills_at_once() {
        let guard = watched(Watch {
            memory_bytes: Some(10),
            tasks: Some(2),
            files: Some(3),
            ..Watch::default()
        });
        let settings = MonitorSettings::default();
        let at_limit = TreeUsage {
            memory_bytes: 10,
            threads: 2,
            open_files: 3,
            ..TreeUsage::default()
        };
        let judge = |usage: &TreeUsage| guard.watched.judge(usage, Instant::now(), &settings).1;
        assert_eq!(judge(&at_limit), []);
        let over = TreeUsage {
            memory_bytes: 11,
            threads: 3,
            open_files: 4,
            ..at_limit
        };
        let resources: Vec<_> = judge(&over)
            .iter()
            .map(|violation| violation.resource)
            .collect();
        assert_eq!(resources, ["memory", "tasks", "files"]);
        assert!(
            judge(&over)
                .iter()
                .all(|it| it.action == ViolationAction::Kill)
        );
    }
}
