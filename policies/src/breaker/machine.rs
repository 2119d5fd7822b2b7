//! The breaker behind its lock: what happens when it is not closed, and when
//! calls fail.
//!
//! It takes `now` in nanoseconds from a fixed origin and reads no clock, so
//! its rules are tested as plain arithmetic.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fastrand::Rng;

use super::{
    BreakerConfig, BreakerMode, BreakerState,
    gate::{Closed, Gate, Published, Times, Word},
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
    /// How long the ramp is that ends then.
    ramp: u64,
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

impl Pass {
    /// Of a call that passed the closed breaker.
    pub(super) fn of_closed(closed: Closed) -> Self {
        Self {
            generation: closed.generation(),
            probe: None,
        }
    }
}

impl Machine {
    pub(super) fn new(config: BreakerConfig, tally: Arc<Tally>, gate: Arc<Gate>, rng: Rng) -> Self {
        let transitions = Transitions::new(Arc::clone(&tally));
        let state = at_rest(config.mode);
        let machine = Self {
            config,
            tally,
            gate,
            transitions,
            rng,
            state,
            generation: 0,
            open_until: 0,
            level: 0,
            closed_since: None,
            successes: 0,
            leases: Vec::new(),
            leases_made: 0,
            ramp_end: 0,
            ramp: 0,
            news: News::default(),
        };
        machine.publish();
        machine
    }

    /// Lets a call in, or says how long it should stay away.
    pub(super) fn admit(&mut self, now: u64) -> Result<Pass, u64> {
        let generation = self.generation;
        match self.state {
            BreakerState::Closed | BreakerState::ForcedClosed | BreakerState::Disabled => {
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
            BreakerState::ForcedClosed => self.count(outcome, now),
            BreakerState::Open | BreakerState::ForcedOpen | BreakerState::Disabled => {}
        }
    }

    fn count(&self, outcome: Outcome, now: u64) {
        match outcome {
            Outcome::Ignore => {}
            Outcome::Success => self.tally.passed(now, false),
            Outcome::Slow => self.tally.passed(now, true),
            Outcome::Failure => self.tally.failed(now),
        }
    }

    fn record_call(&mut self, outcome: Outcome, now: u64) {
        self.count(outcome, now);
        if matches!(outcome, Outcome::Ignore | Outcome::Success) {
            return;
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
                    self.begin_ramp(now);
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
        self.begin_anew(ChangeReason::Reset);
    }

    /// As [`Self::reset`], but with a ramp, for a service that was down.
    pub(super) fn recover(&mut self, now: u64) {
        self.forget();
        self.closed_since = Some(now);
        self.begin_ramp(now);
        self.enter(at_rest(self.config.mode), ChangeReason::Reset);
    }

    fn begin_anew(&mut self, reason: ChangeReason) {
        self.forget();
        self.enter(at_rest(self.config.mode), reason);
    }

    fn forget(&mut self) {
        self.transitions.reset();
        self.level = 0;
        self.closed_since = None;
        self.ramp_end = 0;
    }

    fn begin_ramp(&mut self, now: u64) {
        self.ramp = clock::nanos(self.config.ramp);
        self.ramp_end = now.saturating_add(self.ramp);
    }

    /// Goes on with `config` from `now` on. Keeps its state, its counts and
    /// the rest or ramp that it is in; only a breaker that was or becomes
    /// disabled begins anew.
    pub(super) fn reconfigure(&mut self, config: BreakerConfig, now: u64) {
        self.tally.reconfigure(config.clone(), now);
        self.gate.set_times(Times::of(&config));
        let before = std::mem::replace(&mut self.config, config);
        let forced = matches!(
            self.state,
            BreakerState::ForcedOpen | BreakerState::ForcedClosed
        );
        let disabled = |mode| mode == BreakerMode::Disabled;
        if disabled(before.mode) != disabled(self.config.mode) && !forced {
            self.begin_anew(ChangeReason::Reconfigured);
        } else {
            self.publish();
        }
    }

    pub(super) fn config(&self) -> &BreakerConfig {
        &self.config
    }

    fn enter(&mut self, to: BreakerState, reason: ChangeReason) {
        let from = std::mem::replace(&mut self.state, to);
        self.generation += 1;
        self.successes = 0;
        self.leases.clear();
        self.publish();
        if from != to {
            let enforced = self.config.mode == BreakerMode::Enforce;
            self.news.push(from, to, reason, enforced);
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
            ramp: self.ramp,
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

/// The state of a breaker that nothing has happened to.
fn at_rest(mode: BreakerMode) -> BreakerState {
    match mode {
        BreakerMode::Enforce | BreakerMode::ObserveOnly => BreakerState::Closed,
        BreakerMode::Disabled => BreakerState::Disabled,
    }
}
