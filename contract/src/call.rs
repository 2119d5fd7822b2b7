//! One request to one phase, and its answer.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Payload, PhaseName, PluginId, RunId, SessionId, StepId, TraceContext};

/// One request to one phase.
///
/// Cloning copies pointers and never the payload, so that a retry may keep the
/// original.
#[derive(Clone, Debug)]
pub struct PhaseCall {
    /// The run this call belongs to.
    pub run: RunId,
    /// The step of the run's pipeline.
    pub step: StepId,
    /// The plugin that should answer.
    pub plugin: PluginId,
    /// The phase that should run.
    pub phase: PhaseName,
    /// Which try this is, counted from 1 and kept across a resume.
    pub attempt: u32,
    /// On whose behalf; limits may be kept per tenant.
    pub tenant: Option<Arc<str>>,
    /// What may be refused first when there is too much to do.
    pub criticality: Criticality,
    /// When the caller stops waiting, on the host's monotonic clock. `None`
    /// waits as long as the policies allow. Other processes are told the time
    /// that remains.
    #[expect(
        clippy::disallowed_types,
        reason = "tokio's paused clock converts to and from this type; this crate has no runtime"
    )]
    pub deadline: Option<std::time::Instant>,
    /// The same for every attempt of a step, also after a crash; new when a
    /// person reruns the step.
    pub idempotency_key: Arc<str>,
    /// Where this call stands in the trace of its run.
    pub trace: TraceContext,
    /// The context shared with the run's other phases.
    pub session: SessionId,
    /// What the phase works on.
    pub input: Payload,
}

/// What a phase answered.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseReply {
    /// The result.
    pub output: Payload,
    /// Small facts about the result, such as a model name or a cache hit.
    pub metadata: BTreeMap<String, String>,
    /// What the phase says it used.
    pub usage: Usage,
}

impl PhaseReply {
    /// A reply with nothing but an output.
    pub fn new(output: Payload) -> Self {
        Self {
            output,
            metadata: BTreeMap::new(),
            usage: Usage::default(),
        }
    }
}

/// What a phase says a call used. Zero where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// The largest resident memory in bytes.
    pub memory_bytes: u64,
}

/// What may be refused first when there is too much to do, after the classes of
/// the SRE book (Beyer et al. 2016, "Handling Overload").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// Refused first.
    Sheddable,
    /// Refused before anything critical; batch work.
    SheddablePlus,
    /// The default: a person or system waits.
    #[default]
    Critical,
    /// Refused last.
    CriticalPlus,
}

/// What a plugin says about an earlier call whose end the engine did not see.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconciled {
    /// The effect happened; this was the result.
    Done(PhaseReply),
    /// The effect did not happen; the call may be made again.
    NotDone,
    /// The plugin cannot tell.
    Unknown,
}
