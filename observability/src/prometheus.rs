//! The Prometheus exporter: holds series and writes them as text.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::{
    durations::{self, Durations},
    label_guard::LabelGuard,
    names::{self, Kind, Metric, OVERFLOW},
};

static METADATA: Metadata<'static> = Metadata::new("orchestrator", Level::INFO, None);

/// The series of one engine. Held by its owner and not installed globally, so
/// that two engines in one process do not meet.
pub(crate) struct Exporter {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    guard: LabelGuard,
    durations: durations::Registry,
    /// Counters that say how many samples a histogram has.
    counts: Mutex<Vec<(Counter, Arc<Durations>)>>,
}

impl Exporter {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in names::ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => {}
            }
        }
        Self {
            handle: recorder.handle(),
            recorder,
            guard: LabelGuard::new(names::VALUES_PER_LABEL),
            durations: durations::Registry::default(),
            counts: Mutex::default(),
        }
    }

    pub(crate) fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.recorder
            .register_counter(&self.key(metric, values), &METADATA)
    }

    pub(crate) fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.recorder
            .register_gauge(&self.key(metric, values), &METADATA)
    }

    pub(crate) fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        Histogram::from_arc(self.durations.get(metric, &self.key(metric, values)))
    }

    /// A histogram, and a counter with the same labels that counts its samples.
    pub(crate) fn counted_histogram(
        &self,
        histogram: &Metric,
        counter: &Metric,
        values: &[&str],
    ) -> Histogram {
        let durations = self.durations.get(histogram, &self.key(histogram, values));
        let counter = self.counter(counter, values);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if !counts
            .iter()
            .any(|(_, known)| Arc::ptr_eq(known, &durations))
        {
            counts.push((counter, Arc::clone(&durations)));
        }
        Histogram::from_arc(durations)
    }

    /// `value`, or [`OVERFLOW`] when `label` of `metric` has too many values.
    pub(crate) fn admitted<'v>(
        &self,
        metric: &Metric,
        label: &'static str,
        value: &'v str,
    ) -> &'v str {
        if self.guard.admits(metric.name, label, value) {
            return value;
        }
        // The labels of this counter are names from our own table.
        let labels = vec![
            Label::new("metric", metric.name),
            Label::new("label", label),
        ];
        self.recorder
            .register_counter(
                &Key::from_parts(names::LABEL_OVERFLOW.name, labels),
                &METADATA,
            )
            .increment(1);
        OVERFLOW
    }

    fn key(&self, metric: &Metric, values: &[&str]) -> Key {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let labels: Vec<Label> = metric
            .labels
            .iter()
            .zip(values)
            // To Prometheus an empty label and an absent one are the same.
            .filter(|(_, value)| !value.is_empty())
            .map(|(label, value)| {
                Label::new(*label, self.admitted(metric, label, value).to_owned())
            })
            .collect();
        Key::from_parts(metric.name, labels)
    }

    pub(crate) fn render(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, durations) in counts.iter() {
            counter.absolute(durations.count());
        }
        drop(counts);
        let mut text = self.handle.render();
        self.durations.append(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_histogram_has_its_bounds() {
        let exporter = Exporter::new();
        exporter
            .histogram(&names::PHASE_DURATION, &["p", "f"])
            .record(42.0);
        let text = exporter.render();
        assert!(text.contains(r#"phase="f",le="30"} 0"#), "{text}");
        assert!(text.contains(r#"phase="f",le="60"} 1"#), "{text}");
    }

    #[test]
    fn values_beyond_the_bound_share_one_series_and_are_counted() {
        let exporter = Exporter::new();
        for index in 0..10_000 {
            let plugin = format!("plugin-{index}");
            exporter
                .counter(&names::PLUGIN_RESTARTS, &[&plugin])
                .increment(1);
        }
        let text = exporter.render();
        let series = text
            .lines()
            .filter(|line| line.starts_with("orchestrator_plugin_restarts_total{"))
            .count();
        assert_eq!(series, names::VALUES_PER_LABEL + 1);
        assert!(text.contains(r#"orchestrator_plugin_restarts_total{plugin="_other"} 9800"#));
        assert!(text.contains(
            r#"orchestrator_metric_label_overflow_total{metric="orchestrator_plugin_restarts_total",label="plugin"} 9800"#
        ));
    }
}
