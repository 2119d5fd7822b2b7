//! All policies in their order, around one service.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_policies::{
    AttemptDeadlineLayer, Breaker, BreakerConfig, BreakerLayer, BreakerState, Bulkhead,
    BulkheadConfig, BulkheadLayer, CatchPanicLayer, Rate, RateLimitConfig, RateLimitLayer,
    RateLimiter, Refusal, RetryConfig, RetryLayer, TimeoutScope, TotalDeadlineLayer,
    bulkhead::BulkheadSnapshot, clock,
};
use tokio::time::{advance, sleep, timeout};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{Call, Calls, Failed, SECOND};

/// The shared parts of one stack.
struct Stack {
    breaker: Breaker,
    bulkhead: Bulkhead,
    limiter: RateLimiter,
}

impl Stack {
    fn new() -> Self {
        let calls = NonZeroU32::new(100).unwrap();
        let rate = Rate {
            calls,
            per: SECOND,
            burst: Some(calls),
        };
        Self {
            breaker: Breaker::new(BreakerConfig::default()).unwrap(),
            bulkhead: Bulkhead::new(BulkheadConfig {
                max_concurrent: NonZeroUsize::new(4).unwrap(),
                ..BulkheadConfig::default()
            })
            .unwrap(),
            limiter: RateLimiter::new(RateLimitConfig {
                overall: Some(rate),
                ..RateLimitConfig::default()
            })
            .unwrap(),
        }
    }

    /// 10 s for all, 1 s for each of three attempts.
    fn around<S>(&self, service: S) -> BoxCloneSyncService<Call, u32, Failed>
    where
        S: Service<Call, Response = u32, Error = Failed, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let stack = ServiceBuilder::new()
            .layer(TotalDeadlineLayer::new(10 * SECOND, Calls))
            .layer(RateLimitLayer::new(self.limiter.clone(), Calls))
            .layer(
                RetryLayer::new(RetryConfig::default(), Calls)
                    .unwrap()
                    .with_seed(7),
            )
            .layer(BreakerLayer::new(self.breaker.clone(), Calls))
            .layer(BulkheadLayer::new(self.bulkhead.clone(), Calls))
            .layer(AttemptDeadlineLayer::new(SECOND, Calls))
            .layer(CatchPanicLayer::new())
            .service(service);
        BoxCloneSyncService::new(stack)
    }

    fn failures(&self) -> u64 {
        self.breaker.snapshot(clock::now()).failures
    }
}

const EMPTY: BulkheadSnapshot = BulkheadSnapshot {
    in_flight: 0,
    queued: 0,
};

/// The first attempt hangs, the second panics, the third answers.
#[tokio::test(start_paused = true)]
async fn a_call_gets_through_a_timeout_and_a_panic() {
    let stack = Stack::new();
    let service = stack.around(service_fn(|call: Call| async move {
        match call.attempt {
            1 => std::future::pending().await,
            2 => panic!("second attempt"),
            number => Ok(number),
        }
    }));

    assert_eq!(service.oneshot(Call::default()).await, Ok(3));

    let snapshot = stack.breaker.snapshot(clock::now());
    assert_eq!(
        (snapshot.requests, snapshot.failures),
        (3, 2),
        "one sample an attempt"
    );
    assert_eq!(stack.bulkhead.snapshot(), EMPTY);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_told_how_long_it_has() {
    let start = clock::now();
    let service = Stack::new().around(service_fn(move |call: Call| async move {
        let left = call.deadline.unwrap() - clock::now();
        Ok(u32::try_from(left.as_millis()).unwrap())
    }));
    let soon = start + Duration::from_millis(300);

    let first = service.clone().oneshot(Call::default()).await;
    let second = service
        .oneshot(Call {
            deadline: Some(soon),
            ..Call::default()
        })
        .await;

    assert_eq!((first, second), (Ok(1000), Ok(300)));
}

/// Retries meet the breaker they opened, and stop.
#[tokio::test(start_paused = true)]
async fn retries_end_when_the_breaker_opens() {
    let stack = Stack::new();
    let called = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&called);
    let service = stack.around(service_fn(move |_: Call| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Err(Failed::Broken) }
    }));

    assert_eq!(
        service.clone().oneshot(Call::default()).await,
        Err(Failed::Broken)
    );
    let second = service.clone().oneshot(Call::default()).await;
    let third = service.oneshot(Call::default()).await;

    for refused in [second, third] {
        assert!(
            matches!(refused, Err(Failed::Refused(Refusal::CircuitOpen { .. }))),
            "{refused:?}"
        );
    }
    assert_eq!(
        called.load(Ordering::SeqCst),
        5,
        "three attempts, then two that opened it"
    );
}

/// A full bulkhead is no fault of the service's.
#[tokio::test(start_paused = true)]
async fn overload_is_refused_without_retry_or_blame() {
    let stack = Stack::new();
    let service = stack.around(service_fn(|_: Call| async {
        sleep(SECOND / 2).await;
        Ok(1)
    }));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        calls.spawn(service.clone().oneshot(Call::default()));
    }

    let answers = calls.join_all().await;

    let answered = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = Err(Failed::Refused(Refusal::Overloaded {
        limit: 4,
        queued: 0,
    }));
    assert_eq!(
        (
            answered,
            answers.iter().filter(|answer| **answer == refused).count()
        ),
        (4, 2)
    );
    assert_eq!(stack.failures(), 0);
}

/// The caller's time is up in the middle of an attempt.
#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_callers_ends_everything_in_time() {
    let stack = Stack::new();
    let service = stack.around(service_fn(|_: Call| std::future::pending()));
    let start = clock::now();
    let limit = 3 * SECOND / 2;

    let answer = service
        .oneshot(Call {
            deadline: Some(start + limit),
            ..Call::default()
        })
        .await;

    assert!(
        matches!(
            answer,
            Err(Failed::Refused(Refusal::Timeout {
                scope: TimeoutScope::Total,
                ..
            }))
        ),
        "{answer:?}"
    );
    assert_eq!(clock::now() - start, limit);
    assert_eq!(
        stack.failures(),
        2,
        "one attempt took too long, one was cut off"
    );
    assert_eq!(stack.bulkhead.snapshot(), EMPTY);
}

/// Dropped after any number of milliseconds: while it is called, waits to be
/// tried again, or is a probe.
#[tokio::test(start_paused = true)]
async fn a_call_dropped_anywhere_leaves_nothing_behind() {
    let stack = Stack::new();
    let service = stack.around(service_fn(|call: Call| async move {
        sleep(Duration::from_millis(20)).await;
        if call.attempt == 3 {
            Ok(3)
        } else {
            Err(Failed::Broken)
        }
    }));
    for millis in 0..400 {
        let call = service.clone().oneshot(Call::default());
        let _ = timeout(Duration::from_millis(millis), call).await;

        assert_eq!(stack.bulkhead.snapshot(), EMPTY, "after {millis} ms");
        assert_eq!(
            stack.breaker.snapshot(clock::now()).probes,
            0,
            "after {millis} ms"
        );
        assert_eq!(
            stack.limiter.snapshot(clock::now()).queued,
            0,
            "after {millis} ms"
        );
        advance(SECOND).await;
    }
}

/// An outage of ten minutes, replayed at once.
#[tokio::test(start_paused = true)]
async fn an_outage_is_survived_with_few_calls_and_no_help() {
    let stack = Stack::new();
    let called = Arc::new(AtomicU32::new(0));
    let (counter, start) = (Arc::clone(&called), clock::now());
    let service = stack.around(service_fn(move |_: Call| {
        counter.fetch_add(1, Ordering::SeqCst);
        let down = clock::now() - start < 600 * SECOND;
        async move { if down { Err(Failed::Broken) } else { Ok(1) } }
    }));
    while clock::now() - start < 600 * SECOND {
        assert!(service.clone().oneshot(Call::default()).await.is_err());
        advance(SECOND / 2).await;
    }
    let during = called.load(Ordering::SeqCst);
    assert!(
        (10..50).contains(&during),
        "1,200 calls reached the service {during} times"
    );

    let mut waited = Duration::ZERO;
    while stack.breaker.state() != BreakerState::Closed {
        assert!(waited <= 61 * SECOND, "the longest rest is a minute");
        let _ = service.clone().oneshot(Call::default()).await;
        advance(SECOND / 2).await;
        waited += SECOND / 2;
    }
    assert_eq!(service.oneshot(Call::default()).await, Ok(1));
}
