//! Whether it pays to look for bytes for a while before going to sleep.

/// Looks in a row without letting other tasks run.
pub(super) const LOOKS: u32 = 32;
/// How often other tasks run in between before looking is given up. All looks
/// together take about as long as it takes to fall asleep and be woken.
pub(super) const ROUNDS: u32 = 4;

/// After this many doublings the pause no longer grows.
const DOUBLINGS_MAX: u32 = 9;

/// Decides whether to look for bytes for a while before going to sleep.
///
/// Processes that exchange short messages spend more on falling asleep and waking
/// each other than on the messages, most of all where idle processors sleep deeply.
/// Who looks a little longer finds the next message without that. Where it does not
/// come so soon, because the other side has much to do or waits for this very
/// processor, looking is in vain; so each time in a row that it was, the pause
/// before the next try doubles.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Tries in a row that were in vain.
    vain: u32,
    /// Waits to come without a try.
    pause: u32,
}

impl Patience {
    /// Whether to look in the wait that begins now.
    pub(super) fn looks(&mut self) -> bool {
        let looks = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        looks
    }

    /// The try was worth it.
    pub(super) fn found(&mut self) {
        self.vain = 0;
    }

    /// Nothing came while it was tried.
    pub(super) fn in_vain(&mut self) {
        self.pause = (1 << self.vain) - 1;
        self.vain = (self.vain + 1).min(DOUBLINGS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_vain_is_tried_ever_less_often_and_never_given_up() {
        let mut patience = Patience::default();
        let mut tries = Vec::new();
        for wait in 0..2_000 {
            if patience.looks() {
                tries.push(wait);
                patience.in_vain();
            }
        }
        assert_eq!(tries[..6], [0, 1, 3, 7, 15, 31]);
        let steady = tries.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(steady, Some(1 << DOUBLINGS_MAX));
    }

    #[test]
    fn a_find_makes_it_patient_again() {
        let mut patience = Patience::default();
        while patience.vain < DOUBLINGS_MAX {
            if patience.looks() {
                patience.in_vain();
            }
        }
        while !patience.looks() {}
        patience.found();
        assert!((0..100).all(|_| patience.looks()));
        patience.in_vain();
        assert!(patience.looks(), "once in vain is no reason to pause");
    }
}
