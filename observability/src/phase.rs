//! The metrics of one phase, looked up once and kept.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram};
use orchestrator_contract::ErrorKind;

use crate::{names, prometheus::Exporter};

/// The metrics of one phase of one plugin.
///
/// Made once, when the phase's stack is built; recording then takes neither a
/// lock nor a lookup. Clones share their numbers.
#[derive(Clone)]
pub struct PhaseMetrics(Arc<Handles>);

struct Handles {
    attempts: Counter,
    /// Counts executions as well.
    duration: Histogram,
    /// One for each of [`ErrorKind::ALL`], in its order. All exist from the start,
    /// so that the first error of a kind is an increase from zero.
    errors: Vec<Counter>,
    in_flight: Gauge,
}

impl PhaseMetrics {
    pub(crate) fn new(exporter: &Exporter, plugin: &str, phase: &str) -> Self {
        Self(Arc::new(Handles {
            attempts: exporter.counter(&names::PHASE_ATTEMPTS, &[plugin, phase]),
            duration: exporter.counted_histogram(
                &names::PHASE_DURATION,
                &names::PHASE_EXECUTIONS,
                &[plugin, phase],
            ),
            errors: ErrorKind::ALL
                .iter()
                .map(|kind| exporter.counter(&names::PHASE_ERRORS, &[plugin, phase, kind.as_str()]))
                .collect(),
            in_flight: exporter.gauge(&names::PHASES_IN_FLIGHT, &[plugin]),
        }))
    }

    /// Takes note that a call ended after `duration`, retries and waits included,
    /// with the error it ended with, if any.
    pub fn executed(&self, duration: Duration, error: Option<ErrorKind>) {
        let handles = &self.0;
        handles.duration.record(duration.as_secs_f64());
        if let Some(error) = error {
            let index = ErrorKind::ALL.iter().position(|kind| *kind == error);
            if let Some(counter) = index.and_then(|index| handles.errors.get(index)) {
                counter.increment(1);
            }
        }
    }

    /// Takes note that a call is tried, for the first time or again.
    pub fn attempted(&self) {
        self.0.attempts.increment(1);
    }

    /// Counts a call as going on until the guard is dropped.
    #[must_use = "the call counts as going on for as long as this is held"]
    pub fn in_flight(&self) -> InFlight {
        self.0.in_flight.increment(1.0);
        InFlight(Arc::clone(&self.0))
    }
}

/// A call that is going on. Dropping it, also in the middle of an await, ends
/// that.
pub struct InFlight(Arc<Handles>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_exists_at_zero_and_rises_alone() {
        let exporter = Exporter::new();
        let metrics = PhaseMetrics::new(&exporter, "p", "f");
        metrics.executed(Duration::from_millis(3), Some(ErrorKind::CircuitOpen));
        metrics.executed(Duration::from_millis(3), None);
        let text = exporter.render();
        for kind in ErrorKind::ALL {
            let expected = u8::from(*kind == ErrorKind::CircuitOpen);
            let line = format!(r#"error_type="{}"}} {expected}"#, kind.as_str());
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        assert!(text.contains(r#"executions_total{plugin="p",phase="f"} 2"#));
    }

    #[test]
    fn a_dropped_call_is_no_longer_in_flight() {
        let exporter = Exporter::new();
        let metrics = PhaseMetrics::new(&exporter, "p", "f");
        let (first, second) = (metrics.in_flight(), metrics.in_flight());
        drop(first);
        assert!(exporter.render().contains(r#"in_flight{plugin="p"} 1"#));
        drop(second);
        assert!(exporter.render().contains(r#"in_flight{plugin="p"} 0"#));
    }
}
