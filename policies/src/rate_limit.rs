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
//! those of all, so that a tenant that asks too often uses up nobody else's;
//! a call that then finds no token left for all does not get its tenant's
//! token back.
//!
//! When there is no token for all, calls may queue: first come, first served,
//! and only the first of them has a timer. A tenant beyond its own rate is
//! always refused at once, for it should not fill that queue.

mod gcra;
mod limiter;
mod tenants;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::limiter::RateLimiter;
use self::limiter::{Turn, Wait};
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
/// A token is taken when the call is first polled. A call that is dropped
/// while it waits has taken none.
pub type RateLimitLayer<C> = Policies<C, RateLimiter>;

impl<C> RateLimitLayer<C> {
    /// Sends every service that this layer wraps through `limiter`.
    pub fn new(limiter: RateLimiter, classify: C) -> Self {
        Self::assemble(classify, limiter, Once, ())
    }
}

/// A call's place in the queue, if it has one.
#[derive(Default)]
pub struct Hold(Option<Wait>);

/// Refuses with [`Refusal::RateLimited`] when calls come too fast.
impl<Req, Res, Err> Admission<Req, Res, Err> for RateLimiter {
    type Hold = Hold;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if hold.0.is_none() {
            match self.admit(call) {
                Turn::Now => return Poll::Ready(Ok(())),
                Turn::Never(refusal) => return Poll::Ready(Err(refusal)),
                Turn::Later(place) => hold.0 = Some(place.wait()),
            }
        }
        if let Some(wait) = &mut hold.0 {
            ready!(wait.as_mut().poll(cx))?;
            hold.0 = None;
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn settle(&self, hold: &mut Hold, _: &mut Call, _: &End<'_, Res, Err>) {
        hold.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        sync::mpsc,
        time::{advance, timeout},
    };
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::testing::{Ask, Fault, Script, Tester, recorder};

    const TENTH: Duration = Duration::from_millis(100);

    /// Ten calls a second, one at a time.
    fn limiter(max_wait: Duration, max_queue: usize) -> RateLimiter {
        RateLimiter::new(RateLimitConfig {
            overall: Some(Rate {
                calls: NonZeroU32::new(10).unwrap(),
                per: Duration::from_secs(1),
                burst: None,
            }),
            max_wait,
            max_queue: NonZeroUsize::new(max_queue).unwrap(),
            ..RateLimitConfig::default()
        })
        .unwrap()
    }

    fn limited(retry_after: Duration) -> Result<u32, Fault> {
        Err(Fault::Refused(Refusal::RateLimited { retry_after }))
    }

    fn endless() -> Script {
        Script::answers(vec![Ok(1); 1000])
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_at_once_unless_told_to_wait() {
        let (listener, events) = recorder();
        let script = endless();
        let service = RateLimitLayer::new(limiter(Duration::ZERO, 1), Tester)
            .with_listener(listener)
            .layer(script.clone());
        let ask = || service.clone().oneshot(Ask::default());

        assert_eq!(ask().await, Ok(1));
        assert_eq!(ask().await, limited(TENTH));
        advance(TENTH).await;
        assert_eq!(ask().await, Ok(1));

        assert_eq!(script.calls(), 2);
        assert_eq!(events.names(), ["refused rate_limited"]);
    }

    /// Whoever would wait in vain is not kept waiting.
    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_deadline_is_refused_before_it_begins() {
        let start = clock::now();
        let service =
            RateLimitLayer::new(limiter(Duration::from_secs(9), 9), Tester).layer(endless());
        let ask = |left| service.clone().oneshot(Ask::default().until(start + left));
        assert_eq!(ask(TENTH).await, Ok(1));

        assert_eq!(ask(TENTH - Duration::from_millis(1)).await, limited(TENTH));
        assert_eq!(clock::now(), start, "no time has passed");
        assert_eq!(ask(TENTH).await, Ok(1));
        assert_eq!(clock::now() - start, TENTH);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_allowed_and_no_longer() {
        let start = clock::now();
        let service = RateLimitLayer::new(limiter(2 * TENTH, 9), Tester).layer(endless());
        let ask = || service.clone().oneshot(Ask::default());
        assert_eq!(ask().await, Ok(1));

        let (second, third, fourth) = tokio::join!(ask(), ask(), ask());

        assert_eq!((second, third), (Ok(1), Ok(1)));
        assert_eq!(
            fourth,
            limited(3 * TENTH),
            "its turn would come after three tenths"
        );
        assert_eq!(clock::now() - start, 2 * TENTH);
    }

    /// It would fill the queue that is meant for all.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_beyond_its_own_rate_is_refused_at_once() {
        let per_tenant = Rate {
            calls: NonZeroU32::MIN,
            per: Duration::from_secs(1),
            burst: None,
        };
        let overall = Some(Rate {
            calls: NonZeroU32::new(10).unwrap(),
            ..per_tenant.clone()
        });
        let config = RateLimitConfig {
            overall,
            per_tenant: Some(per_tenant),
            max_wait: Duration::from_secs(9),
            ..RateLimitConfig::default()
        };
        let service =
            RateLimitLayer::new(RateLimiter::new(config).unwrap(), Tester).layer(endless());
        let start = clock::now();
        let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));

        assert_eq!(ask(1).await, Ok(1));
        assert_eq!(ask(1).await, limited(Duration::from_secs(1)));
        assert_eq!(clock::now(), start, "it did not wait");
        assert_eq!(ask(2).await, Ok(1));
        assert_eq!(
            clock::now(),
            start + TENTH,
            "the other waits for the overall rate"
        );
    }

    /// The one that leaves gives up its place, and nobody is overtaken.
    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_fair_and_survives_leavers() {
        let limiter = limiter(Duration::from_secs(9), 3);
        let (sender, mut order) = mpsc::unbounded_channel();
        let service =
            RateLimitLayer::new(limiter.clone(), Tester).layer(service_fn(move |ask: Ask| {
                sender.send((ask.tenant, clock::now())).unwrap();
                async { Ok::<u32, Fault>(0) }
            }));
        let start = clock::now();
        let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));
        assert_eq!(ask(0).await, Ok(0));
        let mut tasks = Vec::new();
        for tenant in 1..=3 {
            tasks.push(tokio::spawn(ask(tenant)));
            tokio::task::yield_now().await;
        }
        assert_eq!(limiter.queued(), 3);
        assert_eq!(ask(4).await, limited(4 * TENTH), "the queue is full");

        tasks.remove(0).abort();
        tokio::task::yield_now().await;
        assert_eq!(limiter.queued(), 2);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(0));
        }

        assert_eq!(order.recv().await, Some((0, start)));
        assert_eq!(order.recv().await, Some((2, start + TENTH)));
        assert_eq!(order.recv().await, Some((3, start + 2 * TENTH)));
        assert_eq!(limiter.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_while_it_waits_takes_no_token() {
        let start = clock::now();
        let limiter = limiter(Duration::from_secs(9), 9);
        let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
        let ask = || service.clone().oneshot(Ask::default());
        assert_eq!(ask().await, Ok(1));

        let left = timeout(TENTH / 2, ask()).await;

        assert!(left.is_err());
        assert_eq!(limiter.queued(), 0);
        assert_eq!(ask().await, Ok(1));
        assert_eq!(clock::now() - start, TENTH);
    }

    #[test]
    fn rates_that_cannot_work_are_named() {
        let rate = |calls, per, burst| Rate {
            calls: NonZeroU32::new(calls).unwrap(),
            per,
            burst: NonZeroU32::new(burst),
        };
        let key = |overall: Option<Rate>, per_tenant: Option<Rate>, max_wait| {
            let config = RateLimitConfig {
                overall,
                per_tenant,
                max_wait,
                ..RateLimitConfig::default()
            };
            config.validate().map_err(|error| error.key)
        };
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));

        assert_eq!(key(None, None, Duration::ZERO), Ok(()));
        assert_eq!(key(Some(rate(10_000_000, second, 0)), None, second), Ok(()));
        assert_eq!(
            key(Some(rate(10_000_001, second, 0)), None, second),
            Err("overall")
        );
        assert_eq!(
            key(None, Some(rate(1, Duration::ZERO, 0)), Duration::ZERO),
            Err("per_tenant")
        );
        assert_eq!(key(None, Some(rate(1, day, 365)), Duration::ZERO), Ok(()));
        assert_eq!(
            key(None, Some(rate(1, day, 366)), Duration::ZERO),
            Err("per_tenant")
        );
        assert_eq!(key(None, None, second), Err("max_wait"));
    }
}
