//! What happens on the way, told to whoever wants to know.

mod labels;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::labels::{
    BreakerState, DenialRule, FallbackKind, LogLevel, LogStream, PluginState, RefusedBy,
    ReloadOutcome, RunOutcome, StepOutcome, ViolationAction,
};
use crate::{CallError, ErrorKind, PhaseName, PluginId, RunId, SessionId, StepId, TraceContext};

/// Something that happened. Serialised, `event` holds its dotted name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// A run was accepted and journaled.
    #[serde(rename = "run.started")]
    RunStarted {
        /// The run.
        run: RunId,
        /// Its pipeline.
        pipeline: Arc<str>,
        /// Its session.
        session: SessionId,
        /// Its trace.
        trace: TraceContext,
        /// Whether it continues after an engine stopped in the middle of it.
        resumed: bool,
    },
    /// A run ended.
    #[serde(rename = "run.finished")]
    RunFinished {
        /// The run.
        run: RunId,
        /// Its pipeline.
        pipeline: Arc<str>,
        /// How it ended.
        outcome: RunOutcome,
        /// From acceptance to end, in milliseconds.
        duration_ms: u64,
    },
    /// An engine goes no further with a run that has not ended. It may be
    /// resumed, which [`Event::RunStarted`] tells.
    #[serde(rename = "run.left")]
    RunLeft {
        /// The run.
        run: RunId,
        /// Its pipeline.
        pipeline: Arc<str>,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// A step was handed to its plugin.
    #[serde(rename = "step.started")]
    StepStarted {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The plugin's version.
        version: Arc<str>,
        /// The phase.
        phase: PhaseName,
    },
    /// A running step says how far it is.
    #[serde(rename = "step.progress")]
    StepProgress {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// Hundredths done, 0 to 100, when known.
        percent: Option<u8>,
        /// What it is doing.
        message: Arc<str>,
    },
    /// A step ended.
    #[serde(rename = "step.finished")]
    StepFinished {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// How it ended.
        outcome: StepOutcome,
        /// How many times it was tried.
        attempts: u32,
        /// From start to end, in milliseconds.
        duration_ms: u64,
        /// The kind of the error, where there was one.
        error: Option<ErrorKind>,
    },
    /// One try at a step failed. Another may follow.
    #[serde(rename = "attempt.failed")]
    AttemptFailed {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// The attempt, from 1.
        attempt: u32,
        /// Why.
        error: CallError,
    },
    /// An attempt failed and another follows.
    #[serde(rename = "call.retried")]
    CallRetried {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// How long the next one waits, in milliseconds.
        delay_ms: u64,
    },
    /// No further attempt is made although the error allowed one.
    #[serde(rename = "call.retry_given_up")]
    RetryGivenUp {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// `exhausted`, `budget` or `deadline`.
        reason: Arc<str>,
    },
    /// A policy refused a call before it reached the plugin.
    #[serde(rename = "call.refused")]
    CallRefused {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// The policy.
        by: RefusedBy,
    },
    /// A call failed and something else was asked to answer in its place.
    #[serde(rename = "call.fell_back")]
    CallFellBack {
        /// The run.
        run: RunId,
        /// The step.
        step: StepId,
        /// The plugin whose call failed.
        plugin: PluginId,
        /// The phase.
        phase: PhaseName,
        /// What was asked.
        by: FallbackKind,
        /// Whether it had an answer; the call has failed if not.
        answered: bool,
        /// The kind of the call's own error.
        error: ErrorKind,
    },
    /// A policy that only observes would have refused a call.
    #[serde(rename = "call.would_be_refused")]
    CallWouldBeRefused {
        /// The plugin.
        plugin: PluginId,
        /// The phase, where the policy is the phase's own.
        phase: Option<PhaseName>,
        /// The policy.
        by: RefusedBy,
    },
    /// A breaker changed its state.
    #[serde(rename = "breaker.changed")]
    BreakerChanged {
        /// The plugin.
        plugin: PluginId,
        /// The phase, where the breaker is the phase's own.
        phase: Option<PhaseName>,
        /// Counts the changes of this breaker, from 1.
        sequence: u64,
        /// The state before.
        from: BreakerState,
        /// The state after.
        to: BreakerState,
        /// Why: `consecutive_failures`, `failure_ratio`, `probe_failed`, …
        reason: Arc<str>,
        /// Whether it refuses calls in earnest; one that observes does not.
        enforced: bool,
    },
    /// A plugin changed its state.
    #[serde(rename = "plugin.state_changed")]
    PluginStateChanged {
        /// The plugin.
        plugin: PluginId,
        /// Its version.
        version: Arc<str>,
        /// The state after.
        state: PluginState,
        /// Why, for people.
        reason: Arc<str>,
    },
    /// A plugin's process is started again after it ended by itself.
    #[serde(rename = "plugin.restarted")]
    PluginRestarted {
        /// The plugin.
        plugin: PluginId,
        /// How it ended.
        reason: Arc<str>,
        /// How long the start waits, in milliseconds.
        delay_ms: u64,
    },
    /// A plugin was to go on with what is installed now.
    #[serde(rename = "plugin.reloaded")]
    PluginReloaded {
        /// The plugin.
        plugin: PluginId,
        /// The version that served before, where one did.
        from: Option<Arc<str>>,
        /// The version that serves now.
        version: Option<Arc<str>>,
        /// How it ended.
        outcome: ReloadOutcome,
        /// What became of the state, or why the old version goes on; for people.
        reason: Arc<str>,
    },
    /// A plugin that runs became well, or is not well any more.
    #[serde(rename = "plugin.health_changed")]
    PluginHealthChanged {
        /// The plugin.
        plugin: PluginId,
        /// Its version.
        version: Arc<str>,
        /// Whether it is well.
        healthy: bool,
        /// What is wrong, where something is.
        reason: Arc<str>,
    },
    /// A line that a plugin wrote.
    #[serde(rename = "plugin.log")]
    PluginLog {
        /// The plugin.
        plugin: PluginId,
        /// Where the line came from.
        stream: LogStream,
        /// Its level.
        level: LogLevel,
        /// The line, control characters escaped, bounded in length.
        message: Arc<str>,
        /// The run it belongs to, when known.
        run: Option<RunId>,
        /// The trace it belongs to, when known.
        trace: Option<TraceContext>,
    },
    /// What a plugin's processes use at one moment.
    #[serde(rename = "plugin.sampled")]
    PluginSampled {
        /// The plugin.
        plugin: PluginId,
        /// Resident memory of the process tree.
        memory_bytes: u64,
        /// Processor use since the last sample; 100 is one core.
        cpu_percent: f64,
        /// Processor time used since the last sample, in microseconds.
        cpu_micros: u64,
        /// Threads of all its processes.
        tasks: u64,
        /// Descriptors that they have open.
        open_files: u64,
    },
    /// A plugin used more than it may.
    #[serde(rename = "plugin.violation")]
    ResourceViolation {
        /// The plugin.
        plugin: PluginId,
        /// `memory`, `cpu`, `tasks`, `files`, `disk`, `output`.
        resource: Arc<str>,
        /// What it used, in the resource's unit.
        current: u64,
        /// What it may use.
        limit: u64,
        /// What was done about it.
        action: ViolationAction,
        /// When, in milliseconds since 1970 (UTC).
        timestamp_ms: u64,
    },
    /// A plugin was refused something that it was not granted.
    #[serde(rename = "plugin.denied")]
    CapabilityDenied {
        /// The plugin.
        plugin: PluginId,
        /// What it would have needed: `network:access`. Empty where nothing grants it.
        capability: Arc<str>,
        /// What it wanted, escaped and bounded in length: `api.example.com:443`.
        resource: Arc<str>,
        /// Why not.
        rule: DenialRule,
        /// How many before this one were not told, because they came too fast.
        suppressed: u64,
    },
    /// The journal made a group of events durable.
    #[serde(rename = "journal.committed")]
    JournalCommitted {
        /// How many events.
        events: u64,
        /// How long the transaction took, in microseconds.
        duration_us: u64,
    },
}

impl Event {
    /// The run an event belongs to, where it belongs to one.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Self::RunStarted { run, .. }
            | Self::RunFinished { run, .. }
            | Self::RunLeft { run, .. }
            | Self::StepStarted { run, .. }
            | Self::StepProgress { run, .. }
            | Self::AttemptFailed { run, .. }
            | Self::CallRetried { run, .. }
            | Self::RetryGivenUp { run, .. }
            | Self::CallRefused { run, .. }
            | Self::CallFellBack { run, .. }
            | Self::StepFinished { run, .. } => Some(*run),
            Self::PluginLog { run, .. } => *run,
            _ => None,
        }
    }
}

/// Receives events. Implementations must not block and must not panic: events
/// are emitted in the middle of calls.
pub trait EventSink: Send + Sync + 'static {
    /// Takes note of one event.
    fn emit(&self, event: Event);
}

/// Takes note of nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn emit(&self, _: Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_with_its_dotted_name() {
        let event = Event::RunFinished {
            run: RunId::from_parts(0, 1),
            pipeline: "notes".into(),
            outcome: RunOutcome::Degraded,
            duration_ms: 12,
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "run.finished");
        assert_eq!(json["outcome"], "degraded");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }

    #[test]
    fn a_violation_says_who_used_how_much_of_what_and_when() {
        let event = Event::ResourceViolation {
            plugin: "greedy".into(),
            resource: "memory".into(),
            current: 12,
            limit: 10,
            action: ViolationAction::Kill,
            timestamp_ms: 1_700_000_000_123,
        };
        let expected = serde_json::json!({
            "event": "plugin.violation", "plugin": "greedy", "resource": "memory",
            "current": 12, "limit": 10, "action": "kill", "timestamp_ms": 1_700_000_000_123_u64,
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Event>(expected).unwrap(), event);
    }
}
