//! What goes wrong with the exporter if it is used as it offers itself. Each
//! test shows that first.

use std::{fs, hint::black_box, time::Duration};

use metrics::{Key, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use orchestrator_observability::{Build, Telemetry};

const SAMPLES: u32 = 2_000_000;
const METADATA: Metadata<'_> = Metadata::new("tests", Level::INFO, None);

fn naive() -> (PrometheusRecorder, metrics::Histogram) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let histogram = recorder.register_histogram(&Key::from_name("duration_seconds"), &METADATA);
    (recorder, histogram)
}

/// How much memory this process has, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Quantiles of several processes cannot be added up.
#[test]
fn trap_g08_durations_are_buckets_and_no_quantiles() {
    let (recorder, histogram) = naive();
    histogram.record(0.1);
    let text = recorder.handle().render();
    assert!(
        text.contains("quantile=") && !text.contains("_bucket{"),
        "{text}"
    );

    let telemetry = Telemetry::new(Build { version: "0" });
    let phase = telemetry.phase("p", "x");
    phase.executed(Duration::from_millis(100), None);
    let text = telemetry.render();
    assert!(!text.contains("quantile="), "{text}");
    assert!(
        text.contains("orchestrator_plugin_phase_duration_seconds_bucket{"),
        "{text}"
    );
}

/// Every sample is kept until somebody calls `run_upkeep`, or asks for the
/// numbers, which nobody may ever do.
#[test]
fn trap_g08_samples_take_no_memory_though_nobody_looks() {
    let (_recorder, histogram) = naive();
    let before = resident();
    (0..SAMPLES).for_each(|sample| histogram.record(f64::from(sample)));
    let grown = resident() - before;
    assert!(grown > 8 * u64::from(SAMPLES), "{grown} bytes");

    let telemetry = Telemetry::new(Build { version: "0" });
    let phase = telemetry.phase("p", "x");
    phase.executed(Duration::from_millis(1), None);
    let before = resident();
    (0..SAMPLES).for_each(|sample| {
        phase.executed(black_box(Duration::from_micros(sample.into())), None);
    });
    let grown = resident().saturating_sub(before);
    assert!(grown < u64::from(SAMPLES) / 2, "{grown} bytes");
}
