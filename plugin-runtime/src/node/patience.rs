//! Whether it pays to look for bytes for a while before going to sleep.

use std::time::Duration;

/// Looks in a row without letting other tasks run.
pub(super) const LOOKS: u32 = 32;
/// How often other tasks run in between before looking is given up. All looks
/// together take about as long as it takes to fall asleep and be woken.
pub(super) const ROUNDS: u32 = 4;

/// Who is awake with its bytes this soon need not look for them: here sleep is light.
const LIGHT: Duration = Duration::from_micros(20);
/// After this many finds in a row one sleep tells whether it has become light.
const FINDS: u32 = 1 << 10;
/// After this many doublings the pause no longer grows.
const DOUBLINGS: u32 = 9;

/// Decides whether to look for bytes for a while before going to sleep.
///
/// Where idle processors sleep deeply, processes that exchange short messages spend
/// more on falling asleep and waking each other than on the messages. Who looks a
/// little longer finds the next message without that. Where sleep is light there is
/// nothing to gain; and where nothing comes so soon, because the other side has much
/// to do or waits for this very processor, looking is in vain, so each time in a row
/// that it was, the pause before the next try doubles.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The last sleep was light.
    light: bool,
    /// Finds in a row.
    finds: u32,
    /// Tries in a row that were in vain.
    vain: u32,
    /// Waits to come without a try.
    pause: u32,
}

impl Patience {
    /// Whether to look in the wait that begins now. If not, [`Self::slept`] wants to
    /// know how long the wait was.
    pub(super) fn looks(&mut self) -> bool {
        let looks = self.pause == 0 && !self.light;
        self.pause = self.pause.saturating_sub(1);
        looks
    }

    /// What was looked for came.
    pub(super) fn found(&mut self) {
        self.vain = 0;
        self.finds += 1;
        if self.finds == FINDS {
            self.finds = 0;
            self.pause = 1;
        }
    }

    /// Nothing came while it was looked for.
    pub(super) fn in_vain(&mut self) {
        self.finds = 0;
        self.pause = (1 << self.vain) - 1;
        self.vain = (self.vain + 1).min(DOUBLINGS);
    }

    /// The bytes came after a sleep.
    pub(super) fn slept(&mut self, wait: Duration) {
        self.light = wait < LIGHT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEEP: Duration = Duration::from_micros(60);

    /// The waits out of `count` in which it looks, with this outcome.
    fn tries(patience: &mut Patience, count: u32, outcome: fn(&mut Patience)) -> Vec<u32> {
        let tries = (0..count).filter(|_| match patience.looks() {
            true => {
                outcome(patience);
                true
            }
            false => {
                patience.slept(DEEP);
                false
            }
        });
        tries.collect()
    }

    #[test]
    fn in_vain_is_tried_ever_less_often_and_never_given_up() {
        let tries = tries(&mut Patience::default(), 5_000, Patience::in_vain);
        assert_eq!(tries[..6], [0, 1, 3, 7, 15, 31]);
        let steady = tries.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(steady, Some(1 << DOUBLINGS));
    }

    #[test]
    fn a_find_makes_it_patient_again_with_a_sleep_now_and_then() {
        let mut patience = Patience::default();
        tries(&mut patience, 1_000, Patience::in_vain);
        while !patience.looks() {}
        patience.found();
        let seen = tries(&mut patience, 5 * FINDS, Patience::found).len();
        assert!(
            (5 * FINDS as usize - 5..5 * FINDS as usize).contains(&seen),
            "{seen}"
        );
        patience.in_vain();
        assert!(patience.looks(), "once in vain is no reason to pause");
    }

    #[test]
    fn light_sleep_is_not_disturbed_until_it_is_deep() {
        let mut patience = Patience::default();
        patience.slept(LIGHT / 2);
        assert!((0..2_000).all(|_| !patience.looks()));
        patience.slept(DEEP);
        assert!(patience.looks());
        // Where looking works as well, one sleep in many says that it need not.
        let mut finds = 0;
        while patience.looks() {
            patience.found();
            finds += 1;
        }
        assert_eq!(finds, FINDS);
        patience.slept(LIGHT / 2);
        assert!(!patience.looks());
    }
}
