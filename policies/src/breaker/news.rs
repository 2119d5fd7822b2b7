//! Changes of a breaker that its listener has not heard of yet.

use std::collections::VecDeque;

use super::BreakerState;
use crate::event::{BreakerChange, ChangeReason};

/// Changes that are kept for a slow listener; beyond that the oldest go.
const UNTOLD_MAX: usize = 256;

/// Kept by the machine under its lock, where the order is known, and told
/// after that is released.
#[derive(Debug, Default)]
pub(super) struct News {
    sequence: u64,
    untold: VecDeque<BreakerChange>,
    /// Somebody is telling them, one at a time.
    telling: bool,
}

impl News {
    pub(super) fn push(
        &mut self,
        from: BreakerState,
        to: BreakerState,
        reason: ChangeReason,
        enforced: bool,
    ) {
        self.sequence += 1;
        if self.untold.len() >= UNTOLD_MAX {
            self.untold.pop_front();
        }
        let sequence = self.sequence;
        let change = BreakerChange {
            sequence,
            from,
            to,
            reason,
            enforced,
        };
        self.untold.push_back(change);
    }

    /// How many changes there were.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the caller is to tell the listener: there is something to
    /// tell, and nobody does yet.
    pub(super) fn begin_telling(&mut self) -> bool {
        let begins = !self.telling && !self.untold.is_empty();
        self.telling |= begins;
        begins
    }

    /// The next change to tell, oldest first. Nothing ends the telling.
    pub(super) fn next(&mut self) -> Option<BreakerChange> {
        let change = self.untold.pop_front();
        self.telling &= change.is_some();
        change
    }

    pub(super) fn end_telling(&mut self) {
        self.telling = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(news: &mut News) {
        news.push(
            BreakerState::Closed,
            BreakerState::Open,
            ChangeReason::Forced,
            true,
        );
    }

    #[test]
    fn one_tells_at_a_time_and_the_last_ends_it() {
        let mut news = News::default();
        assert!(!news.begin_telling(), "there is nothing to tell");
        push(&mut news);

        assert!(news.begin_telling());
        push(&mut news);
        assert!(!news.begin_telling(), "somebody is telling");
        let told = [news.next(), news.next()].map(|change| change.map(|change| change.sequence));
        assert_eq!(told, [Some(1), Some(2)]);
        push(&mut news);
        assert!(!news.begin_telling(), "still");

        assert_eq!(news.next().map(|change| change.sequence), Some(3));
        assert_eq!(news.next(), None);
        push(&mut news);
        assert!(news.begin_telling());
    }

    #[test]
    fn what_nobody_collects_is_kept_to_a_number() {
        let mut news = News::default();
        (0..2 * UNTOLD_MAX).for_each(|_| push(&mut news));

        let first = news.next().unwrap();

        assert_eq!(
            first.sequence,
            UNTOLD_MAX as u64 + 1,
            "the oldest are gone, and it shows"
        );
        assert_eq!(news.untold.len(), UNTOLD_MAX - 1);
    }
}
