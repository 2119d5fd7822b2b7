//! Turns events into metrics; [`lines`] turns them into log lines.

mod lines;
mod plugin_states;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, Histogram};
use orchestrator_contract::{
    BreakerState, Event, EventSink, PhaseName, PluginId, PluginState, StepOutcome,
};

use self::plugin_states::PluginStates;
use crate::{
    Telemetry,
    names::{self, Metric},
    prometheus::Exporter,
};

/// How many breakers' sequence numbers are remembered.
const BREAKERS_MAX: usize = 10_000;

/// Turns events into metrics and log lines. Waits for nothing but what the log
/// writer waits for (see [`crate::log::background`]).
pub struct Recorder {
    telemetry: Arc<Telemetry>,
    commits: Counter,
    commit_duration: Histogram,
    committed_events: Counter,
    /// The last change of each breaker that was seen. Changes are made without a
    /// lock, so two of them may be told in the wrong order.
    breakers: Mutex<HashMap<(String, String), u64>>,
    /// A plugin has one state, and its versions one each.
    plugins: Mutex<PluginStates>,
}

impl Recorder {
    pub(crate) fn new(telemetry: Arc<Telemetry>) -> Self {
        let exporter = &telemetry.exporter;
        Self {
            commits: exporter.counter(&names::JOURNAL_COMMITS, &[]),
            commit_duration: exporter.histogram(&names::JOURNAL_COMMIT_DURATION, &[]),
            committed_events: exporter.counter(&names::JOURNAL_EVENTS, &[]),
            breakers: Mutex::default(),
            plugins: Mutex::default(),
            telemetry,
        }
    }

    fn count(&self, event: &Event) {
        match event {
            Event::RunStarted { .. } | Event::RunFinished { .. } | Event::RunLeft { .. } => {
                self.count_run(event);
            }
            Event::PluginStateChanged { .. }
            | Event::PluginRestarted { .. }
            | Event::PluginHealthChanged { .. }
            | Event::PluginReloaded { .. }
            | Event::PluginLog { .. }
            | Event::PluginSampled { .. } => self.count_plugin(event),
            Event::CapabilityDenied { .. } | Event::ResourceViolation { .. } => {
                self.count_bounds(event);
            }
            Event::JournalCommitted {
                events,
                duration_us,
            } => {
                self.commits.increment(1);
                self.committed_events.increment(*events);
                let took = Duration::from_micros(*duration_us);
                self.commit_duration.record(took.as_secs_f64());
            }
            _ => self.count_call(event),
        }
    }

    fn count_run(&self, event: &Event) {
        let exporter = &self.telemetry.exporter;
        let running = |pipeline: &str| exporter.gauge(&names::RUNS_IN_FLIGHT, &[pipeline]);
        match event {
            Event::RunStarted { pipeline, .. } => running(pipeline).increment(1.0),
            Event::RunLeft { pipeline, .. } => running(pipeline).decrement(1.0),
            Event::RunFinished {
                pipeline,
                outcome,
                duration_ms,
                ..
            } => {
                running(pipeline).decrement(1.0);
                let labels = [&**pipeline, outcome.as_str()];
                self.add(&names::RUNS, &labels);
                let durations = exporter.histogram(&names::RUN_DURATION, &labels);
                durations.record(Duration::from_millis(*duration_ms).as_secs_f64());
            }
            _ => {}
        }
    }

    fn count_call(&self, event: &Event) {
        match event {
            Event::StepFinished {
                plugin,
                phase,
                outcome: StepOutcome::Success,
                attempts: 2..,
                ..
            } => self.retry(plugin, phase, "success"),
            Event::CallRetried { plugin, phase, .. } => self.retry(plugin, phase, "retried"),
            Event::RetryGivenUp {
                plugin,
                phase,
                reason,
                ..
            } => self.retry(plugin, phase, reason),
            Event::CallRefused {
                plugin, phase, by, ..
            } => self.add(
                &names::CALLS_REFUSED,
                &[plugin.as_str(), phase.as_str(), by.as_str()],
            ),
            Event::CallWouldBeRefused { plugin, phase, by } => {
                let phase = phase.as_ref().map_or("", |phase| phase.as_str());
                let labels = [plugin.as_str(), phase, by.as_str()];
                self.add(&names::CALLS_WOULD_BE_REFUSED, &labels);
            }
            Event::CallFellBack {
                plugin,
                phase,
                by,
                answered,
                ..
            } => {
                let result = if *answered { "answered" } else { "failed" };
                let labels = [plugin.as_str(), phase.as_str(), by.as_str(), result];
                self.add(&names::FALLBACKS, &labels);
            }
            Event::BreakerChanged {
                plugin,
                phase,
                sequence,
                to,
                ..
            } => {
                let plugin = plugin.as_str();
                self.add(&names::BREAKER_TRANSITIONS, &[plugin, to.as_str()]);
                let phase = phase.as_ref().map_or("", |phase| phase.as_str());
                self.breaker(plugin, phase, *sequence, *to);
            }
            // The others say nothing that `PhaseMetrics` does not count.
            _ => {}
        }
    }

    fn count_plugin(&self, event: &Event) {
        let exporter = &self.telemetry.exporter;
        match event {
            Event::PluginStateChanged {
                plugin,
                version,
                state,
                ..
            } => {
                let plugin = plugin.as_str();
                let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
                let now = plugins.change(plugin, version, *state);
                // Still under the lock, or an older change could be written after us.
                plugin_state(exporter, plugin, now);
            }
            Event::PluginRestarted { plugin, .. } => {
                self.add(&names::PLUGIN_RESTARTS, &[plugin.as_str()]);
                healthy(exporter, plugin.as_str(), false);
            }
            Event::PluginHealthChanged {
                plugin,
                healthy: is_well,
                ..
            } => healthy(exporter, plugin.as_str(), *is_well),
            Event::PluginReloaded {
                plugin, outcome, ..
            } => self.add(&names::PLUGIN_RELOADS, &[plugin.as_str(), outcome.as_str()]),
            Event::PluginLog { plugin, level, .. } => {
                self.add(&names::PLUGIN_LOG_LINES, &[plugin.as_str(), level.as_str()])
            }
            Event::PluginSampled {
                plugin,
                memory_bytes,
                cpu_percent,
                cpu_micros,
                tasks,
                open_files,
            } => {
                let plugin = plugin.as_str();
                usage(
                    exporter,
                    plugin,
                    (*memory_bytes, *tasks, *open_files),
                    *cpu_percent,
                );
                self.telemetry.used_cpu(plugin, *cpu_micros);
            }
            _ => {}
        }
    }

    /// What a plugin did not get, or took too much of.
    fn count_bounds(&self, event: &Event) {
        match event {
            Event::ResourceViolation {
                plugin,
                resource,
                action,
                ..
            } => self.add(
                &names::PLUGIN_VIOLATIONS,
                &[plugin.as_str(), resource, action.as_str()],
            ),
            Event::CapabilityDenied {
                plugin,
                capability,
                rule,
                suppressed,
                ..
            } => {
                let values = [plugin.as_str(), capability, rule.as_str()];
                let counter = self
                    .telemetry
                    .exporter
                    .counter(&names::PLUGIN_DENIALS, &values);
                // Those that were not told are of the same plugin, and mostly of the same rule.
                counter.increment(suppressed.saturating_add(1));
            }
            _ => {}
        }
    }

    fn add(&self, metric: &Metric, values: &[&str]) {
        self.telemetry.exporter.counter(metric, values).increment(1);
    }

    fn retry(&self, plugin: &PluginId, phase: &PhaseName, result: &str) {
        self.add(&names::RETRIES, &[plugin.as_str(), phase.as_str(), result]);
    }

    fn breaker(&self, plugin: &str, phase: &str, sequence: u64, to: BreakerState) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (plugin.to_owned(), phase.to_owned());
        let room = breakers.len() < BREAKERS_MAX;
        match breakers.get_mut(&key) {
            Some(last) if *last >= sequence => return,
            Some(last) => *last = sequence,
            None if room => drop(breakers.insert(key, sequence)),
            None => {}
        }
        // Still under the lock, or an older change could be written after us.
        self.telemetry.breaker(plugin, phase, to);
    }
}

fn healthy(exporter: &Exporter, plugin: &str, healthy: bool) {
    let gauge = exporter.gauge(&names::PLUGIN_HEALTHY, &[plugin]);
    gauge.set(f64::from(u8::from(healthy)));
}

fn plugin_state(exporter: &Exporter, plugin: &str, now: PluginState) {
    for state in PluginState::ALL {
        exporter
            .gauge(&names::PLUGIN_STATE, &[plugin, state.as_str()])
            .set(f64::from(u8::from(*state == now)));
    }
    let has_no_process = matches!(
        now,
        PluginState::Stopped | PluginState::Unloaded | PluginState::Error | PluginState::CrashLoop
    );
    if matches!(now, PluginState::Error | PluginState::CrashLoop) {
        healthy(exporter, plugin, false);
    }
    if has_no_process {
        usage(exporter, plugin, (0, 0, 0), 0.0);
    }
}

/// Memory in bytes, tasks and open files, then processor use.
fn usage(exporter: &Exporter, plugin: &str, counts: (u64, u64, u64), cpu_percent: f64) {
    let (memory, tasks, files) = counts;
    for (metric, count) in [
        (&names::PLUGIN_MEMORY, memory),
        (&names::PLUGIN_TASKS, tasks),
        (&names::PLUGIN_OPEN_FILES, files),
    ] {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
        exporter.gauge(metric, &[plugin]).set(count as f64);
    }
    let cpu = exporter.gauge(&names::PLUGIN_CPU, &[plugin]);
    cpu.set(cpu_percent);
}

impl EventSink for Recorder {
    fn emit(&self, event: Event) {
        self.count(&event);
        lines::write(&event);
    }
}
