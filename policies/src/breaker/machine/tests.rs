//! The rules of a breaker, as arithmetic.

use std::time::Duration;

use super::{super::gate::Times, *};
use crate::config::Ratio;

const SECOND: u64 = 1_000_000_000;

fn machine(change: impl FnOnce(&mut BreakerConfig)) -> Machine {
    let mut config = BreakerConfig::default();
    change(&mut config);
    let gate = Arc::new(Gate::new(Times::of(&config)));
    let tally = Arc::new(Tally::new(config.clone()));
    Machine::new(config, tally, gate, Rng::with_seed(7))
}

fn call(machine: &mut Machine, outcome: Outcome, now: u64) {
    let pass = machine.admit(now, None).unwrap();
    machine.record(pass, outcome, now);
}

/// Fails until it opens and tells for how long.
fn trip(machine: &mut Machine, now: u64) -> u64 {
    while machine.state == BreakerState::Closed {
        call(machine, Outcome::Failure, now);
    }
    machine.admit(now, None).unwrap_err()
}

fn recover(machine: &mut Machine, now: u64) {
    (0..3).for_each(|_| call(machine, Outcome::Success, now));
    assert_eq!(machine.state, BreakerState::Closed);
}

#[test]
fn opens_for_half_to_all_of_a_doubling_time() {
    let mut machine = machine(|_| ());
    let mut now = 0;
    let mut rest = trip(&mut machine, now);
    for full in [5, 10, 20, 40, 60, 60] {
        assert!(
            (full * SECOND / 2..=full * SECOND).contains(&rest),
            "{full}: {rest}"
        );
        assert_eq!(machine.admit(now + rest - 1, None), Err(1));
        now += rest;
        call(&mut machine, Outcome::Failure, now);
        rest = machine.admit(now, None).unwrap_err();
    }
}

/// One good moment must not make a flapping service look well.
#[test]
fn the_first_open_time_comes_back_after_a_minute_closed_and_not_before() {
    let next_rest = |closed_for: u64| {
        let mut machine = machine(|_| ());
        let now = trip(&mut machine, 0);
        recover(&mut machine, now);
        trip(&mut machine, now + closed_for)
    };

    assert!(
        next_rest(60 * SECOND - 1) > 5 * SECOND - 1,
        "still doubled: {}",
        next_rest(0)
    );
    assert!(next_rest(60 * SECOND) <= 5 * SECOND);
}

#[test]
fn three_probes_in_a_row_close_it_and_one_failure_opens_it() {
    let mut machine = machine(|_| ());
    let now = trip(&mut machine, 0);
    call(&mut machine, Outcome::Success, now);
    call(&mut machine, Outcome::Success, now);
    assert_eq!(machine.state, BreakerState::HalfOpen);
    call(&mut machine, Outcome::Failure, now);
    assert_eq!(machine.state, BreakerState::Open);

    let now = now + machine.admit(now, None).unwrap_err();
    recover(&mut machine, now);
    assert_eq!(machine.tally.calls(now).all, 0, "a new start");
}

#[test]
fn an_ignored_probe_gives_its_place_back_and_counts_for_nothing() {
    let mut machine = machine(|_| ());
    let now = trip(&mut machine, 0);
    for _ in 0..9 {
        call(&mut machine, Outcome::Ignore, now);
    }

    assert_eq!(
        (machine.state, machine.successes),
        (BreakerState::HalfOpen, 0)
    );
}

#[test]
fn a_hung_probe_has_failed_when_its_lease_ends() {
    let mut machine = machine(|_| ());
    let now = trip(&mut machine, 0);
    machine.admit(now, None).unwrap();

    assert_eq!(
        machine.admit(now, None),
        Err(5 * SECOND),
        "not the whole lease"
    );
    assert_eq!(machine.admit(now + 11 * SECOND - 1, None), Err(1));
    let rest = machine.admit(now + 11 * SECOND, None).unwrap_err();

    assert_eq!(machine.state, BreakerState::Open);
    assert!((5 * SECOND..=10 * SECOND).contains(&rest), "{rest}");
}

/// A second more, for its own timer.
#[test]
fn a_probe_with_a_deadline_has_until_then() {
    for (short, state) in [
        (0, BreakerState::Open),
        (30, BreakerState::HalfOpen), // too little time to blame anybody
    ] {
        let mut machine = machine(|config| config.short_deadline = Duration::from_secs(short));
        let now = trip(&mut machine, 0);
        machine.admit(now, Some(now + 30 * SECOND)).unwrap();

        assert_eq!(machine.admit(now + 31 * SECOND - 1, None), Err(1));
        let _ = machine.admit(now + 31 * SECOND, None);
        assert_eq!(machine.state, state);
        assert!(machine.leases.len() <= 1);
    }
}

#[test]
fn a_late_success_of_a_probe_that_nobody_blames_counts() {
    let mut machine = machine(|config| config.short_deadline = Duration::from_secs(9));
    let now = trip(&mut machine, 0);
    let late = machine.admit(now, Some(now + SECOND)).unwrap();
    let now = now + 2 * SECOND;
    call(&mut machine, Outcome::Success, now);

    machine.record(late, Outcome::Success, now);

    assert_eq!(machine.successes, 2);
}

/// And if the service never answers, the rests grow.
#[test]
fn after_a_late_success_probes_get_twice_its_time() {
    let mut machine = machine(|_| ());
    let now = trip(&mut machine, 0);
    let late = machine.admit(now, None).unwrap();
    let given_up = now + 11 * SECOND;
    let rest = machine.admit(given_up, None).unwrap_err();
    machine.record(late, Outcome::Success, now + 12 * SECOND);

    let now = given_up + rest;
    let next = machine.admit(now, None).unwrap();
    assert_eq!(machine.admit(now + 24 * SECOND - 1, None), Err(1));
    machine.record(next, Outcome::Success, now + 24 * SECOND);

    assert_eq!(
        (machine.state, machine.successes),
        (BreakerState::HalfOpen, 1)
    );
    machine.reset();
    assert_eq!(machine.patience, 0);
}

#[test]
fn results_from_before_a_change_are_ignored() {
    let mut machine = machine(|_| ());
    let (good, bad) = (
        machine.admit(0, None).unwrap(),
        machine.admit(0, None).unwrap(),
    );
    let now = trip(&mut machine, 0);
    let probe = machine.admit(now, None).unwrap();

    machine.record(good, Outcome::Success, now);
    machine.record(bad, Outcome::Failure, now);

    assert_eq!(
        (machine.state, machine.successes),
        (BreakerState::HalfOpen, 0)
    );
    machine.record(probe, Outcome::Success, now);
    assert_eq!(machine.successes, 1);
}

#[test]
fn slow_probes_fail_where_slowness_matters_and_pass_elsewhere() {
    let after_slow_probe = |slow_ratio| {
        let mut machine = machine(|config| config.slow_ratio = slow_ratio);
        let now = trip(&mut machine, 0);
        call(&mut machine, Outcome::Slow, now);
        (machine.state, machine.successes)
    };

    assert_eq!(after_slow_probe(Some(Ratio::ALL)), (BreakerState::Open, 0));
    assert_eq!(after_slow_probe(None), (BreakerState::HalfOpen, 1));
}

#[test]
fn slow_calls_trip_it_where_slowness_matters() {
    let mut machine = machine(|config| config.slow_ratio = Some(Ratio::ALL));
    (0..9).for_each(|_| call(&mut machine, Outcome::Slow, 0));
    assert_eq!(machine.state, BreakerState::Closed);

    call(&mut machine, Outcome::Slow, 0);
    assert_eq!(machine.news.next().unwrap().reason, ChangeReason::SlowRatio);
}

/// The rules apply on the ramp, on counts that began anew.
#[test]
fn failures_on_the_ramp_open_it_again_for_longer() {
    let mut machine = machine(|_| ());
    let now = trip(&mut machine, 0);
    recover(&mut machine, now);
    assert_eq!(machine.ramp_end, now + 20 * SECOND);

    (0..4).for_each(|_| machine.record(at(&machine), Outcome::Failure, now));
    assert_eq!(machine.state, BreakerState::Closed);
    machine.record(at(&machine), Outcome::Failure, now);

    assert_eq!(machine.state, BreakerState::Open);
    let rest = machine.admit(now, None).unwrap_err();
    assert!((5 * SECOND..=10 * SECOND).contains(&rest), "{rest}");
}

fn at(machine: &Machine) -> Pass {
    Pass {
        generation: machine.generation,
        probe: None,
    }
}
