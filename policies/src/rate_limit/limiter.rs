//! The buckets of a rate limiter, and the queue before them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    Rate, RateLimitConfig,
    gcra::{Bucket, TenantBuckets},
};
use crate::{
    admission::Call,
    clock::{self, Instant},
    config::ConfigError,
    refusal::Refusal,
};

/// The buckets and the queue before them. Clones share both.
#[derive(Clone, Debug)]
pub struct RateLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tenants: Option<TenantBuckets>,
    overall: Option<Line>,
    max_wait: Duration,
}

/// The overall bucket and those who wait for it.
#[derive(Debug)]
struct Line {
    bucket: Bucket,
    interval: Duration,
    queue_max: usize,
    /// The first in the queue holds this, and it is fair.
    head: Semaphore,
    queued: AtomicUsize,
    /// About when the first in the queue may go, in nanoseconds.
    next: AtomicU64,
}

/// A place in the queue, given up when dropped.
pub(super) struct Queued {
    limiter: RateLimiter,
    until: Instant,
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(line) = &self.limiter.0.overall {
            line.queued.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A wait for a token. Waiting is the exception, so it may cost an allocation.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What becomes of a call that just came.
pub(super) enum Turn {
    Now,
    Later(Queued),
    Never(Refusal),
}

impl RateLimiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RateLimitConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let line = |rate: Rate| Line {
            bucket: Bucket::new(&rate),
            interval: rate.interval(),
            queue_max: config.max_queue.get(),
            head: Semaphore::new(1),
            queued: AtomicUsize::new(0),
            next: AtomicU64::new(0),
        };
        Ok(Self(Arc::new(Shared {
            tenants: config
                .per_tenant
                .map(|rate| TenantBuckets::new(&rate, config.max_tenants.get())),
            overall: config.overall.map(line),
            max_wait: config.max_wait,
        })))
    }

    /// Takes a token for one call of `tenant`'s at `now`, without waiting.
    ///
    /// # Errors
    ///
    /// Says how long until there may be a token.
    pub fn try_take(&self, tenant: u64, now: Instant) -> Result<(), Duration> {
        let nanos = now.as_nanos();
        if let Some(tenants) = &self.0.tenants {
            tenants.take(tenant, nanos)?;
        }
        self.0
            .overall
            .as_ref()
            .map_or(Ok(()), |line| line.take(nanos))
    }

    /// Calls that wait for a token.
    #[must_use]
    pub fn queued(&self) -> usize {
        let queued = |line: &Line| line.queued.load(Ordering::Relaxed);
        self.0.overall.as_ref().map_or(0, queued)
    }

    #[inline]
    pub(super) fn admit(&self, call: &mut Call) -> Turn {
        let refuse = |retry_after| Turn::Never(Refusal::RateLimited { retry_after });
        if self.0.tenants.is_none() && self.0.overall.is_none() {
            return Turn::Now;
        }
        let (tenant, now) = (call.tenant(), call.now());
        let nanos = now.as_nanos();
        if let Some(tenants) = &self.0.tenants
            && let Err(retry_after) = tenants.take(tenant, nanos)
        {
            return refuse(retry_after);
        }
        let Some(line) = &self.0.overall else {
            return Turn::Now;
        };
        let Err(wait) = line.take(nanos) else {
            return Turn::Now;
        };
        let until = clock::after(now, self.0.max_wait);
        let until = call.deadline().at().min(until);
        // Whoever would wait in vain is told at once.
        if clock::after(now, wait) > until || !line.join_queue() {
            return refuse(wait);
        }
        let limiter = self.clone();
        Turn::Later(Queued { limiter, until })
    }
}

impl Line {
    /// Takes a token, but none that those who wait are due; or says how long
    /// until a token would be left for a newcomer.
    #[inline]
    fn take(&self, now: u64) -> Result<(), Duration> {
        if self.queued.load(Ordering::Relaxed) > 0 {
            return Err(self.backlog(now));
        }
        self.bucket.take(now).inspect_err(|wait| {
            let next = now.saturating_add(clock::nanos(*wait));
            self.next.store(next, Ordering::Relaxed);
        })
    }

    /// How long until everybody in the queue will have been served, and there
    /// is a token for another.
    fn backlog(&self, now: u64) -> Duration {
        let first = Duration::from_nanos(self.next.load(Ordering::Relaxed).saturating_sub(now));
        let ahead = u32::try_from(self.queued.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        first.saturating_add(self.interval.saturating_mul(ahead))
    }

    fn join_queue(&self) -> bool {
        let more = |queued: usize| (queued < self.queue_max).then_some(queued + 1);
        self.queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Waits for the turn, then for a token.
    async fn wait(&self) {
        // The semaphore is never closed; if it were, there would be no order.
        let _head = self.head.acquire().await.ok();
        loop {
            let next = self.next.load(Ordering::Relaxed);
            sleep(Instant::from_nanos(next) - clock::now()).await;
            let now = clock::now().as_nanos();
            match self.bucket.take(now) {
                Ok(()) => {
                    let interval = clock::nanos(self.interval);
                    self.next.fetch_add(interval, Ordering::Relaxed);
                    return;
                }
                Err(wait) => self
                    .next
                    .store(now.saturating_add(clock::nanos(wait)), Ordering::Relaxed),
            }
        }
    }
}

impl Queued {
    pub(super) fn wait(self) -> Wait {
        Box::pin(async move {
            let Some(line) = &self.limiter.0.overall else {
                return Ok(());
            };
            timeout(self.until - clock::now(), line.wait())
                .await
                .map_err(|_| {
                    let retry_after = line.backlog(clock::now().as_nanos());
                    Refusal::RateLimited { retry_after }
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    /// Ten calls a second.
    fn limiter(burst: Option<u32>, per_tenant: Option<u32>) -> RateLimiter {
        let rate = |calls: u32, burst: Option<u32>| Rate {
            calls: NonZeroU32::new(calls).unwrap(),
            per: Duration::from_secs(1),
            burst: burst.and_then(NonZeroU32::new),
        };
        RateLimiter::new(RateLimitConfig {
            overall: Some(rate(10, burst)),
            per_tenant: per_tenant.map(|calls| rate(calls, Some(calls))),
            ..RateLimitConfig::default()
        })
        .unwrap()
    }

    fn taken(limiter: &RateLimiter, tenant: u64, now: Instant) -> usize {
        (0..1000)
            .filter(|_| limiter.try_take(tenant, now).is_ok())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_what_was_asked_for_and_little_unless_asked() {
        let now = clock::now();

        assert_eq!(taken(&limiter(None, None), 0, now), 1);
        assert_eq!(taken(&limiter(Some(10), None), 0, now), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_comes_back_on_time_and_not_before() {
        let start = clock::now();
        let limiter = limiter(None, None);
        assert_eq!(limiter.try_take(0, start), Ok(()));

        let tick = Duration::from_nanos(1);
        assert_eq!(limiter.try_take(0, start), Err(TENTH));
        assert_eq!(limiter.try_take(0, start + (TENTH - tick)), Err(tick));
        assert_eq!(limiter.try_take(0, start + TENTH), Ok(()));
    }

    /// Ten calls a second with a burst of ten: thirty take two seconds.
    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_time() {
        let start = clock::now();
        let limiter = limiter(Some(10), None);
        let by = |seconds: u32| {
            (0..=seconds * 10)
                .map(|tenth| taken(&limiter, 0, start + tenth * TENTH))
                .sum::<usize>()
        };

        assert_eq!(by(2), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_greedy_tenant_takes_its_share_and_leaves_the_rest() {
        let now = clock::now();
        let limiter = limiter(Some(10), Some(4));

        assert_eq!(taken(&limiter, 1, now), 4);
        assert_eq!(taken(&limiter, 2, now), 4);
        assert_eq!(taken(&limiter, 3, now), 2, "there are ten for all");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_there_is_no_limit() {
        let limiter = RateLimiter::new(RateLimitConfig::default()).unwrap();

        assert_eq!(taken(&limiter, 0, clock::now()), 1000);
    }
}
