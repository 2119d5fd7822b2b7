//! Every order in which two threads may meet at a breaker: what the machine
//! publishes under its lock, and what the gate makes of it without one.

use std::{sync::Arc, time::Duration};

use loom::{model, thread};

use super::{Breaker, BreakerConfig, BreakerState, gate::Answer, machine::Pass};
use crate::{classify::Outcome, clock::Instant, shed::Criticality, striped::Place};

const SECOND: u64 = 1_000_000_000;
const BEGIN: Instant = Instant::from_nanos(SECOND);
/// After any first rest.
const LATER: Instant = Instant::from_nanos(10 * SECOND);

/// Opens at the first failure, closes at the first success.
fn breaker(ramp: Duration) -> Breaker {
    let one = 1.try_into().unwrap();
    let config = BreakerConfig {
        consecutive_failures: one,
        success_threshold: one,
        ramp,
        ..BreakerConfig::default()
    };
    Breaker::with_seed(config, Arc::new(|_: &_| ()), 7).unwrap()
}

fn pass(breaker: &Breaker, now: Instant) -> Option<Pass> {
    breaker.pass(now, Criticality::default(), None).ok()
}

fn trip(breaker: &Breaker) {
    let pass = pass(breaker, BEGIN).unwrap();
    breaker.record(pass, Outcome::Failure, BEGIN);
}

/// What only reads belongs into the other thread: loom forgets a reading when
/// the thread that writes has read since, and would not try the two in the
/// other order.
fn both<T: 'static, U>(
    breaker: &Breaker,
    other: impl FnOnce(&Breaker) -> T + 'static,
    this: impl FnOnce(&Breaker) -> U,
) -> (U, T) {
    let shared = breaker.clone();
    let other = thread::spawn(move || other(&shared));
    let this = this(breaker);
    (this, other.join().unwrap())
}

#[test]
fn two_callers_after_a_rest_are_one_probe() {
    model(|| {
        let breaker = breaker(Duration::ZERO);
        trip(&breaker);

        let (this, other) = both(
            &breaker,
            |breaker| pass(breaker, LATER),
            |breaker| pass(breaker, LATER),
        );

        let probes = [this, other].into_iter().flatten();
        assert!(probes.clone().all(|pass| pass.probe.is_some()));
        assert_eq!(probes.count(), 1);
    });
}

/// Nobody finds it open without finding how long: they would all go to the
/// machine.
#[test]
fn whoever_finds_it_open_finds_for_how_long() {
    model(|| {
        let breaker = breaker(Duration::ZERO);

        let ask = |breaker: &Breaker| {
            let answer = breaker.gate().ask(BEGIN.as_nanos(), Criticality::default());
            match answer {
                Answer::Pass(generation) => assert_eq!(generation, 0),
                Answer::Refuse(wait) => assert!((5 * SECOND / 2..=5 * SECOND).contains(&wait)),
                Answer::Ask => panic!("it rests"),
            }
        };
        both(&breaker, ask, trip);

        assert_eq!(breaker.state(), BreakerState::Open);
    });
}

#[test]
fn a_result_from_before_a_trip_counts_for_nothing_after_it() {
    model(|| {
        let breaker = breaker(Duration::ZERO);
        let early = breaker.pass_closed(BEGIN).unwrap();
        trip(&breaker);
        let probe = pass(&breaker, LATER).unwrap();

        both(
            &breaker,
            move |breaker| {
                if !breaker.count_success(early, Place::of_this_thread(), LATER) {
                    breaker.record(Pass::of_closed(early), Outcome::Success, LATER);
                }
            },
            |breaker| breaker.record(probe, Outcome::Failure, LATER),
        );

        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(pass(&breaker, LATER).is_none());
    });
}

#[test]
fn a_place_that_is_given_back_is_found() {
    model(|| {
        let breaker = breaker(Duration::ZERO);
        trip(&breaker);
        let probe = pass(&breaker, LATER).unwrap();

        let ((), found) = both(
            &breaker,
            |breaker| pass(breaker, LATER),
            |breaker| breaker.record(probe, Outcome::Ignore, LATER),
        );

        let next = pass(&breaker, LATER);
        assert!(
            found.is_some() != next.is_some(),
            "one place, and one finds it"
        );
    });
}

/// The first tenth of the calls is the first call.
#[test]
fn whoever_finds_it_closed_finds_the_ramp() {
    model(|| {
        let breaker = breaker(Duration::from_secs(10));
        trip(&breaker);
        let probe = pass(&breaker, LATER).unwrap();

        let ((), passed) = both(
            &breaker,
            |breaker| [(); 2].map(|()| pass(breaker, LATER)),
            |breaker| breaker.record(probe, Outcome::Success, LATER),
        );

        let calls = passed.into_iter().flatten();
        assert!(calls.count() <= 1);
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}
