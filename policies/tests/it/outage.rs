//! Outages in virtual time: what gets through, and that the same seed tells
//! the same story.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use orchestrator_policies::{
    Breaker, BreakerConfig, BreakerState, Outcome, PolicyEvent, breaker::Permit, clock::Instant,
};

use crate::SECOND;

const BEGIN: Instant = Instant::from_nanos(1_000_000_000);
/// When the service is down.
const OUTAGE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(60 + 10 * 60)];
const LENGTH: Duration = Duration::from_secs(12 * 60);

/// What happened.
#[derive(Debug, Default, PartialEq)]
struct History {
    /// Changes, and when.
    changes: Vec<(Duration, PolicyEvent)>,
    /// Every call's fate, in a number.
    digest: u64,
    /// Failed calls from the beginning of the outage until it was noticed.
    unnoticed: usize,
    /// Failed calls after that.
    probes: usize,
    /// How long after the outage all calls were let in.
    recovered: Option<Duration>,
}

/// Calls come `rate` times a second, at random, and take up to 20 ms.
fn replay(seed: u64, rate: f64) -> History {
    let changes = Arc::<Mutex<Vec<PolicyEvent>>>::default();
    let heard = Arc::clone(&changes);
    let listener = move |event: &PolicyEvent| heard.lock().unwrap().push(event.clone());
    let breaker = Breaker::with_seed(BreakerConfig::default(), Arc::new(listener), seed).unwrap();
    let mut rng = Rng::with_seed(seed);
    let mut history = History::default();
    let mut flying: Vec<(Duration, Permit, bool)> = Vec::new();
    let mut time = Duration::ZERO;
    let mut last_refusal = Duration::ZERO;
    while time < LENGTH {
        time += Duration::from_secs_f64(-rng.f64().max(1e-9).ln() / rate);
        flying.sort_by_key(|(end, ..)| *end);
        let ended = flying.partition_point(|(end, ..)| *end <= time);
        for (end, permit, works) in flying.drain(..ended) {
            let outcome = if works {
                Outcome::Success
            } else {
                Outcome::Failure
            };
            permit.record(outcome, BEGIN + end);
        }
        let works = !(OUTAGE[0]..OUTAGE[1]).contains(&time);
        let admitted = breaker.admit(BEGIN + time);
        let fate = (admitted.is_ok(), works);
        match admitted {
            Ok(permit) => {
                let took = SECOND / 50 * rng.u32(0..1000) / 1000;
                let noticed = !changes.lock().unwrap().is_empty();
                history.unnoticed += usize::from(!works && !noticed);
                history.probes += usize::from(!works && noticed);
                flying.push((time + took, permit, works));
            }
            Err(_) => last_refusal = time,
        }
        for event in changes.lock().unwrap().iter().skip(history.changes.len()) {
            history.changes.push((time, event.clone()));
        }
        let word = u64::from(fate.0) | u64::from(fate.1) << 1;
        history.digest = (history.digest ^ word)
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(7);
    }
    let is_well = breaker.state() == BreakerState::Closed && last_refusal > OUTAGE[1];
    history.recovered = is_well.then(|| last_refusal - OUTAGE[1]);
    history
}

#[test]
fn a_ten_minute_outage_replays_from_its_seed() {
    for seed in 0..5 {
        let history = replay(seed, 100.0);

        assert_eq!(history, replay(seed, 100.0));
        assert_ne!(history.digest, replay(seed + 1, 100.0).digest);
    }
}

#[test]
fn few_calls_reach_a_service_that_is_down() {
    for seed in 0..20 {
        let history = replay(seed, 50.0);

        // Those in flight when the fifth failed are as many as the rate and
        // their time make it.
        assert!(history.unnoticed <= 12, "{seed}: {history:?}");
        // Rests of 5, 10, 20, 40 and then 60 s, or half as long.
        assert!((10..=25).contains(&history.probes), "{seed}: {history:?}");
        // The last rest, the probes and the ramp.
        let recovered = history.recovered.unwrap();
        assert!(recovered < 85 * SECOND, "{seed}: {recovered:?}");
    }
}

/// After many successes, a hundred thousand a second; each call ends before
/// the next.
#[test]
fn five_failures_of_a_service_that_was_well_get_through() {
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    let gap = SECOND / 100_000;
    let mut now = BEGIN;
    for _ in 0..1_000_000 {
        now = now + gap;
        breaker.admit(now).unwrap().record(Outcome::Success, now);
    }

    let mut failures = 0;
    for _ in 0..100_000 {
        now = now + gap;
        if let Ok(permit) = breaker.admit(now) {
            permit.record(Outcome::Failure, now);
            failures += 1;
        }
    }

    assert_eq!(failures, 5);
}
