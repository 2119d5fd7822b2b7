//! Bounds how long a call may take.
//!
//! For: a service that hangs. Two limits, because one cannot do both jobs:
//! the *total* is how long a caller waits, retries and queues included; the
//! *attempt* is how long one try may take, so that a hung one leaves time for
//! another.
//!
//! Not for: work that cannot be stopped by dropping its future. A future that
//! never yields never notices the time; run such work elsewhere and bound the
//! waiting for it.
//!
//! The deadline is the earlier of the limit and the deadline that the request
//! already carries, and is written back into the request. No timer is made
//! for a call that is answered at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{Admission, Call, End},
    clock::{self, HORIZON, Instant},
    config::{ConfigError, check_time},
    refusal::{Refusal, TimeoutScope},
    retry::Once,
    stack::Policies,
};

/// How long calls may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineConfig {
    /// How long a caller waits at most, whatever happens on the way.
    #[serde(with = "humantime_serde")]
    pub total: Duration,
    /// How long one attempt may take.
    #[serde(with = "humantime_serde")]
    pub attempt: Duration,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(30),
            attempt: Duration::from_secs(10),
        }
    }
}

impl DeadlineConfig {
    /// Checks that these limits can work.
    ///
    /// # Errors
    ///
    /// Names the limit that is under a millisecond, the finest the timer
    /// tells apart, or over a year.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = Duration::from_millis(1);
        check_time("total", self.total, least)?;
        check_time("attempt", self.attempt, least)
    }
}

/// When a call's time is up, and who says so. Two words, because it is copied
/// for each call and each attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    /// One of the constants below; where a policy says so, plus the time that
    /// there was, in nanoseconds, times [`LIMIT`].
    whose: u64,
}

/// Nobody's: there is no deadline.
const NOBODY: u64 = 0;
/// The caller only told when it will have left.
const CALLER: u64 = 1;
/// A policy ends the whole call.
const TOTAL: u64 = 2;
/// A policy ends the attempt.
const ATTEMPT: u64 = 3;
const LIMIT: u64 = 4;

impl Deadline {
    /// No deadline.
    pub const NEVER: Self = Self {
        at: Instant::from_nanos(u64::MAX),
        whose: NOBODY,
    };

    #[inline]
    pub(crate) fn of_caller(at: Option<Instant>) -> Self {
        match at {
            None => Self::NEVER,
            Some(at) => Self { at, whose: CALLER },
        }
    }

    /// The moment: the last there is if there is no deadline.
    #[must_use]
    #[inline]
    pub fn at(self) -> Instant {
        self.at
    }

    /// Whether a policy ends the call then.
    #[must_use]
    #[inline]
    pub fn is_enforced(self) -> bool {
        self.whose >= TOTAL
    }

    /// What a policy that ends the call then says.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        let scope = match self.whose % LIMIT {
            TOTAL => TimeoutScope::Total,
            ATTEMPT => TimeoutScope::Attempt,
            _ => return None,
        };
        let limit = Duration::from_nanos(self.whose / LIMIT);
        Some(Refusal::Timeout { scope, limit })
    }

    /// The earlier of `limit` from `now` and this. Only a limit of the
    /// policy's own is one of `scope`: when this is earlier, the whole call's
    /// time is up.
    #[inline]
    fn or_earlier(self, scope: TimeoutScope, limit: Limit, now: Instant) -> Self {
        // Both are years from the end of time.
        let own = now.as_nanos() + limit.0;
        if self.at.as_nanos() >= own {
            let scope = match scope {
                TimeoutScope::Total => TOTAL,
                TimeoutScope::Attempt => ATTEMPT,
            };
            return Self {
                at: Instant::from_nanos(own),
                whose: scope + limit.0 * LIMIT,
            };
        }
        if self.is_enforced() {
            return self;
        }
        let left = self.at.as_nanos().saturating_sub(now.as_nanos());
        Self {
            at: self.at,
            whose: TOTAL + left * LIMIT,
        }
    }
}

/// A time in nanoseconds, within the [`HORIZON`].
#[derive(Clone, Copy, Debug)]
struct Limit(u64);

impl Limit {
    fn new(limit: Duration) -> Self {
        Self(clock::nanos(limit.min(HORIZON)))
    }
}

/// A [`Limit`] that may be changed. Clones share it.
#[derive(Clone, Debug)]
struct SharedLimit(Arc<AtomicU64>);

impl SharedLimit {
    fn new(limit: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(Limit::new(limit).0)))
    }

    #[inline]
    fn limit(&self) -> Limit {
        Limit(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, limit: Duration) {
        self.0.store(Limit::new(limit).0, Ordering::Relaxed);
    }
}

/// Ends calls some time after they began, or when their own deadline says.
/// Goes outside everything that waits or tries again. Clones share the limit.
#[derive(Clone, Debug)]
pub struct TotalDeadline(SharedLimit);

/// Ends attempts some time after they began, or when the deadline of the whole
/// call says. Goes inside retry, breaker and bulkhead: a timeout is a failure,
/// and frees the slot. Clones share the limit.
#[derive(Clone, Debug)]
pub struct AttemptDeadline(SharedLimit);

impl TotalDeadline {
    /// Ends calls `limit` after they began, which may be up to a year.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self(SharedLimit::new(limit))
    }

    /// Goes on with `limit`, for calls to come; those under way keep theirs.
    pub fn reconfigure(&self, limit: Duration) {
        self.0.set(limit);
    }
}

impl AttemptDeadline {
    /// Ends attempts `limit` after they began, which may be up to a year.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self(SharedLimit::new(limit))
    }

    /// Goes on with `limit`, for attempts to come; those under way keep theirs.
    pub fn reconfigure(&self, limit: Duration) {
        self.0.set(limit);
    }
}

/// [`TotalDeadline`] alone, as a layer.
///
/// Needs a runtime with time enabled.
pub type TotalDeadlineLayer<C> = Policies<C, TotalDeadline>;

/// [`AttemptDeadline`] alone, as a layer.
///
/// Needs a runtime with time enabled.
pub type AttemptDeadlineLayer<C> = Policies<C, (), Once, AttemptDeadline>;

impl<C> TotalDeadlineLayer<C> {
    /// Ends calls `total` after they began, or when their own deadline says.
    pub fn new(total: Duration, classify: C) -> Self {
        Self::assemble(classify, TotalDeadline::new(total), Once, ())
    }
}

impl<C> AttemptDeadlineLayer<C> {
    /// Ends attempts `attempt` after they began, or when the deadline of the
    /// whole call says.
    pub fn new(attempt: Duration, classify: C) -> Self {
        Self::assemble(classify, (), Once, AttemptDeadline::new(attempt))
    }
}

/// Refuses a call whose time was up before it began.
#[inline]
fn admit(call: &mut Call, scope: TimeoutScope, limit: Limit) -> Poll<Result<(), Refusal>> {
    let now = call.now();
    let deadline = call.deadline().or_earlier(scope, limit, now);
    call.set_deadline(deadline);
    if deadline.at <= now
        && let Some(refusal) = deadline.refusal()
    {
        return Poll::Ready(Err(refusal));
    }
    Poll::Ready(Ok(()))
}

impl<Req, Res, Err> Admission<Req, Res, Err> for TotalDeadline {
    type Hold = ();

    const PER_ATTEMPT: bool = false;

    const WAITS: bool = false;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        (): &mut (),
        call: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        admit(call, TimeoutScope::Total, self.0.limit())
    }

    #[inline]
    fn settle(&self, (): &mut (), _: &mut Call, _: &End<'_, Res, Err>) {}
}

impl<Req, Res, Err> Admission<Req, Res, Err> for AttemptDeadline {
    type Hold = ();

    const PER_CALL: bool = false;

    const WAITS: bool = false;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        (): &mut (),
        call: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        admit(call, TimeoutScope::Attempt, self.0.limit())
    }

    #[inline]
    fn settle(&self, (): &mut (), _: &mut Call, _: &End<'_, Res, Err>) {}
}

#[cfg(test)]
mod tests;
