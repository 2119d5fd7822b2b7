//! Histograms that count where they are.
//!
//! The exporter's own keep every sample until it is folded into a bucket later,
//! which takes memory for as long as nobody does, and several times as long for
//! each sample. These have nothing but their buckets.

use std::{
    cell::Cell,
    cmp,
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use metrics::{HistogramFn, Key};

use crate::{
    exposition,
    names::{Kind, Metric},
};

/// No histogram has more bounds.
pub(crate) const BOUNDS_MAX: usize = 23;

/// Threads that record at once mostly have one each, so that none waits for
/// another's cache line. A power of two.
const STRIPES: usize = 4;

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// How many samples were up to each bound, and their sum.
pub(crate) struct Durations {
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    stripes: [CachePadded<Counts>; STRIPES],
}

#[derive(Default)]
struct Counts {
    /// Of samples above the bound before and up to this one; the last is of
    /// those above all.
    buckets: [AtomicU64; BOUNDS_MAX + 1],
    nanos: AtomicU64,
}

impl Durations {
    fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.len() <= BOUNDS_MAX);
        Self {
            bounds,
            stripes: Default::default(),
        }
    }

    /// How many samples there are.
    pub(crate) fn count(&self) -> u64 {
        self.buckets().iter().sum()
    }

    fn buckets(&self) -> [u64; BOUNDS_MAX + 1] {
        let sum = |index: usize| {
            let counts = self.stripes.iter().map(|stripe| &stripe.buckets[index]);
            counts.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        std::array::from_fn(sum)
    }

    fn seconds(&self) -> f64 {
        let nanos = self
            .stripes
            .iter()
            .map(|stripe| stripe.nanos.load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add);
        nanos as f64 / 1e9
    }
}

impl HistogramFn for Durations {
    #[inline]
    fn record(&self, seconds: f64) {
        // No number is above every bound, and adds nothing.
        let above = |bound: &f64| seconds.partial_cmp(bound).is_none_or(cmp::Ordering::is_gt);
        let index = self.bounds.partition_point(above).min(BOUNDS_MAX);
        let counts = &self.stripes[stripe()];
        counts.buckets[index].fetch_add(1, Ordering::Relaxed);
        // Negative and no numbers become 0.
        let nanos = (seconds * 1e9) as u64;
        counts.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// This thread's stripe.
#[inline]
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let stripe = STRIPE.get();
    if stripe < STRIPES {
        return stripe;
    }
    let stripe = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
    STRIPE.set(stripe);
    stripe
}

/// Every histogram of an exporter.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Series>);

/// By name, and then by labels in the order of their text.
type Series = BTreeMap<&'static str, (Metric, BTreeMap<String, Arc<Durations>>)>;

impl Registry {
    /// The histogram with this key, which is made if there is none.
    pub(crate) fn get(&self, metric: &Metric, key: &Key) -> Arc<Durations> {
        let Kind::Histogram(bounds) = metric.kind else {
            unreachable!("{} is no histogram", metric.name);
        };
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, series) = series
            .entry(metric.name)
            .or_insert_with(|| (*metric, BTreeMap::new()));
        let durations = series
            .entry(exposition::labels(key.labels()))
            .or_insert_with(|| Arc::new(Durations::new(bounds)));
        Arc::clone(durations)
    }

    /// Appends all of them to `text`.
    pub(crate) fn append(&self, text: &mut String) {
        let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (metric, series) in series.values() {
            let Metric { name, help, .. } = metric;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
            for (labels, durations) in series {
                append_one(text, name, labels, durations);
            }
            text.push('\n');
        }
    }
}

fn append_one(text: &mut String, name: &str, labels: &str, durations: &Durations) {
    let comma = if labels.is_empty() { "" } else { "," };
    let buckets = durations.buckets();
    let mut count = 0;
    for (bound, bucket) in durations.bounds.iter().zip(buckets) {
        count += bucket;
        let _ = writeln!(
            text,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        );
    }
    let count: u64 = buckets.iter().sum();
    let braced = match labels {
        "" => String::new(),
        labels => format!("{{{labels}}}"),
    };
    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{braced} {}", durations.seconds());
    let _ = writeln!(text, "{name}_count{braced} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    const METRIC: &Metric = &names::JOURNAL_COMMIT_DURATION;

    fn text(samples: &[f64]) -> String {
        let registry = Registry::default();
        let durations = registry.get(METRIC, &Key::from_name(METRIC.name));
        samples.iter().for_each(|sample| durations.record(*sample));
        let mut text = String::new();
        registry.append(&mut text);
        text
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let text = text(&[0.0001, 0.000_100_1, 0.25, 7.0]);
        for line in [
            r#"duration_seconds_bucket{le="0.0001"} 1"#,
            r#"duration_seconds_bucket{le="0.00025"} 2"#,
            r#"duration_seconds_bucket{le="0.1"} 2"#,
            r#"duration_seconds_bucket{le="0.25"} 3"#,
            r#"duration_seconds_bucket{le="1"} 3"#,
            r#"duration_seconds_bucket{le="+Inf"} 4"#,
            "duration_seconds_sum 7.2502001",
            "duration_seconds_count 4",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_counted_and_adds_nothing() {
        let text = text(&[f64::NAN, f64::INFINITY, -1.0, 0.0]);
        assert!(text.contains(r#"le="0.0001"} 2"#), "{text}");
        assert!(text.contains(r#"le="+Inf"} 4"#), "{text}");
    }

    #[test]
    fn threads_lose_no_sample() {
        let durations = Durations::new(names::SHORT_SECONDS);
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..10_000).for_each(|_| durations.record(0.001)));
            }
        });
        assert_eq!(durations.count(), 2 * STRIPES as u64 * 10_000);
        assert!((durations.seconds() - 80.0).abs() < 1e-6);
    }

    #[test]
    fn every_histogram_fits() {
        for metric in names::ALL {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.len() <= BOUNDS_MAX, "{}", metric.name);
            }
        }
    }
}
