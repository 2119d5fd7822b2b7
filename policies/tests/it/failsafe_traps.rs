//! What goes wrong with `failsafe` used as it comes, and does not with the
//! breaker that is built on it. Where it takes a few lines, `failsafe` itself
//! shows what it does; should it be mended one day, its half of the test fails
//! and says so.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use failsafe::{Config, Instrument, backoff, clock::freeze, failure_policy};
use orchestrator_policies::{
    Breaker, BreakerConfig, BreakerLayer, BreakerState, Classify, Outcome, PolicyEvent, Refusal,
    RefusalKind, clock, clock::Instant,
};
use tokio::time::{advance, timeout};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::{Call, Calls, Failed, SECOND};

/// `failsafe` that opens after so many failures in a row, for 5 s.
macro_rules! naive {
    ($failures:expr) => {
        naive!($failures, ())
    };
    ($failures:expr, $instrument:expr) => {
        Config::new()
            .failure_policy(failure_policy::consecutive_failures(
                $failures,
                backoff::constant(5 * SECOND),
            ))
            .instrument($instrument)
            .build()
    };
}

/// `failsafe` that goes by an average over 30 s.
macro_rules! averaging {
    () => {
        Config::new()
            .failure_policy(failure_policy::success_rate_over_time_window(
                0.8,
                5,
                30 * SECOND,
                backoff::constant(5 * SECOND),
            ))
            .build()
    };
}

/// What `failsafe` says of itself.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<&'static str>>>);

impl Heard {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn last(&self) -> Option<&'static str> {
        self.0.lock().unwrap().last().copied()
    }
}

impl Instrument for Heard {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.note("open");
    }

    fn on_half_open(&self) {
        self.note("half_open");
    }

    fn on_closed(&self) {
        self.note("closed");
    }
}

const BEGIN: Instant = Instant::from_nanos(1_000_000_000);

fn breaker(change: impl FnOnce(&mut BreakerConfig)) -> Breaker {
    let mut config = BreakerConfig::default();
    change(&mut config);
    Breaker::new(config).unwrap()
}

fn call(breaker: &Breaker, outcome: Outcome, now: Instant) {
    breaker.admit(now).unwrap().record(outcome, now);
}

/// Fails until it is open; how many failures that took, and for how long.
fn trip(breaker: &Breaker, now: Instant) -> (usize, Duration) {
    let failures = (0..)
        .take_while(|_| match breaker.admit(now) {
            Ok(permit) => {
                permit.record(Outcome::Failure, now);
                true
            }
            Err(_) => false,
        })
        .count();
    (failures, breaker.admit(now).unwrap_err())
}

#[test]
fn trap_f01_half_open_admits_everyone() {
    let naively = freeze(|time| {
        let naive = naive!(1);
        naive.on_error();
        time.advance(6 * SECOND);
        (0..10_000).filter(|_| naive.is_call_permitted()).count()
    });
    assert_eq!(naively, 10_000);

    let breaker = breaker(|_| ());
    let now = BEGIN + trip(&breaker, BEGIN).1;
    let permits: Vec<_> = (0..10_000)
        .filter_map(|_| breaker.admit(now).ok())
        .collect();
    assert_eq!(permits.len(), 1);
}

#[test]
fn trap_f02_late_results_decide_in_half_open() {
    freeze(|time| {
        let heard = Heard::default();
        let naive = naive!(1, heard.clone());
        assert!(naive.is_call_permitted(), "the late one");
        naive.on_error();
        time.advance(6 * SECOND);
        assert!(naive.is_call_permitted(), "the probe");
        naive.on_success();
        assert_eq!(heard.last(), Some("closed"), "by the late one");
    });

    for late in [Outcome::Success, Outcome::Failure] {
        let breaker = breaker(|config| config.success_threshold = 1.try_into().unwrap());
        let permit = breaker.admit(BEGIN).unwrap();
        let now = BEGIN + trip(&breaker, BEGIN).1;
        let _probe = breaker.admit(now).unwrap();
        permit.record(late, now);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }
}

#[test]
fn trap_f03_an_average_is_blind_to_a_burst() {
    freeze(|time| {
        let naive = averaging!();
        for _ in 0..10_000 {
            time.advance(SECOND / 100);
            naive.on_success();
        }
        (0..100_000).for_each(|_| naive.on_error());
        assert!(naive.is_call_permitted());
    });

    let breaker = breaker(|_| ());
    let mut now = BEGIN;
    for _ in 0..10_000 {
        now = now + SECOND / 100;
        call(&breaker, Outcome::Success, now);
    }
    assert_eq!(trip(&breaker, now).0, 5);
}

/// And again after every recovery.
#[test]
fn trap_f04_an_average_is_blind_at_first() {
    freeze(|time| {
        let naive = averaging!();
        let mut failures = || {
            (0..10_000)
                .take_while(|_| {
                    time.advance(SECOND / 100);
                    naive.on_error();
                    naive.is_call_permitted()
                })
                .count()
        };
        assert!(failures() > 2_900);
        time.advance(6 * SECOND);
        assert!(naive.is_call_permitted());
        naive.on_success();
        let again = (0..10_000)
            .take_while(|_| {
                time.advance(SECOND / 100);
                naive.on_error();
                naive.is_call_permitted()
            })
            .count();
        assert!(again > 2_900);
    });

    let breaker = breaker(|_| ());
    let (failures, rest) = trip(&breaker, BEGIN);
    assert_eq!(failures, 5);
    let now = BEGIN + rest;
    (0..3).for_each(|_| call(&breaker, Outcome::Success, now));
    assert_eq!(trip(&breaker, now + 20 * SECOND).0, 5);
}

#[test]
fn trap_f05_looking_changes_the_state() {
    freeze(|time| {
        let heard = Heard::default();
        let naive = naive!(1, heard.clone());
        naive.on_error();
        time.advance(6 * SECOND);
        let _looked = naive.is_call_permitted();
        assert_eq!(heard.last(), Some("half_open"));
    });

    let breaker = breaker(|_| ());
    let now = BEGIN + trip(&breaker, BEGIN).1;
    for _ in 0..9 {
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.snapshot(now).changes, 1);
    }
}

#[test]
fn trap_f06_a_listener_that_looks_back_deadlocks() {
    type Look = Box<dyn Fn() + Send + Sync>;
    #[derive(Clone)]
    struct LooksBack(Arc<OnceLock<Look>>);
    impl Instrument for LooksBack {
        fn on_call_rejected(&self) {}
        fn on_open(&self) {}
        fn on_half_open(&self) {}
        fn on_closed(&self) {
            if let Some(look) = self.0.get() {
                look();
            }
        }
    }
    let (done, naive_is_done) = mpsc::channel();
    // It stays behind when the test ends.
    std::thread::spawn(move || {
        let look = Arc::new(OnceLock::new());
        let naive = naive!(1, LooksBack(Arc::clone(&look)));
        naive.on_error();
        let itself = naive.clone();
        let _ = look.set(Box::new(move || {
            let _looked = itself.is_call_permitted();
        }) as Look);
        naive.reset();
        let _ = done.send(());
    });

    let looks = Arc::new(AtomicUsize::new(0));
    let (itself, counter) = (Arc::new(OnceLock::<Breaker>::new()), Arc::clone(&looks));
    let looked_at = Arc::clone(&itself);
    let listener = move |_: &PolicyEvent| {
        if let Some(breaker) = looked_at.get() {
            let _looked = (breaker.snapshot(BEGIN), breaker.admit(BEGIN));
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let breaker = Breaker::with_listener(BreakerConfig::default(), Arc::new(listener)).unwrap();
    assert!(itself.set(breaker.clone()).is_ok());
    trip(&breaker, BEGIN);
    breaker.reset();
    assert_eq!(looks.load(Ordering::Relaxed), 2);

    assert!(naive_is_done.recv_timeout(SECOND).is_err());
}

#[tokio::test(start_paused = true)]
async fn trap_f07_a_call_that_is_cut_off_counts_for_nothing() {
    let naive = naive!(3);
    // As its own future does it.
    let hangs = async || {
        assert!(naive.is_call_permitted());
        match std::future::pending::<Result<(), ()>>().await {
            Ok(()) => naive.on_success(),
            Err(()) => naive.on_error(),
        }
    };
    for _ in 0..50 {
        assert!(timeout(SECOND, hangs()).await.is_err());
    }
    assert!(naive.is_call_permitted());

    let breaker = breaker(|_| ());
    let service = ServiceBuilder::new()
        .layer(BreakerLayer::new(breaker.clone(), Calls))
        .service(service_fn(|_: Call| {
            std::future::pending::<Result<u32, Failed>>()
        }));
    for _ in 0..5 {
        let call = Call {
            deadline: Some(clock::now() + SECOND),
            ..Call::default()
        };
        assert!(
            timeout(SECOND, service.clone().oneshot(call))
                .await
                .is_err()
        );
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[test]
fn trap_f08_rests_are_whole_seconds_and_may_be_none() {
    let half = SECOND / 2;
    assert!(std::panic::catch_unwind(|| backoff::exponential(half, SECOND)).is_err());
    let rests = backoff::full_jittered(SECOND, 60 * SECOND);
    let none = (0..1000).filter(|_| rests.clone().next() == Some(Duration::ZERO));
    assert!(none.count() > 300);
    // Nobody can give it a seed, so that no test can repeat what happened.
    let by_chance = || {
        let rests = backoff::equal_jittered(60 * SECOND, 3_600 * SECOND);
        rests.take(100).collect::<Vec<_>>()
    };
    assert_ne!(by_chance(), by_chance());

    for _ in 0..100 {
        let breaker = breaker(|config| config.open = half);
        let rest = trip(&breaker, BEGIN).1;
        assert!((half / 2..=half).contains(&rest), "{rest:?}");
    }
}

#[test]
fn trap_f09_a_short_window_divides_by_nothing_or_is_the_last_call() {
    let naive = |window| {
        Config::new()
            .failure_policy(failure_policy::success_rate_over_time_window(
                0.5,
                1,
                window,
                backoff::constant(5 * SECOND),
            ))
            .build()
    };
    let shortest = || {
        let naive = naive(SECOND / 250);
        naive.on_error();
    };
    assert!(std::panic::catch_unwind(shortest).is_err());
    freeze(|time| {
        let naive = naive(SECOND * 9 / 10);
        for _ in 0..1000 {
            time.advance(SECOND / 1000);
            naive.on_success();
        }
        time.advance(SECOND / 1000);
        naive.on_error();
        assert!(
            !naive.is_call_permitted(),
            "one failure of a thousand calls"
        );
    });

    let short = BreakerConfig {
        window: SECOND / 250,
        ..BreakerConfig::default()
    };
    assert_eq!(Breaker::new(short).unwrap_err().key, "window");
    let breaker = breaker(|config| config.window = SECOND / 10);
    let mut now = BEGIN;
    for _ in 0..1000 {
        now = now + SECOND / 1000;
        call(&breaker, Outcome::Success, now);
    }
    call(&breaker, Outcome::Failure, now);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn trap_f10_it_does_not_follow_a_paused_clock() {
    let naive = naive!(1);
    naive.on_error();
    let breaker = breaker(|_| ());
    trip(&breaker, clock::now());

    advance(3600 * SECOND).await;

    assert!(!naive.is_call_permitted());
    assert!(breaker.admit(clock::now()).is_ok());
}

/// Good for one probe, then down again.
#[test]
fn trap_f11_one_success_lets_all_in_and_forgets_the_last_rest() {
    freeze(|time| {
        let naive = Config::new()
            .failure_policy(failure_policy::consecutive_failures(
                1,
                backoff::exponential(SECOND, 64 * SECOND),
            ))
            .build();
        for _ in 0..5 {
            naive.on_error();
            assert!(!naive.is_call_permitted());
            time.advance(2 * SECOND);
            assert!(naive.is_call_permitted(), "always after a first rest");
            naive.on_success();
        }
    });

    let breaker = breaker(|_| ());
    let mut now = BEGIN;
    let mut rest = trip(&breaker, now).1;
    for full in [10, 20, 40, 60] {
        now = now + rest;
        call(&breaker, Outcome::Success, now);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        call(&breaker, Outcome::Failure, now);
        rest = breaker.admit(now).unwrap_err();
        assert!(rest >= full * SECOND / 2, "{full}: {rest:?}");
    }
    now = now + rest;
    (0..3).for_each(|_| call(&breaker, Outcome::Success, now));
    let let_in = (0..100).filter(|_| breaker.admit(now).is_ok()).count();
    assert_eq!(let_in, 10, "not all at once");
}

/// An error that is none, and a result that is one; and who is refused knows
/// until when, and a listener why.
#[tokio::test(start_paused = true)]
async fn trap_f12_failures_are_errors_and_refusals_and_events_say_nothing() {
    #[derive(Clone, Copy)]
    struct ByValue;
    impl Classify<Call, u32, Failed> for ByValue {
        fn refusal(&self, error: &Failed) -> Option<RefusalKind> {
            Calls.refusal(error)
        }
        fn outcome(&self, result: &Result<u32, Failed>) -> Outcome {
            match result {
                Ok(503) => Outcome::Failure,
                Ok(_) => Outcome::Success,
                Err(_) => Outcome::Ignore,
            }
        }
    }
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let listener = move |event: &PolicyEvent| hears.lock().unwrap().push(event.clone());
    let breaker = Breaker::with_listener(BreakerConfig::default(), Arc::new(listener)).unwrap();
    let answers = |answer: Result<u32, Failed>| {
        ServiceBuilder::new()
            .layer(BreakerLayer::new(breaker.clone(), ByValue))
            .service(service_fn(move |_: Call| {
                std::future::ready(answer.clone())
            }))
            .oneshot(Call::default())
    };

    for _ in 0..9 {
        assert_eq!(answers(Err(Failed::Broken)).await, Err(Failed::Broken));
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    for _ in 0..5 {
        assert_eq!(answers(Ok(503)).await, Ok(503));
    }
    let Err(Failed::Refused(Refusal::CircuitOpen { retry_after })) = answers(Ok(200)).await else {
        panic!("it should be open");
    };

    advance(retry_after).await;
    assert_eq!(answers(Ok(200)).await, Ok(200));
    let told: Vec<_> = heard
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            PolicyEvent::BreakerChanged(change) => (
                change.sequence,
                change.from,
                change.to,
                change.reason.as_str(),
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    let (closed, open) = (BreakerState::Closed, BreakerState::Open);
    let expected = [
        (1, closed, open, "consecutive_failures"),
        (2, open, BreakerState::HalfOpen, "rest_over"),
    ];
    assert_eq!(told, expected);
}
