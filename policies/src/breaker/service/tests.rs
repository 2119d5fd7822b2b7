//! The breaker around a service.

use std::{num::NonZeroUsize, time::Duration};

use tokio::time::{advance, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    breaker::{BreakerConfig, BreakerSnapshot, BreakerState},
    bulkhead::{Bulkhead, BulkheadConfig},
    clock,
    config::Ratio,
    deadline::TotalDeadline,
    refusal::TimeoutScope,
    testing::{Ask, Fault, Script, Tester, recorder},
};

const SECOND: Duration = Duration::from_secs(1);

fn breaker(change: impl FnOnce(&mut BreakerConfig)) -> Breaker {
    let mut config = BreakerConfig::default();
    change(&mut config);
    Breaker::new(config).unwrap()
}

/// What the breaker has counted after one call that ended in `result`.
async fn counted(result: Result<u32, Fault>, ask: Ask) -> (u64, u64) {
    let breaker = breaker(|_| ());
    let service =
        BreakerLayer::new(breaker.clone(), Tester).layer(Script::answers([result.clone()]));
    assert_eq!(service.oneshot(ask).await, result);
    let BreakerSnapshot {
        requests, failures, ..
    } = breaker.snapshot(clock::now());
    (requests, failures)
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_at_once_and_says_when_to_return() {
    let (listener, events) = recorder();
    let breaker = breaker(|_| ());
    let script = Script::answers(vec![Err(Fault::Broken); 9]);
    let service = BreakerLayer::new(breaker.clone(), Tester)
        .with_listener(listener)
        .layer(script.clone());
    let ask = || service.clone().oneshot(Ask::default());

    for _ in 0..5 {
        assert_eq!(ask().await, Err(Fault::Broken));
    }
    let Err(Fault::Refused(Refusal::CircuitOpen { retry_after })) = ask().await else {
        panic!("it should be open");
    };
    assert_eq!(script.calls(), 5);
    let refused = crate::PolicyEvent::Refused {
        by: RefusalKind::CircuitOpen,
        retry_after: Some(retry_after),
    };
    assert_eq!(events.all(), [refused]);

    advance(retry_after).await;
    assert_eq!(ask().await, Err(Fault::Broken), "the probe");
    assert_eq!(script.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn only_what_tells_of_the_service_counts() {
    let ask = Ask::default;
    let timeout = |scope| {
        Fault::Refused(Refusal::Timeout {
            scope,
            limit: SECOND,
        })
    };
    let turned_away = [
        Refusal::Overloaded {
            limit: 1,
            queued: 0,
        },
        Refusal::RateLimited {
            retry_after: SECOND,
        },
        Refusal::CircuitOpen {
            retry_after: SECOND,
        },
    ];

    assert_eq!(counted(Ok(1), ask()).await, (1, 0));
    assert_eq!(counted(Err(Fault::Broken), ask()).await, (1, 1));
    assert_eq!(
        counted(Err(timeout(TimeoutScope::Attempt)), ask()).await,
        (1, 1)
    );
    assert_eq!(counted(Err(Fault::Invalid), ask()).await, (0, 0));
    for refusal in turned_away {
        assert_eq!(counted(Err(Fault::Refused(refusal)), ask()).await, (0, 0));
    }
    let soon = clock::now() + SECOND;
    assert_eq!(
        counted(Err(timeout(TimeoutScope::Total)), ask().until(soon)).await,
        (1, 1)
    );
    let past = clock::now();
    assert_eq!(
        counted(Err(timeout(TimeoutScope::Total)), ask().until(past)).await,
        (0, 0)
    );
}

/// As a total deadline around the breaker does.
#[tokio::test(start_paused = true)]
async fn a_call_cut_off_by_its_deadline_is_a_failure_and_one_given_up_is_not() {
    let failures = async |short_deadline, deadline: Duration, cut: Duration| {
        let breaker = breaker(|config| config.short_deadline = short_deadline);
        let service = BreakerLayer::new(breaker.clone(), Tester).layer(Script::hang());
        let call = service.oneshot(Ask::default().until(clock::now() + deadline));
        assert!(timeout(cut, call).await.is_err());
        breaker.snapshot(clock::now()).failures
    };

    assert_eq!(failures(Duration::ZERO, SECOND, SECOND / 2).await, 0);
    assert_eq!(failures(Duration::ZERO, SECOND, SECOND).await, 1);
    assert_eq!(
        failures(SECOND, SECOND, SECOND).await,
        0,
        "too little time to blame the service"
    );
    assert_eq!(failures(SECOND, 2 * SECOND, 2 * SECOND).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_polled_takes_no_probe() {
    let breaker = breaker(|config| config.consecutive_failures = 1.try_into().unwrap());
    let script = Script::answers([Err(Fault::Broken)]);
    let mut service = BreakerLayer::new(breaker.clone(), Tester).layer(script);
    assert_eq!(service.call(Ask::default()).await, Err(Fault::Broken));
    advance(5 * SECOND).await;

    let _call = service.call(Ask::default());
    assert_eq!(breaker.state(), BreakerState::Open);

    let hung = timeout(SECOND, service.call(Ask::default())).await;
    assert!(hung.is_err(), "the probe was let in, hung, and was dropped");
    assert_eq!(breaker.snapshot(clock::now()).probes, 0);
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let breaker = breaker(|_| ());
    let service = service_fn(async |_: Ask| -> Result<u32, Fault> { panic!("the service does") });
    let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);

    let call = tokio::spawn(service.oneshot(Ask::default()));

    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(breaker.snapshot(clock::now()).failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_success_is_slow_from_the_limit_on() {
    let slow = async |took: Duration| {
        let breaker = breaker(|config| {
            config.slow_ratio = Some(Ratio::ALL);
            config.slow_after = Some(SECOND);
        });
        let service = service_fn(|_: Ask| async move {
            sleep(took).await;
            Ok::<u32, Fault>(1)
        });
        let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);
        assert_eq!(service.oneshot(Ask::default()).await, Ok(1));
        breaker.snapshot(clock::now()).slow
    };

    assert_eq!(slow(SECOND - Duration::from_millis(1)).await, 0);
    assert_eq!(slow(SECOND).await, 1);
}

/// Its service is asked once a second, in tasks of their own, until it is
/// closed; tells after how many seconds.
async fn closes_under_steady_traffic<S>(breaker: &Breaker, service: S) -> Option<u32>
where
    S: Service<Ask, Response = u32, Error = Fault, Future: Send> + Clone + Send + 'static,
{
    trip(breaker);
    let mut calls = tokio::task::JoinSet::new();
    for second in 0..600 {
        if breaker.state() == BreakerState::Closed {
            return Some(second);
        }
        assert!(breaker.snapshot(clock::now()).probes <= 1);
        calls.spawn(service.clone().oneshot(Ask::default()));
        sleep(SECOND).await;
    }
    None
}

fn trip(breaker: &Breaker) {
    while breaker.state() == BreakerState::Closed {
        let permit = breaker.admit(clock::now()).unwrap();
        permit.record(Outcome::Failure, clock::now());
    }
}

fn takes(time: Duration) -> impl Service<Ask, Response = u32, Error = Fault, Future: Send> + Clone {
    service_fn(move |_: Ask| async move {
        sleep(time).await;
        Ok(1)
    })
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_longer_than_the_lease_gets_its_traffic_back() {
    let breaker = breaker(|_| ());
    let service = Policies::with(Tester)
        .per_call(TotalDeadline::new(600 * SECOND))
        .per_attempt(breaker.clone())
        .layer(takes(30 * SECOND));

    let closed = closes_under_steady_traffic(&breaker, service).await;

    // A rest of five seconds at most, and three probes one after the other.
    assert!(closed.is_some_and(|seconds| seconds <= 100), "{closed:?}");
}

/// Nobody said how long its calls may take; so the first probe that comes back
/// too late tells.
#[tokio::test(start_paused = true)]
async fn without_a_deadline_it_learns_how_long_a_probe_takes() {
    let breaker = breaker(|_| ());
    let service = BreakerLayer::new(breaker.clone(), Tester).layer(takes(30 * SECOND));

    let closed = closes_under_steady_traffic(&breaker, service).await;

    assert!(closed.is_some(), "it sticks");
}

/// Such as one whose task is stuck.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_overdue_has_failed() {
    for (deadline, overdue) in [(Some(20 * SECOND), 21 * SECOND), (None, 11 * SECOND)] {
        let breaker = breaker(|_| ());
        let mut service = BreakerLayer::new(breaker.clone(), Tester).layer(Script::hang());
        trip(&breaker);
        advance(5 * SECOND).await;
        let ask = match deadline {
            Some(deadline) => Ask::default().until(clock::now() + deadline),
            None => Ask::default(),
        };
        let mut stuck = Box::pin(service.call(ask));
        assert!(waits_still(stuck.as_mut()).await);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);

        advance(overdue - Duration::from_millis(1)).await;
        let _ = breaker.admit(clock::now()).unwrap_err();
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "it has its place");
        advance(Duration::from_millis(1)).await;
        let rest = breaker.admit(clock::now()).unwrap_err();

        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(rest >= 5 * SECOND, "longer than the first: {rest:?}");
    }
}

/// Polls once; whether it waits.
async fn waits_still<F: Future + Unpin>(mut future: F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut future).poll(cx)))
        .await
        .is_pending()
}

/// What the breaker counts of a call that has a minute, waits for a slot for
/// `queued` and then keeps the service busy for `works`.
async fn counted_behind_a_queue(
    queued: Duration,
    works: Duration,
    gives_up: Option<Duration>,
) -> (u64, u64, u64) {
    let breaker = breaker(|config| {
        config.slow_ratio = Some(Ratio::ALL);
        config.slow_after = Some(10 * SECOND);
    });
    let bulkhead = Bulkhead::new(BulkheadConfig {
        max_concurrent: NonZeroUsize::MIN,
        max_queue: 1,
        max_wait: 600 * SECOND,
    });
    let bulkhead = bulkhead.unwrap();
    let slot = bulkhead.try_enter();
    let service = Policies::with(Tester)
        .per_call(TotalDeadline::new(60 * SECOND))
        .per_attempt(breaker.clone())
        .per_attempt(bulkhead)
        .layer(takes(works));
    let call = tokio::spawn(timeout(
        gives_up.unwrap_or(600 * SECOND),
        service.oneshot(Ask::default()),
    ));
    sleep(queued).await;
    drop(slot);
    let _ = call.await.unwrap();
    let snapshot = breaker.snapshot(clock::now());
    (snapshot.requests, snapshot.failures, snapshot.slow)
}

/// The time that a call waits for its slot is not the service's.
#[tokio::test(start_paused = true)]
async fn the_service_is_judged_from_the_moment_it_was_asked() {
    let tick = Duration::from_millis(1);

    let quick = counted_behind_a_queue(30 * SECOND, 10 * SECOND - tick, None).await;
    assert_eq!(quick, (1, 0, 0), "30 s in the queue are no slowness");
    let slow = counted_behind_a_queue(30 * SECOND, 10 * SECOND, None).await;
    assert_eq!(slow, (1, 0, 1));

    let no_time = counted_behind_a_queue(59 * SECOND, 60 * SECOND, None).await;
    assert_eq!(no_time, (0, 0, 0), "it had one second of sixty");
    let enough_time = counted_behind_a_queue(29 * SECOND, 60 * SECOND, None).await;
    assert_eq!(enough_time, (1, 1, 0), "it had more than half");

    let never_asked = counted_behind_a_queue(90 * SECOND, SECOND, None).await;
    assert_eq!(never_asked, (0, 0, 0));
}

/// Whoever enforces the deadline is further out, and drops the call.
#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_for_a_slot_says_nothing_of_the_service() {
    let breaker = breaker(|_| ());
    let bulkhead = Bulkhead::new(BulkheadConfig {
        max_concurrent: NonZeroUsize::MIN,
        max_queue: 1,
        max_wait: 600 * SECOND,
    });
    let bulkhead = bulkhead.unwrap();
    let service = Policies::with(Tester)
        .per_attempt(breaker.clone())
        .per_attempt(bulkhead.clone())
        .layer(Script::hang());
    let dropped_at_its_deadline = async || {
        let ask = Ask::default().until(clock::now() + SECOND);
        let mut call = Box::pin(service.clone().oneshot(ask));
        assert!(waits_still(call.as_mut()).await);
        advance(SECOND).await;
    };
    let slot = bulkhead.try_enter();

    dropped_at_its_deadline().await;
    assert_eq!(breaker.snapshot(clock::now()).failures, 0);

    drop(slot);
    dropped_at_its_deadline().await;
    assert_eq!(breaker.snapshot(clock::now()).failures, 1, "it was asked");
}
