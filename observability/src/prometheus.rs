//! The Prometheus exporter: holds series and writes them as text.

use std::sync::Mutex;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::{
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
    /// The exporter clears its sample buffers while it renders, so two renderings
    /// at once would each miss what the other took.
    rendering: Mutex<()>,
}

impl Exporter {
    pub(crate) fn new() -> Self {
        let recorder = with_buckets(PrometheusBuilder::new())
            .unwrap_or_default()
            .build_recorder();
        for metric in names::ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Self {
            handle: recorder.handle(),
            recorder,
            guard: LabelGuard::new(names::VALUES_PER_LABEL),
            rendering: Mutex::default(),
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
        debug_assert!(matches!(metric.kind, Kind::Histogram(_)), "{}", metric.name);
        self.recorder
            .register_histogram(&self.key(metric, values), &METADATA)
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

    /// Folds buffered samples into their histograms.
    pub(crate) fn upkeep(&self) {
        let _one_at_a_time = self.rendering.lock();
        self.handle.run_upkeep();
    }

    pub(crate) fn render(&self) -> String {
        let _one_at_a_time = self.rendering.lock();
        self.handle.render()
    }
}

/// Gives every histogram its bounds; without any it would become a summary.
fn with_buckets(mut builder: PrometheusBuilder) -> Result<PrometheusBuilder, BuildError> {
    for metric in names::ALL {
        if let Kind::Histogram(bounds) = metric.kind {
            let matcher = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(matcher, bounds)?;
        }
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_histogram_has_its_bounds() {
        assert!(with_buckets(PrometheusBuilder::new()).is_ok());
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
