//! What operators see of the metrics and log lines.
#![cfg(test)]

mod log_lines;
mod metrics_text;
mod telemetry_traps;
