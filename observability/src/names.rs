//! Every metric: its full name, type, help text, labels and buckets.
//!
//! Names are written out, unit and `_total` included, so that every exposition
//! format shows the same one. Labels never hold ids, paths or messages; labels
//! whose values come from outside are bounded (see [`VALUES_PER_LABEL`]).

/// How many values a label of one metric may have; later ones become
/// [`OVERFLOW`] and are counted by [`LABEL_OVERFLOW`].
pub const VALUES_PER_LABEL: usize = 200;

/// The label value that stands for all values beyond [`VALUES_PER_LABEL`].
pub const OVERFLOW: &str = "_other";

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations up to each of these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What it means, one line.
    pub help: &'static str,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// Bounds in seconds for work that may take minutes: the client libraries'
/// default buckets and a tail up to a phase's default deadline of ten minutes.
pub const LONG_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Bounds in seconds for work that should take milliseconds.
pub const SHORT_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

macro_rules! metrics {
    ($($const:ident: $kind:expr, $name:literal, $help:literal, [$($label:literal),*];)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help, ".")]
            pub const $const: Metric = Metric {
                name: $name,
                kind: $kind,
                help: $help,
                labels: &[$($label),*],
            };
        )+

        /// Every metric of this crate.
        pub const ALL: &[Metric] = &[$($const),+];
    };
}

use Kind::{Counter, Gauge, Histogram};

metrics! {
    PHASE_EXECUTIONS: Counter, "orchestrator_plugin_phase_executions_total",
        "Total number of phase executions", ["plugin", "phase"];
    PHASE_DURATION: Histogram(LONG_SECONDS), "orchestrator_plugin_phase_duration_seconds",
        "Phase execution duration in seconds", ["plugin", "phase"];
    PHASE_ERRORS: Counter, "orchestrator_plugin_phase_errors_total",
        "Total number of phase execution errors", ["plugin", "phase", "error_type"];
    PLUGIN_MEMORY: Gauge, "orchestrator_plugin_memory_usage_bytes",
        "Current memory usage in bytes", ["plugin"];
    PLUGIN_CPU: Gauge, "orchestrator_plugin_cpu_usage_percent",
        "Current CPU usage percentage", ["plugin"];
    PLUGIN_TASKS: Gauge, "orchestrator_plugin_tasks",
        "Threads of the plugin's processes", ["plugin"];
    PLUGIN_OPEN_FILES: Gauge, "orchestrator_plugin_open_files",
        "File descriptors that the plugin's processes have open", ["plugin"];

    PHASE_ATTEMPTS: Counter, "orchestrator_plugin_phase_attempts_total",
        "Tries at phase executions, the first ones included", ["plugin", "phase"];
    PHASES_IN_FLIGHT: Gauge, "orchestrator_phases_in_flight",
        "Phase executions that are going on", ["plugin"];
    PLUGIN_CPU_SECONDS: Counter, "orchestrator_plugin_cpu_seconds_total",
        "Processor time used by the plugin's processes in seconds", ["plugin"];
    PLUGIN_STATE: Gauge, "orchestrator_plugin_state",
        "1 for the state the plugin is in, the best of its versions, 0 for the others", ["plugin", "state"];
    PLUGIN_HEALTHY: Gauge, "orchestrator_plugin_healthy",
        "1 while the plugin says that it is well, 0 while it does not or has ended by itself", ["plugin"];
    PLUGIN_RESTARTS: Counter, "orchestrator_plugin_restarts_total",
        "Starts of a plugin's process after it ended by itself", ["plugin"];
    PLUGIN_RELOADS: Counter, "orchestrator_plugin_reloads_total",
        "Times a plugin was to go on with what is installed, by whether it does", ["plugin", "outcome"];
    PLUGIN_VIOLATIONS: Counter, "orchestrator_plugin_resource_violations_total",
        "Times a plugin used more of a resource than it may", ["plugin", "resource", "action"];
    PLUGIN_DENIALS: Counter, "orchestrator_plugin_denials_total",
        "Times a plugin was refused what it was not granted", ["plugin", "capability", "rule"];
    PLUGIN_LOG_LINES: Counter, "orchestrator_plugin_log_lines_total",
        "Lines that a plugin wrote", ["plugin", "level"];

    RUNS: Counter, "orchestrator_runs_total",
        "Runs that ended", ["pipeline", "outcome"];
    RUN_DURATION: Histogram(LONG_SECONDS), "orchestrator_run_duration_seconds",
        "Time from acceptance of a run to its end in seconds", ["pipeline", "outcome"];
    RUNS_IN_FLIGHT: Gauge, "orchestrator_runs_in_flight",
        "Runs that are going on", ["pipeline"];

    RETRIES: Counter, "orchestrator_retry_attempts_total",
        "Retries by result: retried (another attempt followed), success (a step succeeded after a retry), exhausted, budget or deadline (why no further attempt was made)",
        ["plugin", "phase", "result"];
    BREAKER_STATE: Gauge, "orchestrator_circuit_breaker_state",
        "1 for the state the breaker is in, 0 for the others; the label phase is empty where one breaker guards the whole plugin",
        ["plugin", "phase", "state"];
    BREAKER_TRANSITIONS: Counter, "orchestrator_circuit_breaker_transitions_total",
        "Changes of a breaker's state", ["plugin", "to"];
    CALLS_REFUSED: Counter, "orchestrator_calls_refused_total",
        "Calls that a policy refused before they reached the plugin", ["plugin", "phase", "by"];
    CALLS_WOULD_BE_REFUSED: Counter, "orchestrator_calls_would_be_refused_total",
        "Calls that a policy would have refused if it did more than observe; the label phase is empty where it guards the whole plugin",
        ["plugin", "phase", "by"];
    FALLBACKS: Counter, "orchestrator_fallbacks_total",
        "Failed calls in whose place something else was asked, by whether it had an answer", ["plugin", "phase", "by", "result"];

    JOURNAL_COMMITS: Counter, "orchestrator_journal_commits_total",
        "Groups of events that the journal made durable", [];
    JOURNAL_COMMIT_DURATION: Histogram(SHORT_SECONDS), "orchestrator_journal_commit_duration_seconds",
        "Duration of a journal transaction in seconds", [];
    JOURNAL_EVENTS: Counter, "orchestrator_journal_events_total",
        "Events that the journal made durable", [];

    HTTP_REQUESTS: Counter, "orchestrator_http_requests_total",
        "HTTP requests answered", ["route", "method", "status"];
    HTTP_DURATION: Histogram(LONG_SECONDS), "orchestrator_http_request_duration_seconds",
        "Time from an HTTP request to the head of its answer in seconds", ["route", "method"];

    EVENTS_DROPPED: Counter, "orchestrator_events_dropped_total",
        "Events that a subscriber lost because it was too slow", [];
    LOG_LINES_LOST: Counter, "orchestrator_log_lines_lost_total",
        "Log lines of this process that could not be written", [];
    LABEL_OVERFLOW: Counter, "orchestrator_metric_label_overflow_total",
        "Label values replaced by _other because the label had too many", ["metric", "label"];
    BUILD_INFO: Gauge, "orchestrator_build_info",
        "1; the labels say what is running", ["version"];

    PROCESS_CPU: Counter, "process_cpu_seconds_total",
        "Processor time used by this process in seconds", [];
    PROCESS_MEMORY: Gauge, "process_resident_memory_bytes",
        "Resident memory of this process in bytes", [];
    PROCESS_FDS: Gauge, "process_open_fds",
        "File descriptors that this process has open", [];
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_prometheus_conventions() {
        let mut seen = HashSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            let ours = metric.name.starts_with("orchestrator_");
            assert!(
                ours || metric.name.starts_with("process_"),
                "{}",
                metric.name
            );
            let total = metric.name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.help.contains('\n'));
            for label in metric.labels {
                assert!(label.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
            }
        }
    }

    #[test]
    fn buckets_rise() {
        for metric in ALL {
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
                assert!(metric.name.ends_with("_seconds"));
            }
        }
    }
}
