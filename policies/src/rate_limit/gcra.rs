//! Token buckets: `governor`'s GCRA, on the instant that the caller has
//! already read.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};

use super::{Rate, tenants::TenantStore};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Shows `governor` the time that [`at`] was given. Decisions so take `now`
/// as an argument, as they do everywhere in this crate, and no call pays for
/// reading the clock twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenClock;

impl Clock for GivenClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(NOW.get())
    }
}

fn at<T>(now: u64, decide: impl FnOnce() -> T) -> T {
    NOW.set(now);
    decide()
}

type Limiter<K, S> = RateLimiter<K, S, GivenClock, NoOpMiddleware<Nanos>>;

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket(Limiter<NotKeyed, InMemoryState>);

impl Bucket {
    pub(super) fn new(rate: &Rate) -> Self {
        Self(limiter(rate, InMemoryState::default()))
    }

    /// Takes a token, or says how long until there is one. `now` is in
    /// nanoseconds from a fixed origin.
    #[inline]
    pub(super) fn take(&self, now: u64) -> Result<(), Duration> {
        at(now, || self.0.check()).map_err(|until| wait(&until, now))
    }
}

/// One bucket for each tenant, but never more than a fixed number: the
/// tenants beyond it share one.
#[derive(Debug)]
pub(super) struct TenantBuckets(Limiter<u64, TenantStore>);

impl TenantBuckets {
    pub(super) fn new(rate: &Rate, keys_max: usize) -> Self {
        Self(limiter(rate, TenantStore::new(keys_max)))
    }

    /// Takes a token of `tenant`'s, or says how long until there is one.
    pub(super) fn take(&self, tenant: u64, now: u64) -> Result<(), Duration> {
        at(now, || self.0.check_key(&tenant)).map_err(|until| wait(&until, now))
    }
}

/// The limiters count from zero: the origin of the `now` that they are given.
fn limiter<K, S: StateStore<Key = K>>(rate: &Rate, state: S) -> Limiter<K, S> {
    at(0, || RateLimiter::new(quota(rate), state, GivenClock))
}

fn quota(rate: &Rate) -> Quota {
    // `Rate::validate` keeps the interval above zero; a nanosecond is the
    // least that `governor` tells apart.
    let interval = rate.interval().max(Duration::from_nanos(1));
    let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MAX));
    quota.allow_burst(rate.burst_or_default())
}

fn wait(until: &NotUntil<Nanos>, now: u64) -> Duration {
    until
        .earliest_possible()
        .duration_since(Nanos::new(now))
        .into()
}
