//! The breaker behind its lock: what happens when it is not closed, and when
//! calls fail.
//!
//! It takes `now` in nanoseconds from a fixed origin and reads no clock, so
//! its rules are tested as plain arithmetic.

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
    /// The state that somebody forces it into.
    forced: Option<BreakerState>,
    /// How many keep it open because a service is not well.
    holders: usize,
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
    /// How long a probe without a deadline may take, as far as its settings
    /// turned out to be too short.
    patience: u64,
    ramp_end: u64,
    /// How long the ramp is that ends then.
    ramp: u64,
    news: News,
}

/// A probe in flight, and how long its place is its own. One that takes longer
/// is given up.
#[derive(Clone, Copy, Debug)]
struct Lease {
    probe: u64,
    until: u64,
    /// Whether the service had time enough to be blamed then.
    blames: bool,
}

/// How long after its deadline a probe is given up, in nanoseconds. Its own
/// timer comes first, even on a machine that is busy.
const OVERDUE: u64 = 1_000_000_000;

/// Who lets a call in. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// The generation whose result it is.
    pub(super) generation: u64,
    /// Its lease, and when it began, if it is a probe.
    pub(super) probe: Option<Probe>,
}

/// A call that is to find out how the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    lease: u64,
    since: u64,
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
        let state = match config.mode {
            BreakerMode::Enforce | BreakerMode::ObserveOnly => BreakerState::Closed,
            BreakerMode::Disabled => BreakerState::Disabled,
        };
        let machine = Self {
            config,
            tally,
            gate,
            transitions,
            rng,
            state,
            forced: None,
            holders: 0,
            generation: 0,
            open_until: 0,
            level: 0,
            closed_since: None,
            successes: 0,
            leases: Vec::new(),
            leases_made: 0,
            patience: 0,
            ramp_end: 0,
            ramp: 0,
            news: News::default(),
        };
        machine.publish();
        machine
    }

    /// Lets a call in that ends at `until`, if that is known, or says how long
    /// it should stay away.
    pub(super) fn admit(&mut self, now: u64, until: Option<u64>) -> Result<Pass, u64> {
        self.give_up_overdue(now);
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
        self.admit_probe(now, until)
    }

    /// A hung probe must not keep the breaker half-open for good. It has failed
    /// as one that says so has, unless it had too little time.
    fn give_up_overdue(&mut self, now: u64) {
        let is_overdue = |lease: &Lease| lease.until <= now;
        if self
            .leases
            .iter()
            .any(|lease| is_overdue(lease) && lease.blames)
        {
            self.fail_probe(now);
        }
        self.leases.retain(|lease| !is_overdue(lease));
    }

    fn admit_probe(&mut self, now: u64, until: Option<u64>) -> Result<Pass, u64> {
        if self.leases.len() >= self.config.max_probes.get() as usize {
            let wait = self.first_lease_end().saturating_sub(now);
            return Err(wait.min(clock::nanos(self.config.open)));
        }
        self.leases_made += 1;
        let lease = self.lease(self.leases_made, now, until);
        self.leases.push(lease);
        self.publish();
        Ok(Pass {
            generation: self.generation,
            probe: Some(Probe {
                lease: lease.probe,
                since: now,
            }),
        })
    }

    /// As long as the call may take; where nobody has said that, as long as
    /// the settings do.
    fn lease(&self, probe: u64, since: u64, until: Option<u64>) -> Lease {
        let Some(until) = until else {
            let time = clock::nanos(self.config.probe_lease).max(self.patience);
            return Lease {
                probe,
                until: since.saturating_add(time),
                blames: true,
            };
        };
        let short = clock::nanos(self.config.short_deadline);
        Lease {
            probe,
            until: until.saturating_add(OVERDUE),
            blames: until.saturating_sub(since) > short,
        }
    }

    /// Notes when the time of a probe is up.
    pub(super) fn lend(&mut self, pass: Pass, until: u64) {
        let Some(probe) = pass.probe else { return };
        let lease = self.lease(probe.lease, probe.since, Some(until));
        let held = self
            .leases
            .iter_mut()
            .find(|held| held.probe == probe.lease);
        if let Some(held) = held {
            *held = lease;
            self.publish();
        }
    }

    /// Takes note of how an admitted call ended. Not needed for calls that
    /// passed a closed breaker and did well; those the tally counts.
    pub(super) fn record(&mut self, pass: Pass, outcome: Outcome, now: u64) {
        match pass.probe {
            Some(probe) if pass.generation == self.generation => {
                return self.record_probe(probe, outcome, now);
            }
            Some(probe) => return self.learn(probe, outcome, now),
            None if pass.generation != self.generation => return,
            None => {}
        }
        match self.state {
            BreakerState::Closed => self.record_call(outcome, now),
            BreakerState::ForcedClosed => self.count(outcome, now),
            // Lets in probes alone, or nobody, or does not count.
            BreakerState::HalfOpen
            | BreakerState::Open
            | BreakerState::ForcedOpen
            | BreakerState::Disabled => {}
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

    fn record_probe(&mut self, probe: Probe, outcome: Outcome, now: u64) {
        // One that was given up meanwhile says as much as any other.
        self.leases.retain(|lease| lease.probe != probe.lease);
        let outcome = match outcome {
            Outcome::Slow if self.config.slow_ratio.is_none() => Outcome::Success,
            outcome => outcome,
        };
        match outcome {
            Outcome::Ignore => self.publish(),
            Outcome::Failure | Outcome::Slow => self.fail_probe(now),
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

    fn fail_probe(&mut self, now: u64) {
        if self.transitions.reopens() {
            self.open(ChangeReason::ProbeFailed, now);
        }
    }

    /// Of a probe that was given up for failed: when the service answered it
    /// after all, the next ones get twice the time. Otherwise a service that
    /// takes longer than `probe_lease` would never be found well.
    fn learn(&mut self, probe: Probe, outcome: Outcome, now: u64) {
        if matches!(outcome, Outcome::Success | Outcome::Slow) {
            let took = now.saturating_sub(probe.since).saturating_mul(2);
            self.patience = self.patience.max(took.min(clock::nanos(clock::HORIZON)));
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
        self.forced = Some(state);
        if self.state != state {
            self.enter(state, ChangeReason::Forced);
        }
    }

    /// Stays open until whoever holds it releases it, unless somebody forces
    /// it closed meanwhile or it is disabled.
    pub(super) fn hold_open(&mut self) {
        self.holders += 1;
        let flows = self.state != BreakerState::ForcedOpen;
        if flows && self.at_rest() == BreakerState::ForcedOpen {
            self.enter(BreakerState::ForcedOpen, ChangeReason::Unhealthy);
        }
    }

    /// The last one to release it lets the traffic come back little by little.
    pub(super) fn release(&mut self, now: u64) {
        self.holders = self.holders.saturating_sub(1);
        let is_forced = self.forced.is_some();
        if self.holders == 0 && !is_forced && self.state == BreakerState::ForcedOpen {
            self.come_back(ChangeReason::Healthy, now);
        }
    }

    /// Closed as on the first day, if nobody holds it.
    pub(super) fn reset(&mut self) {
        self.forced = None;
        self.begin_anew(ChangeReason::Reset);
    }

    /// As [`Self::reset`], but with a ramp, for a service that was down.
    pub(super) fn recover(&mut self, now: u64) {
        self.forced = None;
        self.come_back(ChangeReason::Reset, now);
    }

    fn come_back(&mut self, reason: ChangeReason, now: u64) {
        self.forget();
        self.closed_since = Some(now);
        self.begin_ramp(now);
        self.enter(self.at_rest(), reason);
    }

    fn begin_anew(&mut self, reason: ChangeReason) {
        self.forget();
        self.enter(self.at_rest(), reason);
    }

    /// The state in which it stays by itself.
    fn at_rest(&self) -> BreakerState {
        match (self.forced, self.config.mode) {
            (Some(forced), _) => forced,
            (None, BreakerMode::Disabled) => BreakerState::Disabled,
            (None, _) if self.holders > 0 => BreakerState::ForcedOpen,
            (None, _) => BreakerState::Closed,
        }
    }

    fn forget(&mut self) {
        self.transitions.reset();
        self.level = 0;
        self.patience = 0;
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
        let disabled = |mode| mode == BreakerMode::Disabled;
        if disabled(before.mode) != disabled(self.config.mode) && self.forced.is_none() {
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
