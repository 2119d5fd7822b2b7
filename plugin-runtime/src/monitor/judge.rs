//! What one sample of a process tree means, decided as arithmetic.

use std::{collections::BTreeSet, time::Duration};

use orchestrator_contract::{CallError, ViolationAction};
use orchestrator_sandbox::{Group, GroupUsage, TreeUsage};
use tokio::time::Instant;

use super::Sample;
use crate::{
    limits::{LimitError, Policy, Watch},
    settings::MonitorSettings,
};

/// Files take whole pages.
const PAGE_BYTES: u64 = 4096;

/// What a tree uses at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) tree: TreeUsage,
    pub(super) group: GroupUsage,
    /// How many of it the kernel has killed for want of memory.
    pub(super) killed: u64,
    /// Bytes in its own files, where these are bounded.
    pub(super) disk_bytes: Option<u64>,
}

/// More than a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) resource: &'static str,
    pub(super) current: u64,
    pub(super) limit: u64,
    pub(super) action: ViolationAction,
    by_kernel: bool,
}

/// What the last samples of one process tree showed.
#[derive(Debug)]
pub(super) struct Judge {
    at: Instant,
    pub(super) cpu_time: Duration,
    /// Samples in a row above the processor limit.
    cpu_over: u32,
    throttled: u64,
    killed: u64,
    /// What it used too much of in the last sample.
    over: BTreeSet<&'static str>,
    /// Up to which change of the limits they are in force.
    pub(super) changes: u64,
}

impl Used {
    /// Memory is what the group counts where it does: that is what it is held to.
    pub(super) fn new(tree: TreeUsage, group: Option<&Group>, disk_bytes: Option<u64>) -> Self {
        let killed = group.map_or(0, Group::killed_for_memory);
        let group = group.map(Group::usage).unwrap_or_default();
        Self {
            tree,
            group,
            killed,
            disk_bytes,
        }
    }

    fn memory_bytes(&self) -> u64 {
        self.group.memory_bytes.unwrap_or(self.tree.memory_bytes)
    }
}

impl Judge {
    pub(super) fn new(now: Instant, changes: u64) -> Self {
        Self {
            at: now,
            cpu_time: Duration::ZERO,
            cpu_over: 0,
            throttled: 0,
            killed: 0,
            over: BTreeSet::new(),
            changes,
        }
    }

    /// Compares what was `used` with what is allowed. `holds_cpu` says whether the kernel
    /// gives it no more processor time than that.
    pub(super) fn judge(
        &mut self,
        used: &Used,
        now: Instant,
        settings: &MonitorSettings,
        watch: &Watch,
        (policy, holds_cpu): (Policy, bool),
    ) -> (Sample, Vec<Violation>) {
        let sample = self.sample(used, now, settings);
        let throttled = used.group.throttled.unwrap_or(0);
        let waited = throttled > self.throttled;
        self.throttled = throttled;
        let cpu = sample.cpu_percent as u64;
        let is_throttled = policy == Policy::Throttle && holds_cpu;
        let cpu = match is_throttled {
            true => watch.cpu_percent.filter(|_| waited).map(|limit| Violation {
                action: ViolationAction::Throttle,
                ..violation("cpu", cpu.max(limit), limit)
            }),
            false => over("cpu", cpu, watch.cpu_percent),
        };
        self.cpu_over = cpu.map_or(0, |_| self.cpu_over + 1);
        let is_long = self.cpu_over >= settings.cpu_seconds_over.max(1);
        let cpu = cpu.map(|violation| match (is_throttled, is_long) {
            (false, false) => Violation {
                action: ViolationAction::Warn,
                ..violation
            },
            _ => violation,
        });
        let found = [
            cpu,
            self.judge_kills(used.killed, watch, Policy::Kill),
            over("memory", used.memory_bytes(), watch.memory_bytes),
            over("tasks", used.tree.threads, watch.tasks),
            over("files", used.tree.open_files, watch.files),
            full(used.disk_bytes, watch.disk_bytes),
        ];
        let found = found.into_iter().flatten().map(|violation| match policy {
            Policy::Warn => Violation {
                action: ViolationAction::Warn,
                ..violation
            },
            Policy::Throttle | Policy::Kill => violation,
        });
        let found: Vec<_> = found.collect();
        let before = std::mem::take(&mut self.over);
        self.over = found.iter().map(|it| it.resource).collect();
        // What goes on and is not stopped is told of once.
        let goes_on = |it: &Violation| {
            let is_let = policy == Policy::Warn || it.action == ViolationAction::Throttle;
            is_let && !it.by_kernel && before.contains(it.resource)
        };
        let told = found.into_iter().filter(|it| !goes_on(it));
        (sample, told.collect())
    }

    /// Compares how many the kernel has `killed` for want of memory with how many are known.
    pub(super) fn judge_kills(
        &mut self,
        killed: u64,
        watch: &Watch,
        policy: Policy,
    ) -> Option<Violation> {
        let is_new = killed > self.killed;
        self.killed = self.killed.max(killed);
        let limit = watch.memory_bytes?;
        is_new.then(|| Violation {
            by_kernel: true,
            action: match policy {
                Policy::Warn => ViolationAction::Warn,
                Policy::Throttle | Policy::Kill => ViolationAction::Kill,
            },
            ..violation("memory", limit, limit)
        })
    }

    fn sample(&mut self, used: &Used, now: Instant, settings: &MonitorSettings) -> Sample {
        // Processor time of children goes back when one ends without being waited for.
        let cpu = used.tree.cpu_time.saturating_sub(self.cpu_time);
        // The first sample may come right after the start. Processor time comes in
        // ticks of 10 ms, each of them much of so short a time.
        let elapsed = now.saturating_duration_since(self.at);
        let over = elapsed.max(settings.interval).as_secs_f64();
        self.cpu_time = self.cpu_time.max(used.tree.cpu_time);
        self.at = now;
        Sample {
            memory_bytes: used.memory_bytes(),
            cpu,
            cpu_percent: 100.0 * cpu.as_secs_f64() / over.max(0.001),
            tasks: used.tree.threads,
            open_files: used.tree.open_files,
        }
    }
}

impl Violation {
    /// What calls of a plugin get that is killed for it.
    pub(super) fn error(&self) -> Option<CallError> {
        if self.action != ViolationAction::Kill {
            return None;
        }
        if self.by_kernel {
            return Some(out_of_memory(self.limit));
        }
        let unit = match self.resource {
            "memory" => " bytes",
            "cpu" => " percent of a core",
            _ => "",
        };
        let Self { current, limit, .. } = self;
        Some(CallError::ResourceLimit {
            resource: self.resource.to_owned(),
            message: format!("{current}{unit} used, {limit} allowed"),
        })
    }
}

/// What calls get of a plugin that wanted more memory than its group may have.
pub(super) fn out_of_memory(limit: u64) -> CallError {
    CallError::ResourceLimit {
        resource: "memory".to_owned(),
        message: LimitError::OutOfMemory { limit }.with_code(),
    }
}

fn over(resource: &'static str, current: u64, limit: Option<u64>) -> Option<Violation> {
    let limit = limit.filter(|limit| current > *limit)?;
    Some(violation(resource, current, limit))
}

/// The kernel lets it write no more, so it need not be killed.
fn full(used: Option<u64>, limit: Option<u64>) -> Option<Violation> {
    let (used, limit) = used.zip(limit)?;
    (used.saturating_add(PAGE_BYTES) > limit).then(|| Violation {
        action: ViolationAction::Throttle,
        ..violation("disk", used, limit)
    })
}

fn violation(resource: &'static str, current: u64, limit: u64) -> Violation {
    Violation {
        resource,
        current,
        limit,
        action: ViolationAction::Kill,
        by_kernel: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges samples that come once a second.
    struct Samples {
        judge: Judge,
        settings: MonitorSettings,
        watch: Watch,
        terms: (Policy, bool),
        now: Instant,
    }

    impl Samples {
        fn new(watch: Watch, policy: Policy, holds_cpu: bool) -> Self {
            let now = Instant::now();
            let settings = MonitorSettings {
                cpu_seconds_over: 3,
                ..MonitorSettings::default()
            };
            Self {
                judge: Judge::new(now, 0),
                settings,
                watch,
                terms: (policy, holds_cpu),
                now,
            }
        }

        fn after(&mut self, time: Duration, used: &Used) -> (Sample, Vec<Violation>) {
            self.now += time;
            let Self {
                judge,
                settings,
                watch,
                terms,
                now,
            } = self;
            judge.judge(used, *now, settings, watch, *terms)
        }

        fn next(&mut self, used: &Used) -> Vec<(&'static str, ViolationAction)> {
            let (_, found) = self.after(Duration::from_secs(1), used);
            found.iter().map(|it| (it.resource, it.action)).collect()
        }
    }

    fn busy_for(seconds: u64) -> Used {
        Used {
            tree: TreeUsage {
                cpu_time: Duration::from_secs(seconds),
                ..TreeUsage::default()
            },
            ..Used::default()
        }
    }

    const CPU: Watch = Watch {
        memory_bytes: None,
        cpu_percent: Some(50),
        tasks: None,
        files: None,
        disk_bytes: None,
    };

    use ViolationAction::{Kill, Throttle, Warn};

    #[test]
    fn processor_time_over_the_limit_is_warned_of_and_kills_only_in_a_row() {
        let mut samples = Samples::new(CPU, Policy::Kill, false);
        let mut cpu = 0;
        let mut actions = Vec::new();
        for busy in [1, 1, 0, 1, 1, 1] {
            cpu += busy;
            let (sample, found) = samples.after(Duration::from_secs(1), &busy_for(cpu));
            assert_eq!(sample.cpu_percent, 100.0 * busy as f64);
            actions.push(found.first().map(|violation| violation.action));
        }
        let (warn, kill) = (Some(Warn), Some(Kill));
        assert_eq!(actions, [warn, warn, None, warn, warn, kill]);
    }

    #[test]
    fn whoever_is_only_warned_is_warned_once_each_time() {
        let mut samples = Samples::new(CPU, Policy::Warn, false);
        let mut cpu = 0;
        let mut told = Vec::new();
        for busy in [1, 1, 1, 1, 0, 1] {
            cpu += busy;
            told.push(samples.next(&busy_for(cpu)));
        }
        let warned = vec![("cpu", Warn)];
        let none = Vec::new();
        let expected = [&warned, &none, &none, &none, &none, &warned];
        assert_eq!(told.iter().collect::<Vec<_>>(), expected);
        let mut samples = Samples::new(
            Watch {
                memory_bytes: Some(1),
                ..Watch::default()
            },
            Policy::Warn,
            false,
        );
        let used = Used {
            tree: TreeUsage {
                memory_bytes: 9,
                ..TreeUsage::default()
            },
            ..Used::default()
        };
        assert_eq!(samples.next(&used), [("memory", Warn)]);
        assert_eq!(samples.next(&used), []);
    }

    #[test]
    fn whoever_is_throttled_by_the_kernel_is_told_of_and_not_killed() {
        let mut samples = Samples::new(CPU, Policy::Throttle, true);
        let mut told = Vec::new();
        for throttled in [0, 3, 6, 9, 12, 12, 13] {
            let mut used = busy_for(0);
            used.group.throttled = Some(throttled);
            told.push(samples.next(&used).first().map(|it| it.1));
        }
        let throttle = Some(Throttle);
        assert_eq!(told, [None, throttle, None, None, None, None, throttle]);
        // A process that started without such a limit is held to it by the monitor.
        let mut samples = Samples::new(CPU, Policy::Throttle, false);
        let last = (1..=3).map(|second| samples.next(&busy_for(second))).last();
        assert_eq!(last.unwrap(), [("cpu", Kill)]);
    }

    /// A sample may be taken right after the start, and processor time comes in ticks
    /// of 10 ms.
    #[test]
    fn a_tick_within_the_first_moment_is_not_taken_for_a_busy_processor() {
        let mut samples = Samples::new(CPU, Policy::Kill, false);
        samples.settings.cpu_seconds_over = 1;
        let mut tick = busy_for(0);
        tick.tree.cpu_time = Duration::from_millis(10);
        let (sample, violations) = samples.after(Duration::from_millis(1), &tick);
        assert_eq!(violations, []);
        assert_eq!(sample.cpu, tick.tree.cpu_time, "it is counted all the same");
        assert!(sample.cpu_percent < 2.0, "{}", sample.cpu_percent);
    }

    #[test]
    fn every_other_limit_kills_at_once() {
        let watch = Watch {
            memory_bytes: Some(10),
            tasks: Some(2),
            files: Some(3),
            ..Watch::default()
        };
        let used = |memory_bytes, threads, open_files| Used {
            tree: TreeUsage {
                memory_bytes,
                threads,
                open_files,
                ..TreeUsage::default()
            },
            ..Used::default()
        };
        let mut samples = Samples::new(watch, Policy::Kill, false);
        assert_eq!(samples.next(&used(10, 2, 3)), []);
        let all = [("memory", Kill), ("tasks", Kill), ("files", Kill)];
        assert_eq!(samples.next(&used(11, 3, 4)), all);
        // What a group counts is what it is held to.
        let mut grouped = used(99, 2, 3);
        grouped.group.memory_bytes = Some(9);
        assert_eq!(samples.next(&grouped), []);
    }

    #[test]
    fn a_full_disk_is_told_of_once_and_nobody_is_killed_for_it() {
        let watch = Watch {
            disk_bytes: Some(1 << 20),
            ..Watch::default()
        };
        let mut samples = Samples::new(watch, Policy::Kill, false);
        let used = |disk_bytes| Used {
            disk_bytes,
            ..Used::default()
        };
        assert_eq!(samples.next(&used(None)), []);
        assert_eq!(samples.next(&used(Some(1 << 19))), []);
        assert_eq!(samples.next(&used(Some(1 << 20))), [("disk", Throttle)]);
        assert_eq!(samples.next(&used(Some(1 << 20))), []);
    }

    #[test]
    fn each_process_that_the_kernel_killed_for_memory_is_told_of_once() {
        let watch = Watch {
            memory_bytes: Some(10),
            ..Watch::default()
        };
        let mut samples = Samples::new(watch, Policy::Kill, false);
        let killed = |killed| Used {
            killed,
            ..Used::default()
        };
        assert_eq!(samples.next(&killed(0)), []);
        assert_eq!(samples.next(&killed(1)), [("memory", Kill)]);
        assert_eq!(samples.next(&killed(1)), []);
        assert_eq!(samples.judge.judge_kills(1, &watch, Policy::Kill), None);
        let error = samples
            .judge
            .judge_kills(2, &watch, Policy::Kill)
            .unwrap()
            .error();
        let message = error.unwrap().to_string();
        assert!(message.contains("ORC-3064"), "{message}");
    }
}
