//! What the policies do, for whoever keeps count.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    breaker::BreakerState, fallback::FallbackKind, health::HealthChange, refusal::RefusalKind,
};

/// Something that a policy did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyEvent {
    /// A failed call will be tried again.
    RetryScheduled {
        /// The attempt that will be made, counted from 1; so at least 2.
        attempt: u32,
        /// How long until then.
        delay: Duration,
    },
    /// A failed call that might have been tried again will not be.
    RetryStopped {
        /// How many attempts were made.
        attempts: u32,
        /// Why there will be no other.
        reason: RetryStop,
    },
    /// A breaker changed its state.
    BreakerChanged(BreakerChange),
    /// A service became healthy or unhealthy.
    HealthChanged(HealthChange),
    /// A call that failed got another answer.
    FellBack {
        /// What answered.
        by: FallbackKind,
        /// The policy that ended the call, if one did.
        cause: Option<RefusalKind>,
    },
    /// What should have answered for a call that failed has failed too.
    FallbackFailed {
        /// What did not answer.
        by: FallbackKind,
        /// The policy that ended the call, if one did.
        cause: Option<RefusalKind>,
    },
    /// A policy that only observes would have ended a call.
    WouldRefuse {
        /// How it would have been ended.
        by: RefusalKind,
        /// When it would have been told to try again.
        retry_after: Option<Duration>,
    },
    /// A policy ended a call. Tells about each refusal once, from the policy
    /// that made it.
    Refused {
        /// How it was ended.
        by: RefusalKind,
        /// When it was told to try again, where the policy knows.
        retry_after: Option<Duration>,
    },
}

/// Why a call is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryStop {
    /// Every attempt has been made.
    Exhausted,
    /// Too large a part of all traffic is retries already.
    Budget,
    /// The caller would have left before the next attempt.
    Deadline,
}

impl RetryStop {
    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
        }
    }
}

/// One change of a breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerChange {
    /// Counts the changes of this breaker from 1. A gap means that a slow
    /// listener missed some.
    pub sequence: u64,
    /// The state before.
    pub from: BreakerState,
    /// The state after.
    pub to: BreakerState,
    /// What caused it.
    pub reason: ChangeReason,
    /// Whether the breaker refuses calls in earnest; see
    /// [`BreakerMode`](crate::BreakerMode).
    pub enforced: bool,
}

/// What changed a breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeReason {
    /// Too large a part of the calls failed.
    FailureRatio,
    /// Too many calls failed in a row.
    ConsecutiveFailures,
    /// Too large a part of the calls was slow.
    SlowRatio,
    /// The rest is over: time for a probe.
    RestOver,
    /// A probe failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// Somebody forced it.
    Forced,
    /// Somebody reset it.
    Reset,
    /// Somebody changed its mode.
    Reconfigured,
    /// A check holds it open: a service is not well.
    Unhealthy,
    /// No check holds it open any more.
    Healthy,
}

impl ChangeReason {
    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailureRatio => "failure_ratio",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::SlowRatio => "slow_ratio",
            Self::RestOver => "rest_over",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::Forced => "forced",
            Self::Reset => "reset",
            Self::Reconfigured => "reconfigured",
            Self::Unhealthy => "unhealthy",
            Self::Healthy => "healthy",
        }
    }
}

/// Is told what policies do.
///
/// Called on the path of calls, inside the task that makes the call, and
/// never while a policy holds a lock: a listener may ask the policy back. It
/// must not block. Changes of one breaker arrive in order.
pub trait Listener: Send + Sync {
    /// Takes note of `event`.
    fn on_event(&self, event: &PolicyEvent);
}

impl<F> Listener for F
where
    F: Fn(&PolicyEvent) + Send + Sync,
{
    fn on_event(&self, event: &PolicyEvent) {
        self(event);
    }
}

/// Tells the listener, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Emitter(Option<Arc<dyn Listener>>);

impl Emitter {
    pub(crate) fn new(listener: Arc<dyn Listener>) -> Self {
        Self(Some(listener))
    }

    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn emit(&self, event: &PolicyEvent) {
        if let Some(listener) = &self.0 {
            listener.on_event(event);
        }
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_heard() {
            "Emitter(heard)"
        } else {
            "Emitter(unheard)"
        })
    }
}
