//! The breaker behind its lock: what happens when it is not closed, and when
//! calls fail.
//!
//! It takes `now` in nanoseconds from a fixed origin and reads no clock, so
//! its rules are tested as plain arithmetic.

#[cfg(test)]
mod model;

use std::sync::Arc;

use fastrand::Rng;

use super::{
    BreakerConfig, BreakerState,
    gate::{Gate, Published, Word},
    news::News,
    policy::{Tally, Transitions},
};
use crate::{classify::Outcome, clock, event::ChangeReason};

/// After this many doublings even a millisecond has passed the longest open
/// time there can be.
const LEVEL_MAX: u32 = 36;

/// How long to refuse calls when `failsafe` does not half-open, in
/// nanoseconds: a millisecond.
const SHORT_REST: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Machine {
    config: BreakerConfig,
    tally: Arc<Tally>,
    gate: Arc<Gate>,
    transitions: Transitions,
    rng: Rng,
    state: BreakerState,
    generation: u64,
    /// When an open breaker lets in a probe.
    open_until: u64,
    /// How often the open time has doubled.
    level: u32,
    /// Since when it is closed again; nothing if it never opened.
    closed_since: Option<u64>,
    /// Probes that succeeded since it half-opened.
    successes: u32,
    leases: Vec<Lease>,
    leases_made: u64,
    ramp_end: u64,
    news: News,
}

/// A probe in flight. One that takes too long loses its place to another.
#[derive(Clone, Copy, Debug)]
struct Lease {
    probe: u64,
    until: u64,
}

/// Who lets a call in. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// The generation whose result it is.
    pub(super) generation: u64,
    /// Its lease, if it is a probe.
    pub(super) probe: Option<u64>,
}

impl Machine {
    pub(super) fn new(config: BreakerConfig, tally: Arc<Tally>, gate: Arc<Gate>, rng: Rng) -> Self {
        let transitions = Transitions::new(Arc::clone(&tally));
        Self {
            config,
            tally,
            gate,
            transitions,
            rng,
            state: BreakerState::Closed,
            generation: 0,
            open_until: 0,
            level: 0,
            closed_since: None,
            successes: 0,
            leases: Vec::new(),
            leases_made: 0,
            ramp_end: 0,
            news: News::default(),
        }
    }

    /// Lets a call in, or says how long it should stay away.
    pub(super) fn admit(&mut self, now: u64) -> Result<Pass, u64> {
        let generation = self.generation;
        match self.state {
            BreakerState::Closed | BreakerState::ForcedClosed => {
                return Ok(Pass {
                    generation,
                    probe: None,
                });
            }
            BreakerState::ForcedOpen => return Err(clock::nanos(self.config.max_open)),
            BreakerState::Open => {
                if now < self.open_until {
                    return Err(self.open_until - now);
                }
                if !self.transitions.half_opens() {
                    self.open_until = now + SHORT_REST;
                    self.publish();
                    return Err(SHORT_REST);
                }
                self.enter(BreakerState::HalfOpen, ChangeReason::RestOver);
            }
            BreakerState::HalfOpen => {}
        }
        self.admit_probe(now)
    }

    fn admit_probe(&mut self, now: u64) -> Result<Pass, u64> {
        // A hung probe must not keep the breaker half-open for good.
        self.leases.retain(|lease| lease.until > now);
        if self.leases.len() >= self.config.max_probes.get() as usize {
            let wait = self.first_lease_end().saturating_sub(now);
            return Err(wait.min(clock::nanos(self.config.open)));
        }
        self.leases_made += 1;
        let until = now.saturating_add(clock::nanos(self.config.probe_lease));
        self.leases.push(Lease {
            probe: self.leases_made,
            until,
        });
        self.publish();
        Ok(Pass {
            generation: self.generation,
            probe: Some(self.leases_made),
        })
    }

    /// Takes note of how an admitted call ended. Not needed for calls that
    /// passed a closed breaker and did well; those the tally counts.
    pub(super) fn record(&mut self, pass: Pass, outcome: Outcome, now: u64) {
        if pass.generation != self.generation {
            return;
        }
        match self.state {
            BreakerState::Closed => self.record_call(outcome, now),
            BreakerState::HalfOpen => self.record_probe(pass, outcome, now),
            BreakerState::Open | BreakerState::ForcedOpen | BreakerState::ForcedClosed => {}
        }
    }

    fn record_call(&mut self, outcome: Outcome, now: u64) {
        match outcome {
            Outcome::Ignore => return,
            Outcome::Success => return self.tally.passed(now, false),
            Outcome::Slow => self.tally.passed(now, true),
            Outcome::Failure => self.tally.failed(now),
        }
        if let Some(reason) = self.transitions.trips(now) {
            let dwell = clock::nanos(self.config.backoff_reset);
            if self
                .closed_since
                .is_none_or(|since| now.saturating_sub(since) >= dwell)
            {
                self.level = 0;
            }
            self.open(reason, now);
        }
    }

    fn record_probe(&mut self, pass: Pass, outcome: Outcome, now: u64) {
        let lease = self
            .leases
            .iter()
            .position(|lease| Some(lease.probe) == pass.probe);
        let Some(lease) = lease else {
            // Its lease ran out and another took its place: too late.
            return;
        };
        self.leases.swap_remove(lease);
        let outcome = match outcome {
            Outcome::Slow if self.config.slow_ratio.is_none() => Outcome::Success,
            outcome => outcome,
        };
        match outcome {
            Outcome::Ignore => self.publish(),
            Outcome::Failure | Outcome::Slow => {
                if self.transitions.reopens() {
                    self.open(ChangeReason::ProbeFailed, now);
                }
            }
            Outcome::Success => {
                self.successes += 1;
                if self.successes >= self.config.success_threshold.get()
                    && self.transitions.closes()
                {
                    self.closed_since = Some(now);
                    self.ramp_end = now.saturating_add(clock::nanos(self.config.ramp));
                    self.enter(BreakerState::Closed, ChangeReason::ProbesSucceeded);
                } else {
                    self.publish();
                }
            }
        }
    }

    fn open(&mut self, reason: ChangeReason, now: u64) {
        let (first, cap) = (
            clock::nanos(self.config.open),
            clock::nanos(self.config.max_open),
        );
        let full = first.saturating_mul(1 << self.level).min(cap);
        // Half of it is certain, so that the service gets its rest; half is
        // random, so that many breakers do not probe it together.
        let half = full / 2;
        self.open_until = now
            .saturating_add(full - half)
            .saturating_add(self.rng.u64(0..=half));
        self.level = (self.level + 1).min(LEVEL_MAX);
        self.enter(BreakerState::Open, reason);
    }

    /// Stays in `state`, one of the forced ones, until [`Self::reset`].
    pub(super) fn force(&mut self, state: BreakerState) {
        if self.state != state {
            self.enter(state, ChangeReason::Forced);
        }
    }

    /// Closed as on the first day.
    pub(super) fn reset(&mut self) {
        self.transitions.reset();
        self.level = 0;
        self.closed_since = None;
        self.ramp_end = 0;
        self.enter(BreakerState::Closed, ChangeReason::Reset);
    }

    fn enter(&mut self, to: BreakerState, reason: ChangeReason) {
        let from = std::mem::replace(&mut self.state, to);
        self.generation += 1;
        self.successes = 0;
        self.leases.clear();
        self.publish();
        if from != to {
            self.news.push(from, to, reason);
        }
    }

    fn publish(&self) {
        let full = self.leases.len() >= self.config.max_probes.get() as usize;
        let shut_until = match self.state {
            BreakerState::Open => self.open_until,
            BreakerState::HalfOpen if full => self.first_lease_end(),
            _ => 0,
        };
        self.gate.publish(Published {
            word: Word {
                state: self.state,
                probes: self.leases.len() as u32,
                generation: self.generation,
            },
            shut_until,
            ramp_end: self.ramp_end,
        });
    }

    fn first_lease_end(&self) -> u64 {
        self.leases
            .iter()
            .map(|lease| lease.until)
            .min()
            .unwrap_or(0)
    }

    pub(super) fn news(&mut self) -> &mut News {
        &mut self.news
    }

    pub(super) fn successes(&self) -> u32 {
        self.successes
    }
}

#[cfg(test)]
mod tests {
    use super::{super::gate::Hints, *};
    use crate::config::Ratio;

    pub(super) const SECOND: u64 = 1_000_000_000;

    pub(super) fn machine(change: impl FnOnce(&mut BreakerConfig)) -> Machine {
        let mut config = BreakerConfig::default();
        change(&mut config);
        let hints = Hints {
            probing: SECOND,
            forced: SECOND,
        };
        let gate = Arc::new(Gate::new(clock::nanos(config.ramp), hints));
        let tally = Arc::new(Tally::new(config.clone()));
        Machine::new(config, tally, gate, Rng::with_seed(7))
    }

    fn call(machine: &mut Machine, outcome: Outcome, now: u64) {
        let pass = machine.admit(now).unwrap();
        machine.record(pass, outcome, now);
    }

    /// Fails until it opens and tells for how long.
    fn trip(machine: &mut Machine, now: u64) -> u64 {
        while machine.state == BreakerState::Closed {
            call(machine, Outcome::Failure, now);
        }
        machine.admit(now).unwrap_err()
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
            assert_eq!(machine.admit(now + rest - 1), Err(1));
            now += rest;
            call(&mut machine, Outcome::Failure, now);
            rest = machine.admit(now).unwrap_err();
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

        let now = now + machine.admit(now).unwrap_err();
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
    fn a_hung_probe_loses_its_place_when_its_lease_ends_and_is_late_after() {
        let mut machine = machine(|_| ());
        let now = trip(&mut machine, 0);
        let hung = machine.admit(now).unwrap();

        assert_eq!(machine.admit(now), Err(5 * SECOND), "not the whole lease");
        assert_eq!(machine.admit(now + 11 * SECOND - 1), Err(1));
        let now = now + 11 * SECOND;
        call(&mut machine, Outcome::Success, now);
        machine.record(hung, Outcome::Failure, now);

        assert_eq!(
            (machine.state, machine.successes),
            (BreakerState::HalfOpen, 1)
        );
    }

    #[test]
    fn results_from_before_a_change_are_ignored() {
        let mut machine = machine(|_| ());
        let (good, bad) = (machine.admit(0).unwrap(), machine.admit(0).unwrap());
        let now = trip(&mut machine, 0);
        let probe = machine.admit(now).unwrap();

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
}
