//! What most calls need to know of a breaker, in a few words of memory that
//! are read without a lock.
//!
//! The machine behind the lock decides and publishes here. A reader may see
//! words from two moments; then it refuses a call a moment too long, or goes
//! and asks the machine, which knows. Only a call through a closed breaker is
//! let through here, and its permit names the generation that let it in, so
//! that its result is ignored if the breaker has changed since.

use crossbeam_utils::CachePadded;

use super::{BreakerConfig, BreakerState};
use crate::{
    clock,
    shed::Criticality,
    sync::{AtomicU64, Ordering},
};

const STATE_BITS: u32 = 3;
const CLOSED: u64 = 0;
const PROBE_BITS: u32 = 13;
const PROBE_MAX: u64 = (1 << PROBE_BITS) - 1;

/// Of a thousand calls, those let in at the first moment after a recovery.
const RAMP_START: f64 = 100.0;

/// More probes than this cannot be counted.
pub(super) const PROBES_MAX: u32 = PROBE_MAX as u32;

/// State, probes in flight and generation, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: BreakerState,
    pub(super) probes: u32,
    /// Counts the changes of state.
    pub(super) generation: u64,
}

impl Word {
    fn pack(self) -> u64 {
        let state = match self.state {
            BreakerState::Closed => CLOSED,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
            BreakerState::ForcedOpen => 3,
            BreakerState::ForcedClosed => 4,
            BreakerState::Disabled => 5,
        };
        let probes = u64::from(self.probes).min(PROBE_MAX);
        (self.generation << (STATE_BITS + PROBE_BITS)) | (probes << STATE_BITS) | state
    }

    fn unpack(word: u64) -> Self {
        let state = match word & ((1 << STATE_BITS) - 1) {
            CLOSED => BreakerState::Closed,
            1 => BreakerState::Open,
            2 => BreakerState::HalfOpen,
            3 => BreakerState::ForcedOpen,
            4 => BreakerState::ForcedClosed,
            _ => BreakerState::Disabled,
        };
        Self {
            state,
            probes: ((word >> STATE_BITS) & PROBE_MAX) as u32,
            generation: word >> (STATE_BITS + PROBE_BITS),
        }
    }
}

/// The word of a closed breaker, as a call saw it that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed(u64);

impl Closed {
    pub(super) fn generation(self) -> u64 {
        Word::unpack(self.0).generation
    }
}

/// What the gate says to a call. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Pass; the result is one of this generation.
    Pass(u64),
    /// Come back after this time.
    Refuse(u64),
    /// Ask the machine.
    Ask,
}

/// What the gate knows of the configuration, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long to send callers away, at most, while probes are in flight:
    /// they may end at any moment.
    pub(super) probing: u64,
    /// How long to send them away while somebody forces the breaker open.
    pub(super) forced: u64,
}

impl Times {
    pub(super) fn of(config: &BreakerConfig) -> Self {
        Self {
            probing: clock::nanos(config.open),
            forced: clock::nanos(config.max_open),
        }
    }
}

#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU64,
    /// Before this time, a call that does not find the breaker closed need
    /// not ask the machine.
    shut_until: AtomicU64,
    probing: AtomicU64,
    forced: AtomicU64,
    /// When a recovered service gets its full traffic again.
    ramp_end: AtomicU64,
    /// How long the ramp is that ends then.
    ramp: AtomicU64,
    /// Calls seen since the recovery, of each class. Away from what calls only
    /// read.
    ramp_calls: CachePadded<[AtomicU64; Criticality::ALL.len()]>,
}

/// What the machine publishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) word: Word,
    pub(super) shut_until: u64,
    pub(super) ramp_end: u64,
    pub(super) ramp: u64,
}

impl Gate {
    /// An open gate.
    pub(super) fn new(times: Times) -> Self {
        let closed = Word {
            state: BreakerState::Closed,
            probes: 0,
            generation: 0,
        };
        Self {
            word: AtomicU64::new(closed.pack()),
            shut_until: AtomicU64::new(0),
            probing: AtomicU64::new(times.probing),
            forced: AtomicU64::new(times.forced),
            ramp_end: AtomicU64::new(0),
            ramp: AtomicU64::new(0),
            ramp_calls: CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    pub(super) fn word(&self) -> Word {
        // Pairs with the release in `publish`: whoever sees a state also sees
        // the counts that the machine cleared before it.
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Lets a call through a breaker that is closed and past its ramp, as
    /// nearly all are. Any other is to be [asked](Self::ask).
    #[inline]
    pub(super) fn pass_closed(&self, now: u64) -> Option<Closed> {
        // Acquire as in `word`, and so that the ramp is seen as well.
        let word = self.word.load(Ordering::Acquire);
        let is_closed = word & ((1 << STATE_BITS) - 1) == CLOSED;
        let is_past_ramp = self.ramp_end.load(Ordering::Relaxed) <= now;
        (is_closed && is_past_ramp).then_some(Closed(word))
    }

    /// Whether the breaker has not changed since a call passed.
    #[inline]
    pub(super) fn is_still(&self, closed: Closed) -> bool {
        self.word.load(Ordering::Acquire) == closed.0
    }

    pub(super) fn set_times(&self, times: Times) {
        self.probing.store(times.probing, Ordering::Relaxed);
        self.forced.store(times.forced, Ordering::Relaxed);
    }

    /// Only the machine publishes, and it holds a lock then.
    pub(super) fn publish(&self, published: Published) {
        self.shut_until
            .store(published.shut_until, Ordering::Relaxed);
        self.ramp.store(published.ramp, Ordering::Relaxed);
        if self.ramp_end.swap(published.ramp_end, Ordering::Relaxed) != published.ramp_end {
            for calls in self.ramp_calls.iter() {
                calls.store(0, Ordering::Relaxed);
            }
        }
        self.word.store(published.word.pack(), Ordering::Release);
    }

    /// Whether a call may pass at `now`.
    pub(super) fn ask(&self, now: u64, criticality: Criticality) -> Answer {
        let word = self.word();
        match word.state {
            BreakerState::Closed => self.ask_ramp(now, word.generation, criticality),
            BreakerState::ForcedClosed | BreakerState::Disabled => Answer::Pass(word.generation),
            BreakerState::ForcedOpen => Answer::Refuse(self.forced.load(Ordering::Relaxed)),
            BreakerState::Open | BreakerState::HalfOpen => {
                match self.shut_until.load(Ordering::Relaxed).saturating_sub(now) {
                    0 => Answer::Ask,
                    wait if word.state == BreakerState::Open => Answer::Refuse(wait),
                    wait => Answer::Refuse(wait.min(self.probing.load(Ordering::Relaxed))),
                }
            }
        }
    }

    /// For how long calls will be refused, if one would be at `now`. Leaves
    /// the ramp out, which refuses some and not others.
    pub(super) fn shut_for(&self, now: u64) -> Option<u64> {
        match self.word().state {
            BreakerState::Closed => None,
            _ => match self.ask(now, Criticality::default()) {
                Answer::Refuse(wait) => Some(wait),
                Answer::Pass(_) | Answer::Ask => None,
            },
        }
    }

    fn ask_ramp(&self, now: u64, generation: u64, criticality: Criticality) -> Answer {
        let left = self.ramp_end.load(Ordering::Relaxed).saturating_sub(now);
        if left == 0 {
            return Answer::Pass(generation);
        }
        self.ask_share(left, generation, criticality)
    }

    /// Lets in a growing share of the calls, the first among them.
    #[cold]
    fn ask_share(&self, left: u64, generation: u64, criticality: Criticality) -> Answer {
        let call = self.ramp_calls[criticality as usize].fetch_add(1, Ordering::Relaxed);
        let ramp = self.ramp.load(Ordering::Relaxed);
        let done = 1.0 - left as f64 / ramp.max(1) as f64 + head_start(criticality);
        let share = RAMP_START + (1000.0 - RAMP_START) * done.min(1.0);
        if done >= 0.0 && passes_ramp(call, share as u64) {
            Answer::Pass(generation)
        } else {
            // Then a tenth more is let in. All of those who are sent away at
            // the end of the ramp would come back together.
            Answer::Refuse(left.min(ramp / 10).max(1))
        }
    }
}

/// How far ahead of the others a class is on the ramp, as a part of it. Those
/// behind are not let in before their time.
fn head_start(criticality: Criticality) -> f64 {
    match criticality {
        Criticality::CriticalPlus => 0.5,
        Criticality::Critical => 0.0,
        Criticality::SheddablePlus => -0.25,
        Criticality::Sheddable => -0.5,
    }
}

/// Whether call number `call` is among the `share` of a thousand that are let
/// in, evenly spread.
fn passes_ramp(call: u64, share: u64) -> bool {
    call.wrapping_mul(share) % 1000 < share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gate(state: BreakerState, shut_until: u64, ramp_end: u64) -> Gate {
        let gate = Gate::new(Times {
            probing: 20,
            forced: 50,
        });
        let word = Word {
            state,
            probes: 0,
            generation: 7,
        };
        gate.publish(Published {
            word,
            shut_until,
            ramp_end,
            ramp: 100,
        });
        gate
    }

    #[test]
    fn an_open_gate_is_shut_until_its_time_and_then_asks() {
        let gate = gate(BreakerState::Open, 40, 0);

        assert_eq!(gate.ask(0, Criticality::Critical), Answer::Refuse(40));
        assert_eq!(gate.ask(39, Criticality::Critical), Answer::Refuse(1));
        assert_eq!(gate.ask(40, Criticality::Critical), Answer::Ask);
    }

    #[test]
    fn a_caller_who_finds_all_probes_taken_is_not_sent_away_for_long() {
        let gate = gate(BreakerState::HalfOpen, 40, 0);

        assert_eq!(gate.ask(0, Criticality::Critical), Answer::Refuse(20));
        assert_eq!(gate.ask(39, Criticality::Critical), Answer::Refuse(1));
        assert_eq!(gate.ask(40, Criticality::Critical), Answer::Ask);
    }

    #[test]
    fn forced_gates_do_not_look_at_the_time() {
        assert_eq!(
            gate(BreakerState::ForcedOpen, 0, 0).ask(9, Criticality::Critical),
            Answer::Refuse(50)
        );
        assert_eq!(
            gate(BreakerState::ForcedClosed, 99, 0).ask(9, Criticality::Critical),
            Answer::Pass(7)
        );
    }

    #[test]
    fn traffic_ramps_up_from_a_tenth_to_all() {
        let passed = |from_start: u64| {
            let gate = gate(BreakerState::Closed, 0, 100);
            (0..1000)
                .filter(|_| gate.ask(from_start, Criticality::Critical) == Answer::Pass(7))
                .count()
        };

        assert_eq!(
            gate(BreakerState::Closed, 0, 100).ask(0, Criticality::Critical),
            Answer::Pass(7),
            "the first call is let in"
        );
        assert_eq!(passed(0), 100);
        assert_eq!(passed(50), 550);
        assert_eq!(passed(100), 1000);
    }

    #[test]
    fn the_more_critical_calls_ramp_up_first() {
        let passed = |from_start: u64| {
            let gate = gate(BreakerState::Closed, 0, 100);
            Criticality::ALL.map(|criticality| {
                let passes = |_: &u32| gate.ask(from_start, criticality) == Answer::Pass(7);
                (0..1000).filter(passes).count()
            })
        };

        assert_eq!(passed(0), [0, 0, 100, 550]);
        assert_eq!(passed(50), [100, 325, 550, 1000]);
        assert_eq!(passed(100), [1000; 4]);
    }

    #[test]
    fn whoever_the_ramp_sends_away_may_return_before_its_end() {
        let gate = gate(BreakerState::Closed, 0, 100);
        assert_eq!(gate.ask(0, Criticality::Critical), Answer::Pass(7));

        assert_eq!(gate.ask(0, Criticality::Critical), Answer::Refuse(10));
        assert_eq!(gate.ask(95, Criticality::Critical), Answer::Pass(7));
        let refused = (0..99).find_map(|_| match gate.ask(95, Criticality::Critical) {
            Answer::Refuse(wait) => Some(wait),
            _ => None,
        });
        assert_eq!(refused, Some(5));
    }

    proptest! {
        #[test]
        fn a_word_survives_packing(state in 0usize..6, probes in 0..=PROBES_MAX, generation in 0u64..1 << 48) {
            let state = BreakerState::ALL[state];
            let word = Word { state, probes, generation };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
