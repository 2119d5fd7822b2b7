//! What its users see of a breaker.

use std::sync::OnceLock;

use tokio::time::advance;

use super::*;
use crate::{
    event::{BreakerChange, ChangeReason},
    testing::recorder,
};

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker::new(BreakerConfig::default()).unwrap()
}

/// Fails until it opens and tells for how long.
fn trip(breaker: &Breaker) -> Duration {
    let now = clock::now();
    while breaker.state() == BreakerState::Closed {
        breaker.admit(now).unwrap().record(Outcome::Failure, now);
    }
    breaker.admit(now).unwrap_err()
}

async fn half_open(breaker: &Breaker) -> Permit {
    advance(trip(breaker)).await;
    breaker.admit(clock::now()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn looking_changes_nothing() {
    let breaker = breaker();
    let rest = trip(&breaker);
    advance(rest - Duration::from_nanos(1)).await;
    assert_eq!(
        breaker.snapshot(clock::now()).retry_after,
        Some(Duration::from_nanos(1))
    );
    advance(Duration::from_nanos(1)).await;

    let snapshot = breaker.snapshot(clock::now());

    assert_eq!(snapshot.state, BreakerState::Open);
    assert_eq!((snapshot.changes, snapshot.retry_after), (1, None));
    assert_eq!(
        (
            snapshot.requests,
            snapshot.failures,
            snapshot.consecutive_failures
        ),
        (5, 5, 5)
    );
    assert_eq!(breaker.snapshot(clock::now()), snapshot);
}

#[tokio::test(start_paused = true)]
async fn a_forced_state_lasts_until_the_reset() {
    let breaker = breaker();
    let _probe = half_open(&breaker).await;
    let fail = || {
        breaker
            .admit(clock::now())
            .map(|permit| permit.record(Outcome::Failure, clock::now()))
    };

    breaker.force_closed();
    assert!((0..99).all(|_| fail().is_ok()));
    breaker.force_open();
    advance(999 * SECOND).await;
    assert_eq!(fail(), Err(60 * SECOND), "as long as a rest can be");

    breaker.reset();
    let rest = trip(&breaker);
    assert!(rest <= 5 * SECOND, "rests start anew: {rest:?}");
}

#[tokio::test(start_paused = true)]
async fn every_change_is_told_once_with_its_reason() {
    let (listener, events) = recorder();
    let breaker = Breaker::with_seed(BreakerConfig::default(), listener, 7).unwrap();

    half_open(&breaker)
        .await
        .record(Outcome::Failure, clock::now());
    advance(60 * SECOND).await;
    for _ in 0..3 {
        breaker
            .admit(clock::now())
            .unwrap()
            .record(Outcome::Success, clock::now());
    }
    breaker.force_open();
    breaker.force_open();
    breaker.reset();

    let expected = [
        "open consecutive_failures",
        "half_open rest_over",
        "open probe_failed",
        "half_open rest_over",
        "closed probes_succeeded",
        "forced_open forced",
        "closed reset",
    ];
    assert_eq!(events.names(), expected);
    assert_eq!(breaker.snapshot(clock::now()).changes, 7);
}

/// It would deadlock if it were told under the lock, and be told out of
/// order if it were told at once.
#[tokio::test(start_paused = true)]
async fn a_listener_may_use_the_breaker() {
    let cell = Arc::new(OnceLock::<Breaker>::new());
    let (heard, events) = recorder();
    let looks_back = Arc::clone(&cell);
    let listener = move |event: &PolicyEvent| {
        if let (PolicyEvent::BreakerChanged(change), Some(breaker)) = (event, looks_back.get())
            && change.to == BreakerState::Open
        {
            breaker.reset();
        }
        heard.on_event(event);
    };
    let breaker = Breaker::with_listener(BreakerConfig::default(), Arc::new(listener)).unwrap();
    assert!(cell.set(breaker.clone()).is_ok());

    for _ in 0..5 {
        breaker
            .admit(clock::now())
            .unwrap()
            .record(Outcome::Failure, clock::now());
    }

    assert_eq!(breaker.state(), BreakerState::Closed);
    let change = |sequence, from, to, reason| {
        PolicyEvent::BreakerChanged(BreakerChange {
            sequence,
            from,
            to,
            reason,
            enforced: true,
        })
    };
    let (closed, open) = (BreakerState::Closed, BreakerState::Open);
    let expected = [
        change(1, closed, open, ChangeReason::ConsecutiveFailures),
        change(2, open, closed, ChangeReason::Reset),
    ];
    assert_eq!(events.all(), expected);
}

/// Whoever changes it while another tells leaves the telling to the other,
/// who must not miss it at the last moment.
#[test]
fn however_many_change_it_nothing_stays_untold_and_the_order_is_kept() {
    let (listener, events) = recorder();
    let breaker = Breaker::with_listener(BreakerConfig::default(), listener).unwrap();
    for _ in 0..500 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    breaker.force_open();
                    breaker.reset();
                });
            }
        });
        assert!(breaker.machine().news().next().is_none());
    }

    let sequence = |event: PolicyEvent| match event {
        PolicyEvent::BreakerChanged(change) => change.sequence,
        other => panic!("{other:?}"),
    };
    let heard: Vec<u64> = events.all().into_iter().map(sequence).collect();
    let changes = breaker.snapshot(clock::now()).changes;
    assert_eq!(heard, (1..=changes).collect::<Vec<_>>());
}

/// It began before an outage that has come and gone.
#[tokio::test(start_paused = true)]
async fn a_success_from_before_an_outage_counts_for_nothing_after() {
    let breaker = breaker();
    let early = breaker.admit(clock::now()).unwrap();
    half_open(&breaker)
        .await
        .record(Outcome::Success, clock::now());
    for _ in 0..2 {
        let probe = breaker.admit(clock::now()).unwrap();
        probe.record(Outcome::Success, clock::now());
    }
    assert_eq!(breaker.state(), BreakerState::Closed);

    early.record(Outcome::Success, clock::now());

    assert_eq!(breaker.snapshot(clock::now()).requests, 0);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_does_not_silence_the_breaker() {
    let (heard, events) = recorder();
    let listener = move |event: &PolicyEvent| {
        heard.on_event(event);
        if let PolicyEvent::BreakerChanged(BreakerChange { sequence: 1, .. }) = event {
            panic!("the first change");
        }
    };
    let breaker = Breaker::with_listener(BreakerConfig::default(), Arc::new(listener)).unwrap();

    let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| breaker.force_open()));
    breaker.reset();

    assert!(first.is_err());
    assert_eq!(events.names(), ["forced_open forced", "closed reset"]);
}

fn fail(breaker: &Breaker) {
    let now = clock::now();
    if let Ok(permit) = breaker.admit(now) {
        permit.record(Outcome::Failure, now);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_tells_all_it_would_do_and_refuses_nobody() {
    let (listener, events) = recorder();
    let config = BreakerConfig {
        mode: BreakerMode::ObserveOnly,
        ..BreakerConfig::default()
    };
    let breaker = Breaker::with_listener(config, listener).unwrap();

    (0..5).for_each(|_| fail(&breaker));
    let admitted = breaker.admit(clock::now()).unwrap();
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.snapshot(clock::now()).retry_after, None);
    admitted.record(Outcome::Success, clock::now());
    advance(5 * SECOND).await;
    for _ in 0..3 {
        let probe = breaker.admit(clock::now()).unwrap();
        assert!(probe.is_probe());
        let other = breaker.admit(clock::now()).unwrap();
        assert!(!other.is_probe());
        other.record(Outcome::Failure, clock::now());
        probe.record(Outcome::Success, clock::now());
    }

    let expected = [
        "open consecutive_failures",
        "would refuse circuit_open",
        "half_open rest_over",
        "would refuse circuit_open",
        "would refuse circuit_open",
        "would refuse circuit_open",
        "closed probes_succeeded",
    ];
    assert_eq!(events.names(), expected);
    let enforced = |event: &PolicyEvent| matches!(event, PolicyEvent::BreakerChanged(change) if change.enforced);
    assert!(!events.all().iter().any(enforced));
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_is_told_to_enforce_goes_on_from_where_it_is() {
    let breaker = breaker();
    breaker.set_mode(BreakerMode::ObserveOnly);
    (0..5).for_each(|_| fail(&breaker));
    assert!(breaker.admit(clock::now()).is_ok());

    breaker.set_mode(BreakerMode::Enforce);

    assert!(breaker.admit(clock::now()).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_disabled_breaker_counts_nothing_and_a_forced_closed_one_does() {
    let counted = |breaker: &Breaker| {
        (0..99).for_each(|_| fail(breaker));
        let now = clock::now();
        breaker.admit(now).unwrap().record(Outcome::Success, now);
        breaker.snapshot(now).requests
    };
    let (disabled, forced) = (breaker(), breaker());
    trip(&disabled);
    disabled.set_mode(BreakerMode::Disabled);
    forced.force_closed();

    assert_eq!(disabled.state(), BreakerState::Disabled);
    assert_eq!((counted(&disabled), counted(&forced)), (0, 100));

    disabled.force_open();
    disabled.reset();
    assert_eq!(
        disabled.state(),
        BreakerState::Disabled,
        "where it came from"
    );
    disabled.set_mode(BreakerMode::Enforce);
    trip(&disabled);
    assert_eq!(disabled.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn new_settings_leave_counts_state_and_rest_as_they_are() {
    let breaker = breaker();
    (0..4).for_each(|_| fail(&breaker));
    let config = BreakerConfig {
        window: 300 * SECOND,
        open: SECOND,
        max_open: SECOND,
        ..BreakerConfig::default()
    };

    breaker.reconfigure(config.clone()).unwrap();

    assert_eq!(breaker.config(), config);
    assert_eq!(breaker.snapshot(clock::now()).failures, 4);
    fail(&breaker);
    let rest = breaker.admit(clock::now()).unwrap_err();
    assert!(rest <= SECOND, "{rest:?}");

    breaker.reconfigure(BreakerConfig::default()).unwrap();
    assert_eq!(breaker.admit(clock::now()).unwrap_err(), rest);
    assert_eq!(breaker.state(), BreakerState::Open);
    advance(rest).await;
    let probe = breaker.admit(clock::now()).unwrap();
    breaker.reconfigure(config).unwrap();
    assert!(
        breaker.admit(clock::now()).is_err(),
        "the probe holds its place"
    );
    probe.record(Outcome::Success, clock::now());
    assert_eq!(breaker.snapshot(clock::now()).probe_successes, 1);
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_change_nothing() {
    let breaker = breaker();
    let config = BreakerConfig {
        consecutive_failures: 1.try_into().unwrap(),
        open: Duration::ZERO,
        ..BreakerConfig::default()
    };

    assert_eq!(breaker.reconfigure(config).unwrap_err().key, "open");

    assert_eq!(breaker.config(), BreakerConfig::default());
    fail(&breaker);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_slow_rule_may_come_later() {
    let breaker = breaker();
    let config = BreakerConfig {
        slow_ratio: Some(crate::Ratio::ALL),
        slow_after: Some(SECOND),
        ..BreakerConfig::default()
    };
    assert!(!breaker.is_slow(SECOND));

    breaker.reconfigure(config).unwrap();

    assert!(breaker.times_calls() && breaker.is_slow(SECOND));
    for _ in 0..10 {
        let now = clock::now();
        breaker.admit(now).unwrap().record(Outcome::Slow, now);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_recovers_gets_its_traffic_little_by_little() {
    let breaker = breaker();
    breaker.force_open();

    breaker.recover();

    let admitted = |n| {
        (0..n)
            .filter(|_| breaker.admit(clock::now()).is_ok())
            .count()
    };
    assert_eq!(admitted(100), 10);
    advance(20 * SECOND).await;
    assert_eq!(admitted(100), 100);
}

/// As opposed to two locks in every call of `failsafe`.
#[tokio::test]
async fn trap_failsafe_11_a_success_of_a_closed_breaker_takes_no_lock() {
    let breaker = breaker();
    let (done, is_done) = std::sync::mpsc::channel();
    let locked = breaker.machine();
    let calling = breaker.clone();
    let caller = std::thread::spawn(move || {
        let now = Instant::from_nanos(1);
        calling.admit(now).unwrap().record(Outcome::Success, now);
        done.send(()).unwrap();
    });

    let ended = is_done.recv_timeout(20 * SECOND);

    drop(locked);
    caller.join().unwrap();
    assert_eq!(ended, Ok(()));
}
