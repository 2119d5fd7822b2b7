//! Token buckets: `governor`'s GCRA, on the instant that the caller has
//! already read, and on state of our own, so that a changed rate can take it
//! over.

use std::{
    cell::Cell,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use super::{Rate, tenants::TenantStore};
use crate::clock;

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

/// When a bucket will be full again, which is all there is to know of one;
/// zero for one that nothing was ever taken from.
#[derive(Debug, Default)]
pub(super) struct FullAt {
    nanos: AtomicU64,
    /// How often somebody asked for a token.
    #[cfg(test)]
    asked: AtomicU64,
}

impl FullAt {
    /// Has `decide` replace the time, unless it refuses to.
    pub(super) fn decide<T, E>(
        &self,
        decide: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        #[cfg(test)]
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut known = self.nanos.load(Ordering::Relaxed);
        loop {
            let (decision, next) = decide((known != 0).then(|| Nanos::new(known)))?;
            // Relaxed: no other memory hangs on it.
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self
                .nanos
                .compare_exchange_weak(known, next.as_u64(), success, failure)
            {
                Ok(_) => return Ok(decision),
                Err(now) => known = now,
            }
        }
    }

    /// Changes the time, unless nothing was ever taken.
    pub(super) fn change(&self, mut change: impl FnMut(u64) -> u64) {
        let change = |known| (known != 0).then(|| change(known));
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.nanos.fetch_update(success, failure, change);
    }
}

/// The state of one bucket, for `governor`.
#[derive(Clone, Debug, Default)]
struct OneState(Arc<FullAt>);

impl StateStore for OneState {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.decide(decide)
    }
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Nanoseconds from one token to the next.
    pub(super) interval: u64,
    pub(super) burst: NonZeroU32,
}

impl Pace {
    pub(super) fn of(rate: &Rate) -> Self {
        Self {
            // `Rate::validate` keeps it above zero; a nanosecond is the least
            // that `governor` tells apart.
            interval: clock::nanos(rate.interval()).max(1),
            burst: rate.burst_or_default(),
        }
    }

    /// How long an empty bucket takes to be full.
    fn refill(self) -> u64 {
        self.interval.saturating_mul(self.burst.get().into())
    }

    fn quota(self) -> Quota {
        let quota = Quota::with_period(Duration::from_nanos(self.interval));
        quota
            .unwrap_or(Quota::per_second(NonZeroU32::MAX))
            .allow_burst(self.burst)
    }

    /// When a bucket that would have been full at `full_at` is full at this
    /// pace instead of `before`, with as many tokens missing. No more can be
    /// missing than it holds.
    pub(super) fn take_over(self, full_at: u64, before: Self, now: u64) -> u64 {
        let missing = u128::from(full_at.saturating_sub(now));
        let missing = missing * u128::from(self.interval) / u128::from(before.interval);
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        now.saturating_add(missing.min(self.refill()))
    }
}

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    limiter: Limiter<NotKeyed, OneState>,
    state: OneState,
    pace: Pace,
}

impl Bucket {
    pub(super) fn new(rate: &Rate) -> Self {
        Self::with(Pace::of(rate), OneState::default())
    }

    fn with(pace: Pace, state: OneState) -> Self {
        Self {
            limiter: limiter(pace, state.clone()),
            state,
            pace,
        }
    }

    /// The same bucket at another rate, with as many tokens taken from it.
    /// Nothing may be taken from this one any more.
    pub(super) fn at_rate(&self, rate: &Rate, now: u64) -> Self {
        let pace = Pace::of(rate);
        let full_at = &self.state.0.nanos;
        let next = pace.take_over(full_at.load(Ordering::Relaxed), self.pace, now);
        full_at.store(next, Ordering::Relaxed);
        Self::with(pace, self.state.clone())
    }

    /// Takes a token, or says how long until there is one. `now` is in
    /// nanoseconds from a fixed origin.
    pub(super) fn take(&self, now: u64) -> Result<(), Duration> {
        at(now, || self.limiter.check()).map_err(|until| wait(&until, now))
    }

    /// Takes `tokens` together, or none of them.
    pub(super) fn take_together(&self, tokens: NonZeroU32, now: u64) -> bool {
        // The outer error says that the bucket never holds as many.
        let taken = at(now, || self.limiter.check_n(tokens));
        taken.is_ok_and(|taken| taken.is_ok())
    }

    /// Puts back a token that was taken and not used.
    pub(super) fn put_back(&self) {
        let earlier = |full_at: u64| full_at.saturating_sub(self.pace.interval);
        self.state.0.change(earlier);
    }

    /// When the next token is there; in the past, if one is.
    pub(super) fn next_at(&self) -> u64 {
        let full_at = self.state.0.nanos.load(Ordering::Relaxed);
        full_at.saturating_sub(self.pace.refill() - self.pace.interval)
    }

    /// Tokens that are there.
    pub(super) fn tokens(&self, now: u64) -> u64 {
        let full_at = self.state.0.nanos.load(Ordering::Relaxed);
        let missing = full_at.saturating_sub(now);
        self.pace.refill().saturating_sub(missing) / self.pace.interval
    }

    /// Nanoseconds from one token to the next.
    pub(super) fn interval(&self) -> u64 {
        self.pace.interval
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> u64 {
        self.state.0.asked.load(Ordering::Relaxed)
    }
}

/// One bucket for each tenant, but never more than a fixed number: the
/// tenants beyond it share one.
#[derive(Debug)]
pub(super) struct TenantBuckets {
    limiter: Limiter<u64, TenantStore>,
    store: TenantStore,
    pace: Pace,
}

impl TenantBuckets {
    pub(super) fn new(rate: &Rate, keys_max: usize) -> Self {
        Self::with(Pace::of(rate), TenantStore::new(keys_max))
    }

    fn with(pace: Pace, store: TenantStore) -> Self {
        Self {
            limiter: limiter(pace, store.clone()),
            store,
            pace,
        }
    }

    /// The same buckets at another rate, with as many tokens taken from them.
    /// Nothing may be taken from these any more.
    pub(super) fn at_rate(&self, rate: &Rate, keys_max: usize, now: u64) -> Self {
        let pace = Pace::of(rate);
        self.store
            .take_over(keys_max, |full_at| pace.take_over(full_at, self.pace, now));
        Self::with(pace, self.store.clone())
    }

    /// Takes a token of `tenant`'s, or says how long until there is one.
    pub(super) fn take(&self, tenant: u64, now: u64) -> Result<(), Duration> {
        at(now, || self.limiter.check_key(&tenant)).map_err(|until| wait(&until, now))
    }

    /// When the bucket of `tenant` will be full, if nothing more is taken.
    pub(super) fn full_at(&self, tenant: u64) -> u64 {
        let mut full_at = 0;
        self.store.change(tenant, |known| {
            full_at = known;
            known
        });
        full_at
    }

    /// Puts back a token of `tenant`'s that was not used, or as much of it as
    /// is not there again at `now`: all of it would have been at `back_at`.
    pub(super) fn put_back(&self, tenant: u64, back_at: u64, now: u64) {
        let missing = back_at.saturating_sub(now).min(self.pace.interval);
        if missing > 0 {
            let earlier = |full_at: u64| full_at.saturating_sub(missing);
            self.store.change(tenant, earlier);
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Tenants that have a bucket of their own.
    pub(super) fn len(&self) -> usize {
        self.store.len()
    }
}

/// The limiters count from zero: the origin of the `now` that they are given.
fn limiter<K, S: StateStore<Key = K>>(pace: Pace, state: S) -> Limiter<K, S> {
    at(0, || RateLimiter::new(pace.quota(), state, GivenClock))
}

fn wait(until: &NotUntil<Nanos>, now: u64) -> Duration {
    until
        .earliest_possible()
        .duration_since(Nanos::new(now))
        .into()
}
