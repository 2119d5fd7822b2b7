//! What most calls need to know of a breaker, in a few words of memory that
//! are read without a lock.
//!
//! The machine behind the lock decides and publishes here. A reader may see
//! words from two moments; then it refuses a call a moment too long, or goes
//! and asks the machine, which knows. Only a call through a closed breaker is
//! let through here, and its permit names the generation that let it in, so
//! that its result is ignored if the breaker has changed since.

use std::sync::atomic::{AtomicU64, Ordering};

use super::BreakerState;

const STATE_BITS: u32 = 3;
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
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
            BreakerState::ForcedOpen => 3,
            BreakerState::ForcedClosed => 4,
        };
        let probes = u64::from(self.probes).min(PROBE_MAX);
        (self.generation << (STATE_BITS + PROBE_BITS)) | (probes << STATE_BITS) | state
    }

    #[inline]
    fn unpack(word: u64) -> Self {
        let state = match word & ((1 << STATE_BITS) - 1) {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            2 => BreakerState::HalfOpen,
            3 => BreakerState::ForcedOpen,
            _ => BreakerState::ForcedClosed,
        };
        Self {
            state,
            probes: ((word >> STATE_BITS) & PROBE_MAX) as u32,
            generation: word >> (STATE_BITS + PROBE_BITS),
        }
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

/// How long to send callers away where no time is certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hints {
    /// At most, while probes are in flight: they may end at any moment.
    pub(super) probing: u64,
    /// While somebody forces the breaker open.
    pub(super) forced: u64,
}

#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU64,
    /// Before this time, a call that does not find the breaker closed need
    /// not ask the machine.
    shut_until: AtomicU64,
    hints: Hints,
    /// When a recovered service gets its full traffic again.
    ramp_end: AtomicU64,
    ramp: u64,
    /// Calls seen since the recovery.
    ramp_calls: AtomicU64,
}

/// What the machine publishes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) word: Word,
    pub(super) shut_until: u64,
    pub(super) ramp_end: u64,
}

impl Gate {
    /// An open gate. `ramp` is the length of the ramp after a recovery.
    pub(super) fn new(ramp: u64, hints: Hints) -> Self {
        let closed = Word {
            state: BreakerState::Closed,
            probes: 0,
            generation: 0,
        };
        Self {
            word: AtomicU64::new(closed.pack()),
            shut_until: AtomicU64::new(0),
            hints,
            ramp_end: AtomicU64::new(0),
            ramp,
            ramp_calls: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        // Pairs with the release in `publish`: whoever sees a state also sees
        // the counts that the machine cleared before it.
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Only the machine publishes, and it holds a lock then.
    pub(super) fn publish(&self, published: Published) {
        self.shut_until
            .store(published.shut_until, Ordering::Relaxed);
        if self.ramp_end.swap(published.ramp_end, Ordering::Relaxed) != published.ramp_end {
            self.ramp_calls.store(0, Ordering::Relaxed);
        }
        self.word.store(published.word.pack(), Ordering::Release);
    }

    /// Whether a call may pass at `now`.
    #[inline]
    pub(super) fn ask(&self, now: u64) -> Answer {
        let word = self.word();
        match word.state {
            BreakerState::Closed => self.ask_ramp(now, word.generation),
            BreakerState::ForcedClosed => Answer::Pass(word.generation),
            BreakerState::ForcedOpen => Answer::Refuse(self.hints.forced),
            BreakerState::Open | BreakerState::HalfOpen => {
                match self.shut_until.load(Ordering::Relaxed).saturating_sub(now) {
                    0 => Answer::Ask,
                    wait if word.state == BreakerState::Open => Answer::Refuse(wait),
                    wait => Answer::Refuse(wait.min(self.hints.probing)),
                }
            }
        }
    }

    /// For how long calls will be refused, if one would be at `now`. Leaves
    /// the ramp out, which refuses some and not others.
    pub(super) fn shut_for(&self, now: u64) -> Option<u64> {
        match self.word().state {
            BreakerState::Closed => None,
            _ => match self.ask(now) {
                Answer::Refuse(wait) => Some(wait),
                Answer::Pass(_) | Answer::Ask => None,
            },
        }
    }

    fn ask_ramp(&self, now: u64, generation: u64) -> Answer {
        let left = self.ramp_end.load(Ordering::Relaxed).saturating_sub(now);
        if left == 0 {
            return Answer::Pass(generation);
        }
        let call = self.ramp_calls.fetch_add(1, Ordering::Relaxed);
        let done = (1.0 - left as f64 / self.ramp as f64).max(0.0);
        let share = RAMP_START + (1000.0 - RAMP_START) * done;
        if passes_ramp(call, share as u64) {
            Answer::Pass(generation)
        } else {
            Answer::Refuse(left)
        }
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
        let gate = Gate::new(
            100,
            Hints {
                probing: 20,
                forced: 50,
            },
        );
        let word = Word {
            state,
            probes: 0,
            generation: 7,
        };
        gate.publish(Published {
            word,
            shut_until,
            ramp_end,
        });
        gate
    }

    #[test]
    fn an_open_gate_is_shut_until_its_time_and_then_asks() {
        let gate = gate(BreakerState::Open, 40, 0);

        assert_eq!(gate.ask(0), Answer::Refuse(40));
        assert_eq!(gate.ask(39), Answer::Refuse(1));
        assert_eq!(gate.ask(40), Answer::Ask);
    }

    #[test]
    fn a_caller_who_finds_all_probes_taken_is_not_sent_away_for_long() {
        let gate = gate(BreakerState::HalfOpen, 40, 0);

        assert_eq!(gate.ask(0), Answer::Refuse(20));
        assert_eq!(gate.ask(39), Answer::Refuse(1));
        assert_eq!(gate.ask(40), Answer::Ask);
    }

    #[test]
    fn forced_gates_do_not_look_at_the_time() {
        assert_eq!(
            gate(BreakerState::ForcedOpen, 0, 0).ask(9),
            Answer::Refuse(50)
        );
        assert_eq!(
            gate(BreakerState::ForcedClosed, 99, 0).ask(9),
            Answer::Pass(7)
        );
    }

    #[test]
    fn traffic_ramps_up_from_a_tenth_to_all() {
        let passed = |from_start: u64| {
            let gate = gate(BreakerState::Closed, 0, 100);
            (0..1000)
                .filter(|_| gate.ask(from_start) == Answer::Pass(7))
                .count()
        };

        assert_eq!(
            gate(BreakerState::Closed, 0, 100).ask(0),
            Answer::Pass(7),
            "the first call is let in"
        );
        assert_eq!(passed(0), 100);
        assert_eq!(passed(50), 550);
        assert_eq!(passed(100), 1000);
    }

    proptest! {
        #[test]
        fn a_word_survives_packing(state in 0usize..5, probes in 0..=PROBES_MAX, generation in 0u64..1 << 48) {
            let state = BreakerState::ALL[state];
            let word = Word { state, probes, generation };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
