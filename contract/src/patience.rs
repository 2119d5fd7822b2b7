//! Whether it pays to look for bytes for a while before going to sleep. Both ends of
//! a connection to a plugin decide it, and neither gains from the other doing it
//! otherwise.

use std::time::Duration;

/// Looks in a row without letting other tasks run.
pub const LOOKS: u32 = 32;
/// How often other tasks run in between before looking is given up. All looks
/// together take about as long as it takes to fall asleep and be woken.
pub const ROUNDS: u32 = 4;

/// Who waits longer than this for a short message has slept deeply.
const DEEP: Duration = Duration::from_micros(20);
/// After this many deep sleeps in a row looking is tried.
const SLEEPS: u32 = 4;
/// After this many doublings the number of sleeps between tries no longer grows.
const DOUBLINGS: u32 = 7;
/// After this many finds one sleep tells whether sleep is still deep.
const FINDS: u32 = 1 << 10;

/// Decides whether to look for bytes for a while before going to sleep.
///
/// Where idle processors sleep deeply, processes that exchange short messages spend
/// more on falling asleep and waking each other than on the messages. Who looks a
/// little longer finds the next message without that. Where sleep is light there is
/// nothing to gain. And where nothing comes so soon, because the other side has much
/// to do or waits for this very processor, looking is in vain; so from the second
/// time in a row that it was, twice as many sleeps lie before the next try.
#[derive(Debug, Default)]
pub struct Patience {
    /// Deep sleeps in a row.
    deep: u32,
    /// Tries in a row that were in vain.
    vain: u32,
    finds: u32,
}

impl Patience {
    /// Whether to look in the wait that begins now. If not, [`Self::slept`] wants to
    /// know how long the wait was.
    pub fn looks(&self) -> bool {
        let doublings = self.vain.saturating_sub(2).min(DOUBLINGS);
        self.deep >= SLEEPS << doublings
    }

    /// What was looked for came.
    pub fn found(&mut self) {
        self.vain = 0;
        self.finds += 1;
        if self.finds == FINDS {
            self.finds = 0;
            self.deep = SLEEPS - 1;
        }
    }

    /// Nothing came while it was looked for.
    pub fn in_vain(&mut self) {
        self.vain = self.vain.saturating_add(1);
        if self.vain > 1 {
            self.deep = 0;
        }
    }

    /// The bytes came after a sleep.
    pub fn slept(&mut self, wait: Duration) {
        self.deep = match wait > DEEP {
            true => self.deep.saturating_add(1),
            false => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which of `count` waits it looks, when sleep is deep and this is what comes
    /// of looking.
    fn tries(patience: &mut Patience, count: u32, outcome: fn(&mut Patience)) -> Vec<u32> {
        let wait = |_: &u32| {
            let looks = patience.looks();
            match looks {
                true => outcome(patience),
                false => patience.slept(2 * DEEP),
            }
            looks
        };
        (0..count).filter(wait).collect()
    }

    #[test]
    fn in_vain_is_tried_ever_less_often_and_never_given_up() {
        let tries = tries(&mut Patience::default(), 10_000, Patience::in_vain);
        assert_eq!(tries[..5], [4, 5, 10, 19, 36]);
        let steady = tries.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(steady, Some((SLEEPS << DOUBLINGS) + 1));
    }

    #[test]
    fn while_it_finds_it_sleeps_only_now_and_then() {
        let mut patience = Patience::default();
        tries(&mut patience, 1_000, Patience::in_vain);
        tries(&mut patience, 1_000, Patience::found);
        let looks = tries(&mut patience, 10 * (FINDS + 1), Patience::found).len();
        assert_eq!(looks, 10 * FINDS as usize);
        patience.in_vain();
        assert!(patience.looks(), "once in vain is no reason to stop");
    }

    #[test]
    fn light_sleep_is_not_disturbed() {
        let mut patience = Patience::default();
        for wait in 0..10_000 {
            // A deep one among them means nothing.
            let factor = if wait % SLEEPS == 0 { 2 } else { 1 };
            patience.slept(factor * DEEP);
            assert!(!patience.looks());
        }
        let mut patience = Patience::default();
        (0..SLEEPS).for_each(|_| patience.slept(2 * DEEP));
        while patience.looks() {
            patience.found();
        }
        patience.slept(DEEP);
        assert!(
            (0..SLEEPS).all(|_| !patience.looks()),
            "it has become light"
        );
    }
}
