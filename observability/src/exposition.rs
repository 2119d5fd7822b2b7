//! Writes the few series that the exporter cannot hold, in the same text format.
//!
//! Its counters are whole numbers, and seconds of processor time are not.

use std::fmt::Write as _;

use metrics::Label;

use crate::names::{Kind, Metric};

/// Appends one metric with its series to `text`, nothing when there are none.
pub(crate) fn append<'v>(
    text: &mut String,
    metric: &Metric,
    series: impl IntoIterator<Item = (Option<&'v str>, f64)>,
) {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return;
    }
    let Metric { name, help, .. } = metric;
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge | Kind::Histogram(_) => "gauge",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (label, value) in series {
        let _ = match (metric.labels.first(), label) {
            (Some(key), Some(label)) => {
                writeln!(text, "{name}{{{}}} {value}", one_label(key, label))
            }
            _ => writeln!(text, "{name} {value}"),
        };
    }
    text.push('\n');
}

/// Labels as they stand between the braces.
pub(crate) fn labels<'l>(labels: impl Iterator<Item = &'l Label>) -> String {
    let labels = labels.map(|label| one_label(label.key(), label.value()));
    labels.collect::<Vec<_>>().join(",")
}

fn one_label(key: &str, value: &str) -> String {
    format!("{key}=\"{}\"", escaped(value))
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn fractions_and_hostile_labels_are_written_as_the_format_wants() {
        let mut text = String::new();
        let series = [(Some("a\"\\\nb"), 0.25)];
        append(&mut text, &names::PLUGIN_CPU_SECONDS, series);
        let last = text.trim_end().lines().last().unwrap();
        assert_eq!(
            last,
            r#"orchestrator_plugin_cpu_seconds_total{plugin="a\"\\\nb"} 0.25"#
        );
        assert!(text.contains("# TYPE orchestrator_plugin_cpu_seconds_total counter\n"));
    }

    #[test]
    fn a_metric_without_series_is_not_mentioned() {
        let mut text = String::new();
        append(&mut text, &names::PLUGIN_CPU_SECONDS, []);
        assert_eq!(text, "");
    }
}
