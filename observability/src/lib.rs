//! Events become metrics and log lines here.
//!
//! This is the only crate that names a metric or knows an exporter. It listens
//! on no socket, installs nothing global by itself and never blocks a call:
//! whoever serves `/metrics` asks [`Telemetry::render`] for the text, whoever
//! owns the process installs the subscriber that [`log`] builds.
//!
//! * [`names`]: every metric, with its help text, labels and buckets.
//! * [`Telemetry`]: the metrics of one engine. Two engines in one process each
//!   have their own and never meet.
//! * [`PhaseMetrics`]: the handles of one phase, for the path of every call.
//! * [`Recorder`]: an [`EventSink`](orchestrator_contract::EventSink) that turns
//!   events into metrics and log lines.
//! * [`trace`]: which trace the current task belongs to, so that its log lines
//!   say so.
//!
//! Start with `names.rs`, then `record.rs`.

mod durations;
mod exposition;
mod label_guard;
pub mod log;
pub mod names;
mod phase;
mod prometheus;
mod record;
mod resources;
mod telemetry;
pub mod trace;

pub use phase::{InFlight, PhaseMetrics};
pub use record::Recorder;
pub use telemetry::{Build, Telemetry};
