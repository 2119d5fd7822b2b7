//! Bounds how often a service is called.
//!
//! For: keeping within what a service, or somebody's contract with it,
//! allows; and keeping one tenant from taking all of it.
//!
//! Not for: protecting a service that gets slow. A rate says nothing about
//! how many calls are in flight; that is the bulkhead's.
//!
//! Tokens come back evenly and a few may be saved up (GCRA). Goes outside
//! retry: one request costs one token. A tenant's tokens are taken before
//! those of all, so that a tenant that asks too often uses up nobody else's.
//! A call that is then not let in, or is dropped while it waits, gives its
//! tenant's token back, unless that has come back by itself meanwhile or the
//! rate of tenants was changed.
//!
//! When there is no token for all, calls may wait in line: first come, first
//! served, and whoever would wait in vain is told at once. A tenant beyond its
//! own rate is always refused at once, for it should not fill that line.
//!
//! At high rates each thread borrows a few tokens at once, for ten milliseconds
//! at most (`lease.rs`), so that threads do not meet at the bucket for every
//! call. Together they have no more on loan than a quarter of what the rate
//! gives in that time, and of the burst.

mod alarm;
mod gcra;
mod lease;
mod limiter;
mod line;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod runtime_tests;
mod tenants;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trap_tests;
#[cfg(test)]
mod unused_tests;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::limiter::Wait;
pub use self::limiter::{RateLimitSnapshot, RateLimiter};
use crate::{
    admission::{Admission, Call, End},
    clock,
    config::{ConfigError, check_time},
    refusal::Refusal,
    retry::Once,
    stack::Policies,
};

/// How often a service may be called. There is no limit by default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitConfig {
    /// How often by all callers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overall: Option<Rate>,
    /// How often on behalf of each tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant: Option<Rate>,
    /// Tenants whose calls are counted apart. Those beyond share one count.
    pub max_tenants: NonZeroUsize,
    /// How long a call may wait for the overall rate. No time by default: a
    /// call that comes too soon is refused at once.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Calls that may wait together, if any may.
    pub max_queue: NonZeroUsize,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            overall: None,
            per_tenant: None,
            max_tenants: NonZeroUsize::MIN.saturating_add(99_999),
            max_wait: Duration::ZERO,
            max_queue: NonZeroUsize::MIN.saturating_add(1_023),
        }
    }
}

/// A number of calls for a time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Calls that are allowed in `per`, evenly spread.
    pub calls: NonZeroU32,
    /// The time. A second unless set.
    #[serde(with = "humantime_serde", default = "second")]
    pub per: Duration,
    /// Calls that may come at once after a quiet time. Unless set, what the
    /// rate gives in a tenth of a second, and at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
}

fn second() -> Duration {
    Duration::from_secs(1)
}

impl Rate {
    /// The time between two calls at this rate.
    fn interval(&self) -> Duration {
        self.per / self.calls.get()
    }

    fn burst_or_default(&self) -> NonZeroU32 {
        self.burst.unwrap_or_else(|| {
            let tenth = Duration::from_millis(100).as_nanos() / self.interval().as_nanos().max(1);
            let calls = u32::try_from(tenth).unwrap_or(u32::MAX);
            NonZeroU32::new(calls).unwrap_or(NonZeroU32::MIN)
        })
    }

    fn validate(&self, key: &'static str) -> Result<(), ConfigError> {
        check_time(key, self.per, Duration::from_nanos(1))?;
        if self.interval() < Duration::from_nanos(100) {
            let problem = format!(
                "allows {} calls in {:?}, which is as good as any number",
                self.calls, self.per
            );
            return Err(ConfigError::new(
                key,
                problem,
                "leave the limit out, or allow at most 10 million calls a second",
            ));
        }
        let refill = self.interval().checked_mul(self.burst_or_default().get());
        if refill.is_none_or(|refill| refill > clock::HORIZON) {
            return Err(ConfigError::new(
                key,
                "takes over 365 days to allow its burst again",
                "lower `burst`",
            ));
        }
        Ok(())
    }
}

impl RateLimitConfig {
    /// Checks that these limits can work.
    ///
    /// # Errors
    ///
    /// Names the limit that is out of range, or that has no effect because
    /// another is missing.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(rate) = &self.overall {
            rate.validate("overall")?;
        }
        if let Some(rate) = &self.per_tenant {
            rate.validate("per_tenant")?;
        }
        if self.max_wait.is_zero() {
            return Ok(());
        }
        if self.overall.is_none() {
            let help = "set `overall`, or leave `max_wait` out";
            return Err(ConfigError::new(
                "max_wait",
                "has no effect without `overall`",
                help,
            ));
        }
        check_time("max_wait", self.max_wait, Duration::from_millis(1))
    }
}

/// A [`RateLimiter`] alone, as a layer.
///
/// A token is taken when the call is first polled. A call that is refused, or
/// dropped while it waits, has used none, neither of all nor of its tenant.
pub type RateLimitLayer<C> = Policies<C, RateLimiter>;

impl<C> RateLimitLayer<C> {
    /// Sends every service that this layer wraps through `limiter`.
    pub fn new(limiter: RateLimiter, classify: C) -> Self {
        Self::assemble(classify, limiter, Once, ())
    }
}

/// A call's place in the line, if it has one.
#[derive(Debug, Default)]
pub struct Hold(Option<Wait>);

/// Refuses with [`Refusal::RateLimited`] when calls come too fast.
impl<Req, Res, Err> Admission<Req, Res, Err> for RateLimiter {
    type Hold = Hold;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if hold.0.is_none() && self.admit_at_once(call) {
            return Poll::Ready(Ok(()));
        }
        self.poll_turn(hold, call, cx)
    }

    #[inline]
    fn settle(&self, hold: &mut Hold, _: &mut Call, _: &End<'_, Res, Err>) {
        if let Some(wait) = hold.0.take() {
            self.give_up(&wait);
        }
    }
}

impl RateLimiter {
    /// Ready when a call that was not let in at once has its token, or would
    /// wait too long for it.
    #[cold]
    fn poll_turn(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if hold.0.is_none() {
            hold.0 = self.admit(call, cx)?;
        }
        if let Some(wait) = &mut hold.0 {
            let admitted = ready!(self.poll_wait(wait, cx));
            hold.0 = None;
            admitted?;
        }
        Poll::Ready(Ok(()))
    }
}
