//! A call that waits wherever a call can wait, dropped after each of its polls.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use orchestrator_policies::{
    Admission, AttemptDeadline, Breaker, BreakerConfig, BreakerState, Bulkhead, BulkheadConfig,
    CatchPanic, Classify, Outcome, Policies, PolicyEvent, Rate, RateLimitConfig, RateLimiter,
    Refusal, RefusalKind, Retry, RetryBudgetConfig, RetryConfig, TotalDeadline,
    admission::{Call as Known, End},
    bulkhead::BulkheadSnapshot,
    clock,
};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

use crate::{Call, Calls, Failed, SECOND};

/// Of whose failures the breaker makes nothing, so that each attempt of one
/// call is a probe.
#[derive(Clone, Copy, Debug)]
struct Blameless;

impl Classify<Call, u32, Failed> for Blameless {
    fn refusal(&self, error: &Failed) -> Option<RefusalKind> {
        Calls.refusal(error)
    }

    fn outcome(&self, result: &Result<u32, Failed>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Ignore,
        }
    }

    fn idempotent(&self, _: &Call) -> bool {
        true
    }

    fn set_attempt(&self, call: &mut Call, attempt: u32) {
        call.attempt = attempt;
    }
}

/// Counts the calls that come this far.
#[derive(Clone, Default)]
struct Passed(Arc<AtomicU64>);

impl<Req, Res, Err> Admission<Req, Res, Err> for Passed {
    type Hold = ();

    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Known,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn settle(&self, (): &mut (), _: &mut Known, _: &End<'_, Res, Err>) {}
}

/// What a call may take from others.
struct Rig {
    limiter: RateLimiter,
    passed: Passed,
    retry: Retry,
    scheduled: Arc<AtomicU64>,
    breaker: Breaker,
    bulkhead: Bulkhead,
}

impl Rig {
    /// No token is left, the one slot is taken for two seconds, and the
    /// breaker waits for its probe.
    async fn new() -> Self {
        let rate = Rate {
            calls: NonZeroU32::MIN,
            per: SECOND,
            burst: NonZeroU32::new(10),
        };
        let limiter = RateLimiter::new(RateLimitConfig {
            overall: Some(rate),
            max_wait: 10 * SECOND,
            ..RateLimitConfig::default()
        });
        let bulkhead = Bulkhead::new(BulkheadConfig {
            max_concurrent: NonZeroUsize::MIN,
            max_queue: 1,
            max_wait: 10 * SECOND,
        });
        let retry = Retry::new(RetryConfig {
            budget: RetryBudgetConfig {
                ttl: 100 * SECOND,
                ..RetryBudgetConfig::default()
            },
            ..RetryConfig::default()
        });
        let rig = Self {
            limiter: limiter.unwrap(),
            passed: Passed::default(),
            retry: retry.unwrap().with_seed(7),
            scheduled: Arc::default(),
            breaker: Breaker::new(BreakerConfig::default()).unwrap(),
            bulkhead: bulkhead.unwrap(),
        };
        while rig.breaker.state() == BreakerState::Closed {
            let now = clock::now();
            let permit = rig.breaker.admit(now).unwrap();
            permit.record(Outcome::Failure, now);
        }
        advance(5 * SECOND).await;
        while rig.limiter.try_take(0, clock::now()).is_ok() {}
        rig
    }

    async fn call(&self) -> Result<u32, Failed> {
        let scheduled = Arc::clone(&self.scheduled);
        let listener = move |event: &PolicyEvent| {
            let is_retry = matches!(event, PolicyEvent::RetryScheduled { .. });
            scheduled.fetch_add(u64::from(is_retry), Ordering::Relaxed);
        };
        let policies = Policies::with(Blameless)
            .per_call(TotalDeadline::new(60 * SECOND))
            .per_call(self.limiter.clone())
            .per_call(self.passed.clone())
            .retry(self.retry.clone())
            .per_attempt(self.breaker.clone())
            .per_attempt(self.bulkhead.clone())
            .per_attempt(AttemptDeadline::new(10 * SECOND))
            .per_attempt(CatchPanic)
            .with_listener(Arc::new(listener));
        let service = policies.layer(service_fn(|call: Call| async move {
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(10)).await;
            match call.attempt {
                3 => Ok(3),
                _ => Err(Failed::Broken),
            }
        }));
        service.oneshot(Call::default()).await
    }

    /// What a call is doing, seen from outside.
    fn place(&self) -> &'static str {
        let probes = self.breaker.snapshot(clock::now()).probes;
        let slots = self.bulkhead.snapshot();
        match (self.limiter.snapshot(clock::now()).queued, probes) {
            (1, 0) => "waits for a token",
            (0, 1) if slots.queued == 1 => "a probe, waits for a slot",
            (0, 1) if slots.in_flight == 1 => "a probe in the service",
            (0, 0) if self.scheduled.load(Ordering::Relaxed) > 0 => "waits to be tried again",
            (0, 0) => "not begun",
            _ => "unknown",
        }
    }
}

/// Polls `future` so often at most.
async fn polled<F: Future>(future: F, most: usize, last: impl FnOnce()) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let (mut polls, mut last) = (0, Some(last));
    poll_fn(move |cx| {
        if polls < most {
            polls += 1;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if polls < most {
            return Poll::Pending;
        }
        if let Some(last) = last.take() {
            last();
        }
        Poll::Ready(None)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_after_any_poll_leaves_everything_as_it_was() {
    let mut places = BTreeSet::new();
    for most in 0.. {
        let rig = Rig::new().await;
        let start = clock::now();
        let slot = rig.bulkhead.try_enter();
        let other = tokio::spawn(async move {
            sleep(2 * SECOND).await;
            drop(slot);
        });

        let look = || {
            places.insert(rig.place());
        };
        let answer = polled(rig.call(), most, look).await;

        other.await.unwrap();
        sleep(5 * SECOND + SECOND / 2 - (clock::now() - start)).await;
        let (now, place) = (clock::now(), format!("dropped after {most} polls"));
        let nothing = BulkheadSnapshot {
            in_flight: 0,
            queued: 0,
        };
        assert_eq!(rig.bulkhead.snapshot(), nothing, "{place}");
        let limits = rig.limiter.snapshot(now);
        let passed = rig.passed.0.load(Ordering::Relaxed);
        assert_eq!(
            (limits.queued, limits.tokens),
            (0, Some(5 - passed)),
            "{place}"
        );
        let retries = rig.retry.budget(now).retries;
        assert_eq!(retries, rig.scheduled.load(Ordering::Relaxed), "{place}");
        assert_eq!(rig.breaker.snapshot(now).probes, 0, "{place}");
        let probe = rig.breaker.admit(now);
        assert!(probe.is_ok_and(|permit| permit.is_probe()), "{place}");
        if let Some(answer) = answer {
            assert_eq!(answer, Ok(3));
            assert!(most > 10, "{most} polls");
            break;
        }
    }
    let everywhere = [
        "a probe in the service",
        "a probe, waits for a slot",
        "not begun",
        "waits for a token",
        "waits to be tried again",
    ];
    assert_eq!(places.into_iter().collect::<Vec<_>>(), everywhere);
}
