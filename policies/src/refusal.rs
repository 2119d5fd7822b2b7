//! What a policy says when it, and not the service, ends a call.

use std::time::Duration;

use thiserror::Error;

use crate::shed::Criticality;

/// A call that a policy ended.
///
/// Every layer asks that the service's error is `From<Refusal>`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Time was up. What the service did so far is unknown.
    #[error("no answer within {limit:?}")]
    Timeout {
        /// Whose time was up.
        scope: TimeoutScope,
        /// How much time there was.
        limit: Duration,
    },
    /// Every slot was taken and the queue was full, or a slot did not come
    /// free in time. The service was not called.
    #[error("overloaded: {limit} calls in flight, {queued} waiting")]
    Overloaded {
        /// Calls that may be in flight together.
        limit: usize,
        /// Calls that were waiting for a slot.
        queued: usize,
    },
    /// There was too much to do for a call of no more importance. The service
    /// was not called.
    #[error("{limit} calls in flight, {criticality} calls are turned away")]
    Shed {
        /// How important the call was.
        criticality: Criticality,
        /// Calls that may be in flight before one of its importance is turned
        /// away.
        limit: usize,
    },
    /// Calls came faster than allowed. The service was not called.
    #[error("rate limited, try again in {retry_after:?}")]
    RateLimited {
        /// When a call is next likely to be let through.
        retry_after: Duration,
    },
    /// The service is given a rest. It was not called.
    #[error("circuit open, try again in {retry_after:?}")]
    CircuitOpen {
        /// When the next probe is due, as far as can be told.
        retry_after: Duration,
    },
    /// The service panicked.
    #[error("the service panicked: {message}")]
    Panicked {
        /// The panic's message, cut to a bounded length.
        message: String,
    },
    /// A policy that is not of this crate turned the call away. The service
    /// was not called.
    #[error("turned away by {policy}")]
    Other {
        /// The policy's name.
        policy: &'static str,
        /// When to try again, if the policy knows.
        retry_after: Option<Duration>,
    },
}

/// Whose time was up in a [`Refusal::Timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutScope {
    /// The whole call's, retries and waits included: there is no time for
    /// another attempt.
    Total,
    /// One attempt's: there may be time for another.
    Attempt,
}

impl Refusal {
    /// What sort of refusal this is.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Timeout {
                scope: TimeoutScope::Total,
                ..
            } => RefusalKind::TotalTimeout,
            Self::Timeout {
                scope: TimeoutScope::Attempt,
                ..
            } => RefusalKind::AttemptTimeout,
            Self::Overloaded { .. } => RefusalKind::Overloaded,
            Self::Shed { .. } => RefusalKind::Shed,
            Self::RateLimited { .. } => RefusalKind::RateLimited,
            Self::CircuitOpen { .. } => RefusalKind::CircuitOpen,
            Self::Panicked { .. } => RefusalKind::Panicked,
            Self::Other { .. } => RefusalKind::Other,
        }
    }

    /// When to try again, where the policy knows.
    #[must_use]
    #[inline]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::CircuitOpen { retry_after } => {
                Some(*retry_after)
            }
            Self::Other { retry_after, .. } => *retry_after,
            Self::Timeout { .. }
            | Self::Overloaded { .. }
            | Self::Shed { .. }
            | Self::Panicked { .. } => None,
        }
    }
}

/// A [`Refusal`] without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The whole call's time was up.
    TotalTimeout,
    /// One attempt's time was up.
    AttemptTimeout,
    /// No slot was free.
    Overloaded,
    /// More important calls came first.
    Shed,
    /// Calls came faster than allowed.
    RateLimited,
    /// The service is given a rest.
    CircuitOpen,
    /// The service panicked.
    Panicked,
    /// A policy that is not of this crate turned the call away.
    Other,
}

impl RefusalKind {
    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TotalTimeout => "total_timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Overloaded => "overloaded",
            Self::Shed => "shed",
            Self::RateLimited => "rate_limited",
            Self::CircuitOpen => "circuit_open",
            Self::Panicked => "panic",
            Self::Other => "other",
        }
    }

    /// Whether a policy turned the call away before the service saw it. Such
    /// a refusal says nothing about the service, and trying again at once
    /// would only meet it again.
    #[must_use]
    pub fn is_turned_away(self) -> bool {
        match self {
            Self::Overloaded | Self::Shed | Self::RateLimited | Self::CircuitOpen | Self::Other => {
                true
            }
            Self::TotalTimeout | Self::AttemptTimeout | Self::Panicked => false,
        }
    }
}
