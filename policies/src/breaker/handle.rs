//! The breaker as its users hold it.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use fastrand::Rng;

use super::{
    BreakerConfig, BreakerMode, BreakerState, Permit,
    gate::{Answer, Closed, Gate, Times},
    machine::{Machine, Pass},
    policy::Tally,
};
use crate::{
    classify::Outcome,
    clock::{self, Instant},
    config::ConfigError,
    event::{Emitter, Listener, PolicyEvent},
    refusal::RefusalKind,
    shed::Criticality,
    striped::Place,
    sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering},
};

/// A circuit breaker. Clones share it, and so may several layers.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What calls need of the configuration, in nanoseconds. The machine has
    /// the rest.
    short_deadline: AtomicU64,
    slow_after: AtomicU64,
    /// Whether it only tells what it would refuse.
    observes: AtomicBool,
    gate: Arc<Gate>,
    tally: Arc<Tally>,
    machine: Mutex<Machine>,
    emitter: Emitter,
}

/// A generation that no breaker reaches; what is of it counts for nothing.
const NO_GENERATION: u64 = u64::MAX;

/// A limit that no call reaches.
const NEVER: u64 = u64::MAX;

/// What a breaker knows at one moment. Taking it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSnapshot {
    /// Whether it does what its state says.
    pub mode: BreakerMode,
    /// Whether it lets calls through. Open until a call comes after the rest.
    pub state: BreakerState,
    /// How many times its state changed.
    pub changes: u64,
    /// Probes in flight.
    pub probes: u32,
    /// Probes that succeeded since it half-opened.
    pub probe_successes: u32,
    /// Calls in the window that said something about the service.
    pub requests: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them, if there is a rule for those.
    pub slow: u64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// For how long it will refuse calls, if it would refuse one now.
    pub retry_after: Option<Duration>,
}

impl Breaker {
    /// A closed breaker.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: BreakerConfig) -> Result<Self, ConfigError> {
        Self::build(config, Rng::new(), Emitter::default())
    }

    /// A closed breaker that tells `listener` of its changes, each once and
    /// in order, however many layers share it.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_listener(
        config: BreakerConfig,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, ConfigError> {
        Self::build(config, Rng::new(), Emitter::new(listener))
    }

    /// As [`Self::with_listener`], with rests that are the same for the same
    /// `seed`.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_seed(
        config: BreakerConfig,
        listener: Arc<dyn Listener>,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        Self::build(config, Rng::with_seed(seed), Emitter::new(listener))
    }

    fn build(config: BreakerConfig, rng: Rng, emitter: Emitter) -> Result<Self, ConfigError> {
        config.validate()?;
        let gate = Arc::new(Gate::new(Times::of(&config)));
        let tally = Arc::new(Tally::new(config.clone()));
        let machine = Machine::new(config.clone(), Arc::clone(&tally), Arc::clone(&gate), rng);
        Ok(Self(Arc::new(Shared {
            short_deadline: AtomicU64::new(clock::nanos(config.short_deadline)),
            slow_after: AtomicU64::new(config.slow_after.map_or(NEVER, clock::nanos)),
            observes: AtomicBool::new(config.mode == BreakerMode::ObserveOnly),
            gate,
            tally,
            machine: Mutex::new(machine),
            emitter,
        })))
    }

    /// What it goes by now.
    #[must_use]
    pub fn config(&self) -> BreakerConfig {
        self.machine().config().clone()
    }

    /// Goes on with `config`. Its state, the counts in the window, calls in
    /// flight and the rest or the ramp that it is in stay as they are; what
    /// comes after them is as `config` says. Only a breaker that was
    /// [disabled](BreakerMode::Disabled) or becomes so begins anew.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; then nothing has changed.
    pub fn reconfigure(&self, config: BreakerConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let now = clock::now().as_nanos();
        self.decide(|machine| self.apply(machine, config, now));
        Ok(())
    }

    /// Changes the mode alone; see [`Self::reconfigure`].
    pub fn set_mode(&self, mode: BreakerMode) {
        let now = clock::now().as_nanos();
        self.decide(|machine| {
            let config = BreakerConfig {
                mode,
                ..machine.config().clone()
            };
            self.apply(machine, config, now);
        });
    }

    /// Under the machine's lock, so that of two callers one sets all of it.
    fn apply(&self, machine: &mut Machine, config: BreakerConfig, now: u64) {
        let shared = &*self.0;
        let slow_after = config.slow_after.map_or(NEVER, clock::nanos);
        let short_deadline = clock::nanos(config.short_deadline);
        let observes = config.mode == BreakerMode::ObserveOnly;
        shared.slow_after.store(slow_after, Ordering::Relaxed);
        shared
            .short_deadline
            .store(short_deadline, Ordering::Relaxed);
        shared.observes.store(observes, Ordering::Relaxed);
        machine.reconfigure(config, now);
    }

    /// Lets a call of the usual importance in at `now`. Tell the permit how
    /// the call ended.
    ///
    /// # Errors
    ///
    /// Says how long the caller should stay away, as far as can be told.
    pub fn admit(&self, now: Instant) -> Result<Permit, Duration> {
        self.admit_as(now, Criticality::default())
    }

    /// As [`Self::admit`], for a call of the given importance. While traffic
    /// ramps up, the more important calls come first.
    ///
    /// # Errors
    ///
    /// As for [`Self::admit`].
    pub fn admit_as(&self, now: Instant, criticality: Criticality) -> Result<Permit, Duration> {
        match self.pass(now, criticality, None) {
            Ok(pass) => Ok(Permit::new(self.clone(), pass)),
            Err(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// As [`Self::admit`], through a breaker that is closed, for callers that
    /// see to it that the end of the call is counted or recorded.
    #[inline]
    pub(super) fn pass_closed(&self, now: Instant) -> Option<Closed> {
        self.0.gate.pass_closed(now.as_nanos())
    }

    /// As [`Self::admit`], for callers that see to it that the end of the call
    /// is recorded. `until` is when the call's time is up, if that is known. How
    /// long to stay away is in nanoseconds.
    #[inline(always)]
    pub(super) fn pass(
        &self,
        now: Instant,
        criticality: Criticality,
        until: Option<Instant>,
    ) -> Result<Pass, u64> {
        let nanos = now.as_nanos();
        match self.0.gate.ask(nanos, criticality) {
            Answer::Pass(generation) => Ok(Pass {
                generation,
                probe: None,
            }),
            Answer::Refuse(wait) => self.refuse(wait),
            Answer::Ask => self
                .ask_machine(nanos, criticality, until)
                .or_else(|wait| self.refuse(wait)),
        }
    }

    #[cold]
    fn ask_machine(
        &self,
        now: u64,
        criticality: Criticality,
        until: Option<Instant>,
    ) -> Result<Pass, u64> {
        let until = until.map(Instant::as_nanos);
        let pass = self.decide(|machine| machine.admit(now, until))?;
        if pass.probe.is_some() {
            return Ok(pass);
        }
        // It has closed since the gate was asked, and there may be a ramp.
        match self.0.gate.ask(now, criticality) {
            Answer::Refuse(wait) => Err(wait),
            Answer::Pass(_) | Answer::Ask => Ok(pass),
        }
    }

    /// Refuses a call for `wait`, if it refuses any.
    #[inline]
    fn refuse(&self, wait: u64) -> Result<Pass, u64> {
        match self.0.observes.load(Ordering::Relaxed) {
            false => Err(wait),
            true => Ok(self.would_refuse(wait)),
        }
    }

    #[cold]
    fn would_refuse(&self, wait: u64) -> Pass {
        self.0.emitter.emit(&PolicyEvent::WouldRefuse {
            by: RefusalKind::CircuitOpen,
            retry_after: Some(Duration::from_nanos(wait)),
        });
        Pass {
            generation: NO_GENERATION,
            probe: None,
        }
    }

    /// Whether a call let in `at` that asked the service later and ends `until`
    /// gave it enough time to be blamed for not using it.
    pub(super) fn is_time_enough(&self, at: Instant, asked: Instant, until: Instant) -> bool {
        let short = self.0.short_deadline.load(Ordering::Relaxed);
        // Of the time that the caller has, the service gets what our own queue
        // leaves. Where that is the smaller part, the queue is what is slow.
        until - asked > Duration::from_nanos(short).max(asked - at)
    }

    /// Notes when the time of a probe in flight is up.
    pub(super) fn lend(&self, pass: Pass, until: Instant) {
        self.decide(|machine| machine.lend(pass, until.as_nanos()));
    }

    /// Whether it lets calls through.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.0.gate.word().state
    }

    #[cfg(all(test, loom))]
    pub(super) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// What it knows at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let now = now.as_nanos();
        let mut machine = self.machine();
        let mode = machine.config().mode;
        let word = self.0.gate.word();
        let calls = self.0.tally.calls(now);
        let refuses = mode != BreakerMode::ObserveOnly;
        let retry_after = self.0.gate.shut_for(now).filter(|_| refuses);
        BreakerSnapshot {
            mode,
            state: word.state,
            changes: machine.news().sequence(),
            probes: word.probes,
            probe_successes: machine.successes(),
            requests: calls.all,
            failures: calls.marked,
            slow: self.0.tally.slow(now),
            consecutive_failures: self.0.tally.consecutive(),
            retry_after: retry_after.map(Duration::from_nanos),
        }
    }

    /// Refuses all calls until [`Self::reset`]. One that only
    /// [observes](BreakerMode::ObserveOnly) refuses none even then, and tells
    /// of each that it would have.
    pub fn force_open(&self) {
        self.decide(|machine| machine.force(BreakerState::ForcedOpen));
    }

    /// Lets all calls in and counts them, however they end, until
    /// [`Self::reset`].
    pub fn force_closed(&self) {
        self.decide(|machine| machine.force(BreakerState::ForcedClosed));
    }

    /// Takes back what it was forced to, and forgets everything: counts, rests
    /// and calls in flight. It is closed then, unless it is disabled, or a
    /// [check](crate::HealthMonitor::watch_breaker) holds it open.
    pub fn reset(&self) {
        self.decide(Machine::reset);
    }

    /// As [`Self::reset`], for a service that is known to have been down:
    /// traffic ramps up, as after probes that succeeded.
    pub fn recover(&self) {
        let now = clock::now().as_nanos();
        self.decide(|machine| machine.recover(now));
    }

    /// Keeps it open, beside whoever else does, until [`Self::release`].
    pub(crate) fn hold_open(&self) {
        self.decide(Machine::hold_open);
    }

    /// Takes one [`Self::hold_open`] back. After the last one traffic ramps up,
    /// unless somebody has forced the breaker.
    pub(crate) fn release(&self) {
        let now = clock::now().as_nanos();
        self.decide(|machine| machine.release(now));
    }

    /// Lets the machine decide and tells the listener what came of it.
    fn decide<T>(&self, decide: impl FnOnce(&mut Machine) -> T) -> T {
        let (decision, news) = {
            let mut machine = self.machine();
            let decision = decide(&mut machine);
            (decision, machine.news().begin_telling())
        };
        if news {
            self.tell();
        }
        decision
    }

    /// Whether it matters how long a successful call took.
    #[inline]
    pub(super) fn times_calls(&self) -> bool {
        self.0.tally.has_slow_rule()
    }

    pub(super) fn is_slow(&self, took: Duration) -> bool {
        clock::nanos(took) >= self.0.slow_after.load(Ordering::Relaxed)
    }

    /// Counts a success, at `now`, of a call that passed the closed breaker.
    /// Says no where that is not all there is to it: the breaker has changed,
    /// or wants to know how long the call took. Then it is to be recorded.
    ///
    /// Nothing keeps the breaker from changing between the look at it and the
    /// count. Then one success of this thread is counted that is older than the
    /// change; to rule it out would cost every call a lock, and it can neither
    /// trip nor close anything: failures, and what probes say, are counted
    /// under the machine's lock alone.
    #[inline]
    pub(super) fn count_success(&self, closed: Closed, place: Place, now: Instant) -> bool {
        let is_all = self.0.gate.is_still(closed) && !self.times_calls();
        if is_all {
            self.0.tally.succeeded(place, now.as_nanos());
        }
        is_all
    }

    pub(super) fn record(&self, pass: Pass, outcome: Outcome, now: Instant) {
        let nanos = now.as_nanos();
        let word = self.0.gate.word();
        // What a probe says comes too late, but not how long it took.
        if word.generation != pass.generation && pass.probe.is_none() {
            return;
        }
        let flows = matches!(
            word.state,
            BreakerState::Closed | BreakerState::ForcedClosed
        );
        match outcome {
            // A call that is not a probe holds nothing.
            Outcome::Ignore if pass.probe.is_none() => return,
            Outcome::Success if flows && pass.probe.is_none() => {
                return self.0.tally.passed(nanos, false);
            }
            Outcome::Slow if flows && pass.probe.is_none() && !self.times_calls() => {
                return self.0.tally.passed(nanos, true);
            }
            _ if word.state == BreakerState::Disabled => return,
            _ => {}
        }
        self.decide(|machine| machine.record(pass, outcome, nanos));
    }

    /// A panic can only come from a broken promise of `failsafe`'s, and does
    /// not get better by refusing every call from then on.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listener what changed, with no lock held. Whoever changes
    /// something meanwhile leaves it to be told here; so the order is kept,
    /// and a listener may call the breaker.
    fn tell(&self) {
        let telling = Telling(self);
        loop {
            let Some(change) = self.machine().news().next() else {
                break;
            };
            self.0.emitter.emit(&PolicyEvent::BreakerChanged(change));
        }
        // With the last change told the machine has ended it by itself.
        std::mem::forget(telling);
    }
}

/// Lets somebody else tell the listener if it panics.
struct Telling<'a>(&'a Breaker);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.machine().news().end_telling();
    }
}
