//! What plugins write: bytes of a pipe to lines with a level, bounded in length
//! and in rate, with the last of them kept for crash reports.

mod bucket;
mod drain;
mod escape;
mod level;
mod lines;
mod tail;

use orchestrator_contract::{PhaseCall, RunId, StepId, TraceContext};

pub(crate) use bucket::TokenBucket;
pub(crate) use drain::{PIPE_READ_BYTES, drain};
pub(crate) use escape::escape;
pub(crate) use tail::Tail;

/// The call that a line or a progress report belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) run: RunId,
    pub(crate) step: StepId,
    pub(crate) trace: TraceContext,
}

impl Origin {
    pub(crate) fn of(call: &PhaseCall) -> Self {
        Self {
            run: call.run,
            step: call.step.clone(),
            trace: call.trace,
        }
    }
}
