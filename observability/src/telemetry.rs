//! The metrics of one engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use orchestrator_contract::BreakerState;

use crate::{
    PhaseMetrics, Recorder, exposition, log,
    names::{self, Metric},
    prometheus::Exporter,
    resources,
};

/// What is running, for `orchestrator_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version of the program that holds the engine.
    pub version: &'static str,
}

/// The metrics of one engine, and the way to their text.
///
/// Nothing here blocks for longer than a lock is held by another caller, and
/// nothing is global: an engine holds its own.
pub struct Telemetry {
    pub(crate) exporter: Exporter,
    /// Processor time in microseconds by plugin, label values already bounded.
    cpu_micros: Mutex<BTreeMap<String, u64>>,
}

impl Telemetry {
    /// Starts with every metric at zero.
    pub fn new(build: Build) -> Self {
        let exporter = Exporter::new();
        exporter
            .gauge(&names::BUILD_INFO, &[build.version])
            .set(1.0);
        for metric in [
            &names::JOURNAL_COMMITS,
            &names::JOURNAL_EVENTS,
            &names::EVENTS_DROPPED,
            &names::LOG_LINES_LOST,
        ] {
            exporter.counter(metric, &[]).increment(0);
        }
        Self {
            exporter,
            cpu_micros: Mutex::default(),
        }
    }

    /// The metrics of one phase. Keep what this returns: it looks up two dozen
    /// series.
    pub fn phase(&self, plugin: &str, phase: &str) -> PhaseMetrics {
        PhaseMetrics::new(&self.exporter, plugin, phase)
    }

    /// The state of a plugin's breaker, or of one of its phases' own. Said once
    /// when the breaker is made; its changes come as events.
    pub fn breaker(&self, plugin: &str, phase: &str, now: BreakerState) {
        for state in BreakerState::ALL {
            self.exporter
                .gauge(&names::BREAKER_STATE, &[plugin, phase, state.as_str()])
                .set(f64::from(u8::from(*state == now)));
        }
    }

    /// A sink that turns events into these metrics and into log lines.
    pub fn recorder(self: &Arc<Self>) -> Recorder {
        Recorder::new(Arc::clone(self))
    }

    /// Takes note of an answered HTTP request. `route` is the template
    /// (`/api/v1/runs/{id}`), never the path.
    pub fn http_request(&self, route: &str, method: &str, status: u16, duration: Duration) {
        let exporter = &self.exporter;
        exporter
            .counter(&names::HTTP_REQUESTS, &[route, method, &status.to_string()])
            .increment(1);
        exporter
            .histogram(&names::HTTP_DURATION, &[route, method])
            .record(duration.as_secs_f64());
    }

    /// Takes note that a subscriber lost `count` events.
    pub fn events_dropped(&self, count: u64) {
        let exporter = &self.exporter;
        exporter
            .counter(&names::EVENTS_DROPPED, &[])
            .increment(count);
    }

    pub(crate) fn used_cpu(&self, plugin: &str, micros: u64) {
        const METRIC: &Metric = &names::PLUGIN_CPU_SECONDS;
        let plugin = self.exporter.admitted(METRIC, "plugin", plugin);
        let mut used = self
            .cpu_micros
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match used.get_mut(plugin) {
            Some(total) => *total = total.saturating_add(micros),
            None => drop(used.insert(plugin.to_owned(), micros)),
        }
    }

    /// Every metric as Prometheus text (exposition format 0.0.4, content type
    /// `text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        self.exporter
            .counter(&names::LOG_LINES_LOST, &[])
            .absolute(log::lost_lines());
        let mut text = self.exporter.render();
        {
            let used = self
                .cpu_micros
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let series = used.iter().map(|(plugin, micros)| {
                let seconds = Duration::from_micros(*micros).as_secs_f64();
                (Some(plugin.as_str()), seconds)
            });
            exposition::append(&mut text, &names::PLUGIN_CPU_SECONDS, series);
        }
        resources::append(&mut text);
        text
    }
}
