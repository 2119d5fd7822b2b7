//! When a closed breaker trips: our rules, in the form `failsafe` asks for.
//!
//! `failsafe` owns the transitions between closed, open and half-open. It is
//! told of failures, and of the successes that count, and nothing else; how
//! long to stay open, how many probes to let in and whose results are too
//! late is the machine's business, so the policy always answers with an open
//! time of zero.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU8},
    time::Duration,
};

use failsafe::{FailurePolicy, Instrument, StateMachine};

use super::BreakerConfig;
use crate::{
    event::ChangeReason,
    striped::Place,
    sync::{AtomicBool, AtomicU32, Ordering},
    window::{Counts, Window},
};

/// What happened lately. Written by every call, read when one fails.
#[derive(Debug)]
pub(super) struct Tally {
    /// Only needed where something failed.
    rules: Mutex<BreakerConfig>,
    has_slow_rule: AtomicBool,
    /// Every call; marked are the failures.
    calls: Window,
    /// Every call; marked are the slow ones. Unused without a slow rule.
    slow: Window,
    consecutive: AtomicU32,
}

impl Tally {
    pub(super) fn new(rules: BreakerConfig) -> Self {
        Self {
            calls: Window::new(rules.window),
            slow: Window::new(rules.window),
            consecutive: AtomicU32::new(0),
            has_slow_rule: AtomicBool::new(rules.slow_ratio.is_some()),
            rules: Mutex::new(rules),
        }
    }

    /// Goes on with other rules from `now` on, and keeps the counts.
    pub(super) fn reconfigure(&self, rules: BreakerConfig, now: u64) {
        let mut known = self.rules();
        self.calls.resize(rules.window, now);
        self.slow.resize(rules.window, now);
        let has_slow_rule = rules.slow_ratio.is_some();
        if has_slow_rule && known.slow_ratio.is_none() {
            // What it holds is from before it was last switched off.
            self.slow.clear();
        }
        self.has_slow_rule.store(has_slow_rule, Ordering::Relaxed);
        *known = rules;
    }

    fn rules(&self) -> MutexGuard<'_, BreakerConfig> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it matters how long a successful call took.
    #[inline]
    pub(super) fn has_slow_rule(&self) -> bool {
        self.has_slow_rule.load(Ordering::Relaxed)
    }

    /// Counts a call that did not fail.
    pub(super) fn passed(&self, now: u64, slow: bool) {
        self.succeeded(Place::of_this_thread(), now);
        if self.has_slow_rule() {
            self.slow.add(now, slow);
        }
    }

    /// As [`Self::passed`], without a rule for slow calls. This is the path of
    /// nearly all.
    #[inline]
    pub(super) fn succeeded(&self, place: Place, now: u64) {
        self.calls.add_at(place, now, false);
        // Not written for nothing: all threads read it.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self, now: u64) {
        self.calls.add(now, true);
        if self.has_slow_rule() {
            self.slow.add(now, false);
        }
        // Stops at the top: a count that came round would untrip the rule.
        let _ = self
            .consecutive
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_add(1)
            });
    }

    pub(super) fn clear(&self) {
        self.calls.clear();
        self.slow.clear();
        self.consecutive.store(0, Ordering::Relaxed);
    }

    pub(super) fn calls(&self, now: u64) -> Counts {
        self.calls.sum(now)
    }

    pub(super) fn slow(&self, now: u64) -> u64 {
        self.slow.sum(now).marked
    }

    pub(super) fn consecutive(&self) -> u32 {
        self.consecutive.load(Ordering::Relaxed)
    }

    /// The rule that is broken at `now`, if one is.
    pub(super) fn broken_rule(&self, now: u64) -> Option<ChangeReason> {
        let rules = self.rules();
        if self.consecutive() >= rules.consecutive_failures.get() {
            return Some(ChangeReason::ConsecutiveFailures);
        }
        let calls = self.calls(now);
        if calls.all < u64::from(rules.min_requests.get()) {
            return None;
        }
        if rules.failure_ratio.is_reached(calls.marked, calls.all) {
            return Some(ChangeReason::FailureRatio);
        }
        let slow = self.slow.sum(now);
        rules
            .slow_ratio
            .filter(|ratio| ratio.is_reached(slow.marked, slow.all))
            .map(|_| ChangeReason::SlowRatio)
    }
}

/// What the policy is asked about, and what it said. `failsafe` has no room
/// for either in its own question.
#[derive(Debug, Default)]
struct Question {
    now: u64,
    broken: Option<ChangeReason>,
}

/// [`Tally::broken_rule`] for `failsafe`.
#[derive(Debug)]
struct TripPolicy {
    tally: Arc<Tally>,
    question: Arc<Mutex<Question>>,
}

impl FailurePolicy for TripPolicy {
    fn record_success(&mut self) {
        // Counted already, without `failsafe`'s lock.
    }

    fn mark_dead_on_failure(&mut self) -> Option<Duration> {
        let mut question = self.question.lock().unwrap_or_else(PoisonError::into_inner);
        question.broken = self.tally.broken_rule(question.now);
        question.broken.map(|_| Duration::ZERO)
    }

    fn revived(&mut self) {
        self.tally.clear();
    }
}

/// Where `failsafe` says that it is. Only stores, because `failsafe` may
/// call it while it holds its lock.
#[derive(Clone, Debug)]
struct Verdict(Arc<AtomicU8>);

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

impl Instrument for Verdict {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.0.store(OPEN, Ordering::Relaxed);
    }

    fn on_half_open(&self) {
        self.0.store(HALF_OPEN, Ordering::Relaxed);
    }

    fn on_closed(&self) {
        self.0.store(CLOSED, Ordering::Relaxed);
    }
}

/// `failsafe`, with each question in the machine's words. Used under the
/// machine's lock alone, so nobody else moves it between question and answer.
#[derive(Debug)]
pub(super) struct Transitions {
    failsafe: StateMachine<TripPolicy, Verdict>,
    verdict: Verdict,
    question: Arc<Mutex<Question>>,
    tally: Arc<Tally>,
}

impl Transitions {
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        let verdict = Verdict(Arc::new(AtomicU8::new(CLOSED)));
        let question = Arc::<Mutex<Question>>::default();
        let policy = TripPolicy {
            tally: Arc::clone(&tally),
            question: Arc::clone(&question),
        };
        let failsafe = StateMachine::new(policy, verdict.clone());
        Self {
            failsafe,
            verdict,
            question,
            tally,
        }
    }

    /// After a failure, or a slow call, through the closed breaker at `now`:
    /// why it is open now, if it is.
    pub(super) fn trips(&self, now: u64) -> Option<ChangeReason> {
        let question = || self.question.lock().unwrap_or_else(PoisonError::into_inner);
        *question() = Question { now, broken: None };
        self.failsafe.on_error();
        let broken = question().broken;
        broken.filter(|_| self.is(OPEN))
    }

    /// After a probe failed: is it open again?
    pub(super) fn reopens(&self) -> bool {
        self.failsafe.on_error();
        self.is(OPEN)
    }

    /// With the rest over: is it half-open now?
    pub(super) fn half_opens(&self) -> bool {
        // Its own open time was zero, but it wants its own clock, which has
        // steps too, to have moved on.
        (0..1000).any(|_| self.failsafe.is_call_permitted()) && self.is(HALF_OPEN)
    }

    /// With enough probes succeeded: is it closed now?
    pub(super) fn closes(&self) -> bool {
        self.failsafe.on_success();
        self.is(CLOSED)
    }

    /// Back to the start.
    pub(super) fn reset(&self) {
        self.failsafe.reset();
        self.tally.clear();
    }

    fn is(&self, state: u8) -> bool {
        self.verdict.0.load(Ordering::Relaxed) == state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Ratio;

    fn tally(change: impl FnOnce(&mut BreakerConfig)) -> Tally {
        let mut rules = BreakerConfig::default();
        change(&mut rules);
        Tally::new(rules)
    }

    #[test]
    fn five_failures_in_a_row_break_a_rule_and_four_do_not() {
        let tally = tally(|_| ());
        (0..4).for_each(|_| tally.failed(0));
        assert_eq!(tally.broken_rule(0), None);

        tally.failed(0);
        assert_eq!(
            tally.broken_rule(0),
            Some(ChangeReason::ConsecutiveFailures)
        );

        tally.passed(0, false);
        assert_eq!(
            tally.broken_rule(0),
            None,
            "a success ends the row, and six calls are too few"
        );
    }

    /// Six of ten; but not six of nine, nor five of ten.
    #[test]
    fn the_ratio_counts_from_the_tenth_call() {
        let reason = |failed: u32, passed: u32| {
            let tally = tally(|rules| rules.consecutive_failures = u32::MAX.try_into().unwrap());
            (0..failed).for_each(|_| tally.failed(0));
            (0..passed).for_each(|_| tally.passed(0, false));
            tally.broken_rule(0)
        };

        assert_eq!(reason(6, 4), Some(ChangeReason::FailureRatio));
        assert_eq!(reason(6, 3), None);
        assert_eq!(reason(5, 5), None);
    }

    #[test]
    fn failures_are_forgotten_after_the_window() {
        let tally = tally(|rules| rules.consecutive_failures = u32::MAX.try_into().unwrap());
        let window = 30_000_000_000;
        (0..9).for_each(|_| tally.failed(0));
        let before = window - 1_000;
        tally.failed(before);
        assert!(tally.broken_rule(before).is_some());

        assert_eq!(tally.broken_rule(window), None);
    }

    #[test]
    fn slow_calls_break_a_rule_only_where_there_is_one() {
        let slow = |rules: &mut BreakerConfig| rules.slow_ratio = Ratio::new(0.8);
        let reason = |tally: Tally, slow: u32, quick: u32| {
            (0..slow).for_each(|_| tally.passed(0, true));
            (0..quick).for_each(|_| tally.passed(0, false));
            tally.broken_rule(0)
        };

        assert_eq!(reason(tally(slow), 8, 2), Some(ChangeReason::SlowRatio));
        assert_eq!(reason(tally(slow), 7, 3), None);
        assert_eq!(reason(tally(|_| ()), 10, 0), None);
    }

    /// Where an average over time would need seconds to notice.
    #[test]
    fn a_burst_of_failures_within_one_instant_is_seen() {
        let tally = tally(|_| ());
        (0..1000).for_each(|_| tally.passed(0, false));

        let failures = (1..).find(|_| {
            tally.failed(1);
            tally.broken_rule(1).is_some()
        });

        assert_eq!(failures, Some(5));
    }

    #[test]
    fn failsafe_goes_round() {
        let transitions = Transitions::new(Arc::new(tally(|rules| {
            rules.consecutive_failures = 1.try_into().unwrap();
        })));

        assert_eq!(transitions.trips(0), None, "nothing was counted yet");
        transitions.tally.failed(0);
        assert_eq!(
            transitions.trips(0),
            Some(ChangeReason::ConsecutiveFailures)
        );
        assert!(transitions.half_opens());
        assert!(transitions.reopens());
        assert!(transitions.half_opens());
        assert!(transitions.closes());
        assert_eq!(transitions.tally.consecutive(), 0, "closing forgets");
    }
}
