//! What a call knows on its way through its policies.

use super::Policies;
use crate::{admission::Call, deadline::Deadline, striped::Local};

/// What stays in place by itself. One struct, so that one pointer leads to all
/// of it.
pub(super) struct State<S, C, O, R, I, Req, H, J> {
    pub(super) stage: Stage,
    /// Whether the service is running right now, so that a panic of its can be
    /// told from a caller who gives up.
    pub(super) running: bool,
    pub(super) idempotent: bool,
    pub(super) number: u32,
    /// The wait before this attempt, in nanoseconds.
    pub(super) waited: u64,
    pub(super) policies: Local<Policies<C, O, R, I>>,
    pub(super) service: S,
    /// What the next attempt asks; taken when the service is asked.
    pub(super) request: Option<Req>,
    /// What a further attempt would ask.
    pub(super) spare: Option<Req>,
    /// What is known of the call, while it waits.
    pub(super) call: Option<Call>,
    /// When the whole call's time is up, where attempts are repeated.
    pub(super) total: Deadline,
    pub(super) per_call: H,
    pub(super) per_attempt: J,
}

/// What a call is doing, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// Asks the policies of the call.
    Enter,
    /// Is between two attempts.
    Pause,
    /// Asks the policies of an attempt.
    Admit,
    /// Waits for the service to be ready.
    Ready,
    /// Waits for the service to answer.
    Answer,
    Done,
}

impl Stage {
    /// Whether an attempt may hold something.
    pub(super) fn is_attempt(self) -> bool {
        matches!(self, Self::Admit | Self::Ready | Self::Answer)
    }
}
