//! Bounds the attempts at one request, wherever they are made.
//!
//! Three services in a chain that make three attempts each call the last one
//! 27 times for a single request. A budget that goes with the request is
//! shared by all of them, so that they make as many attempts together as one
//! of them may make alone.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// The attempts that are left to one request. Clones share them.
///
/// Made where the request begins, carried by it and its clones, and shown to
/// the retries on its way by
/// [`Classify::attempt_budget`](crate::Classify::attempt_budget). Where a
/// request leaves the process, [`left`](Self::left) goes with it.
#[derive(Clone, Debug)]
pub struct AttemptBudget(Arc<AtomicU32>);

impl AttemptBudget {
    /// For `attempts` attempts altogether, the first one included. Whatever
    /// is called at the end of a chain is called no more often.
    #[must_use]
    pub fn new(attempts: NonZeroU32) -> Self {
        Self(Arc::new(AtomicU32::new(attempts.get() - 1)))
    }

    /// How many further attempts there may be.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one, if one is left.
    pub(super) fn take(&self) -> bool {
        let take = |left: u32| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Gives back one that was taken and not used.
    pub(super) fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_attempts_are_one_and_two_more_for_all_clones_together() {
        let budget = AttemptBudget::new(NonZeroU32::new(3).unwrap());
        let clone = budget.clone();

        assert_eq!(
            [budget.take(), clone.take(), budget.take()],
            [true, true, false]
        );
        clone.give_back();
        assert_eq!(budget.left(), 1);
    }
}
