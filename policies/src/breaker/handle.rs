//! The breaker as its users hold it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;

use super::{
    BreakerConfig, BreakerState, Permit,
    gate::{Answer, Gate, Hints},
    machine::{Machine, Pass},
    policy::Tally,
};
use crate::{
    classify::Outcome,
    clock::{self, Instant},
    config::ConfigError,
    event::{Emitter, Listener, PolicyEvent},
};

/// A circuit breaker. Clones share it, and so may several layers.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: BreakerConfig,
    /// Of `config`, in nanoseconds.
    short_deadline: u64,
    gate: Arc<Gate>,
    tally: Arc<Tally>,
    machine: Mutex<Machine>,
    emitter: Emitter,
}

/// What a breaker knows at one moment. Taking it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSnapshot {
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
        let hints = Hints {
            probing: clock::nanos(config.open),
            forced: clock::nanos(config.max_open),
        };
        let gate = Arc::new(Gate::new(clock::nanos(config.ramp), hints));
        let tally = Arc::new(Tally::new(config.clone()));
        let machine = Machine::new(config.clone(), Arc::clone(&tally), Arc::clone(&gate), rng);
        Ok(Self(Arc::new(Shared {
            short_deadline: clock::nanos(config.short_deadline),
            config,
            gate,
            tally,
            machine: Mutex::new(machine),
            emitter,
        })))
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &BreakerConfig {
        &self.0.config
    }

    /// Lets a call in at `now`. Tell the permit how the call ended.
    ///
    /// # Errors
    ///
    /// Says how long the caller should stay away, as far as can be told.
    pub fn admit(&self, now: Instant) -> Result<Permit, Duration> {
        self.pass(now).map(|pass| Permit::new(self.clone(), pass))
    }

    /// As [`Self::admit`], for callers that see to it that the end of the call
    /// is recorded.
    #[inline]
    pub(super) fn pass(&self, now: Instant) -> Result<Pass, Duration> {
        let nanos = now.as_nanos();
        let pass = match self.0.gate.ask(nanos) {
            Answer::Pass(generation) => Ok(Pass {
                generation,
                probe: None,
            }),
            Answer::Refuse(wait) => Err(wait),
            Answer::Ask => self.decide(|machine| machine.admit(nanos)),
        };
        pass.map_err(Duration::from_nanos)
    }

    /// Whether a call let in `at` that ends `until` gives the service enough
    /// time to be blamed for not using it.
    #[inline]
    pub(super) fn is_time_enough(&self, at: Instant, until: Instant) -> bool {
        until.as_nanos().saturating_sub(at.as_nanos()) > self.0.short_deadline
    }

    /// Whether it lets calls through.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.0.gate.word().state
    }

    /// What it knows at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> BreakerSnapshot {
        let now = now.as_nanos();
        let mut machine = self.machine();
        let word = self.0.gate.word();
        let calls = self.0.tally.calls(now);
        BreakerSnapshot {
            state: word.state,
            changes: machine.news().sequence(),
            probes: word.probes,
            probe_successes: machine.successes(),
            requests: calls.all,
            failures: calls.marked,
            slow: self.0.tally.slow(now),
            consecutive_failures: self.0.tally.consecutive(),
            retry_after: self.0.gate.shut_for(now).map(Duration::from_nanos),
        }
    }

    /// Refuses all calls until [`Self::reset`].
    pub fn force_open(&self) {
        self.decide(|machine| machine.force(BreakerState::ForcedOpen));
    }

    /// Lets all calls in, however they end, until [`Self::reset`].
    pub fn force_closed(&self) {
        self.decide(|machine| machine.force(BreakerState::ForcedClosed));
    }

    /// Closes it and forgets everything: counts, rests and calls in flight.
    pub fn reset(&self) {
        self.decide(Machine::reset);
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
        self.0.config.slow_ratio.is_some()
    }

    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.0.config.slow_after.is_some_and(|limit| took >= limit)
    }

    /// [`Self::record`] of a success, which needs no lock while closed.
    #[inline]
    pub(super) fn succeeded(&self, pass: Pass, now: Instant) {
        let word = self.0.gate.word();
        if word.generation == pass.generation && word.state == BreakerState::Closed {
            self.0.tally.passed(now.as_nanos(), false);
        } else {
            self.record(pass, Outcome::Success, now);
        }
    }

    pub(super) fn record(&self, pass: Pass, outcome: Outcome, now: Instant) {
        let nanos = now.as_nanos();
        let word = self.0.gate.word();
        if word.generation != pass.generation {
            return;
        }
        match outcome {
            // A call that is not a probe holds nothing.
            Outcome::Ignore if pass.probe.is_none() => return,
            Outcome::Success if word.state == BreakerState::Closed => {
                return self.0.tally.passed(nanos, false);
            }
            Outcome::Slow if word.state == BreakerState::Closed && !self.times_calls() => {
                return self.0.tally.passed(nanos, true);
            }
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

#[cfg(test)]
mod tests {
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
}
