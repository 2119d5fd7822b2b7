//! Tokens on loan to stripes of threads.
//!
//! A bucket is one word, and threads that take many tokens a second would meet
//! there. So a stripe takes several tokens at once and hands them out from a
//! cache line of its own. What it has not handed out after ten milliseconds is
//! forfeited: the tokens that it then takes are new ones, so a stripe that was
//! quiet cannot add what it saved up to what others take.
//!
//! A stripe starts with a single token and takes twice as many whenever it
//! needed less than half of that time for the last ones. One that is called
//! seldom never forfeits any, and neither does one that is called steadily.
//! Together all stripes have at most a quarter of what the rate gives in ten
//! milliseconds, and of the burst; where that is less than two tokens each,
//! nothing is lent.

use crate::{
    striped::{self, Place, Sums},
    sync::{AtomicU64, Ordering},
};

/// How long a lease lasts, in nanoseconds.
pub(super) const LASTS: u64 = 10_000_000;

/// The most tokens in a lease.
const MOST: u64 = 32;

/// The leases of all stripes. A thread that has one for itself takes tokens
/// with a plain load and store, and only it changes the lease.
#[derive(Debug)]
pub(super) struct Leases {
    stripes: Sums<AtomicU64>,
    /// A lease that ends no later than this, in its units, was forfeited. A
    /// thread that was just taking a token might bring it back otherwise.
    forfeited: AtomicU64,
}

/// One stripe's lease, from the highest bits to the lowest: when it ends, in
/// units of 65.5 µs; how many tokens were lent, in a byte; how many are left,
/// in a byte. All zero, it ended long ago.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lease(u64);

const UNIT_BITS: u32 = 16;

impl Lease {
    fn new(now: u64, size: u64, left: u64) -> Self {
        Self(Self::end_of(now) << 16 | size << 8 | left)
    }

    /// When a lease ends that is made at `now`.
    fn end_of(now: u64) -> u64 {
        now.saturating_add(LASTS) >> UNIT_BITS
    }

    #[inline]
    fn left(self) -> u64 {
        self.0 & 0xff
    }

    fn size(self) -> u64 {
        self.0 >> 8 & 0xff
    }

    #[inline]
    fn ends(self) -> u64 {
        self.0 >> 16
    }

    /// How much longer it lasts.
    fn time_left(self, now: u64) -> u64 {
        self.ends().saturating_sub(now >> UNIT_BITS) << UNIT_BITS
    }
}

/// What a stripe that has no tokens left should ask for.
#[derive(Clone, Copy)]
pub(super) struct Due {
    place: Place,
    pub(super) tokens: u64,
    known: Lease,
}

/// How many tokens a stripe may have on loan: one, if it had better take them
/// one at a time. `interval` is in nanoseconds.
pub(super) fn most(interval: u64, burst: u32) -> u64 {
    let stripes = 4 * striped::places() as u64;
    let most = (LASTS / interval / stripes).min(u64::from(burst) / stripes);
    most.clamp(1, MOST)
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            stripes: Sums::new(|| AtomicU64::new(0)),
            forfeited: AtomicU64::new(0),
        }
    }

    /// Takes a token that the thread at `place` has on loan at `now`.
    #[inline]
    pub(super) fn take(&self, place: Place, now: u64) -> bool {
        let mine = self.stripes.at(place);
        let word = mine.value();
        let mut lease = Lease(word.load(Ordering::Relaxed));
        while lease.left() > 0 && self.is_live(lease, now) {
            let less = lease.0 - 1;
            if mine.is_alone() {
                word.store(less, Ordering::Relaxed);
                return true;
            }
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match word.compare_exchange_weak(lease.0, less, success, failure) {
                Ok(_) => return true,
                Err(now) => lease = Lease(now),
            }
        }
        false
    }

    #[inline]
    fn is_live(&self, lease: Lease, now: u64) -> bool {
        let over = (now >> UNIT_BITS).max(self.forfeited.load(Ordering::Relaxed));
        lease.ends() > over
    }

    /// How many tokens the stripe should borrow next, at most `most`.
    pub(super) fn due(&self, place: Place, now: u64, most: u64) -> Due {
        let word = self.stripes.at(place).value();
        let known = Lease(word.load(Ordering::Relaxed));
        let tokens = match known.time_left(now) {
            _ if !self.is_live(known, now) => 1,
            left if left > LASTS / 2 => known.size() * 2,
            _ => known.size(),
        };
        let tokens = tokens.clamp(1, most);
        Due {
            place,
            tokens,
            known,
        }
    }

    /// Keeps what was borrowed at `now`, less the one token that is used at
    /// once.
    pub(super) fn keep(&self, due: Due, now: u64) {
        let fresh = Lease::new(now, due.tokens, due.tokens - 1);
        let keep = |word: u64| {
            let lease = Lease(word);
            // Another thread of the stripe may have borrowed meanwhile.
            let both = lease.left() + fresh.left();
            let live = lease.left() > 0 && self.is_live(lease, now);
            Some(if live && both <= 0xff {
                word + fresh.left()
            } else {
                fresh.0
            })
        };
        let word = self.stripes.at(due.place).value();
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, keep);
    }

    /// Has the stripe start with a single token again: there were not enough.
    pub(super) fn start_over(&self, due: Due) {
        let word = self.stripes.at(due.place).value();
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = word.compare_exchange(due.known.0, 0, success, failure);
    }

    /// Forfeits all that is on loan at `now`.
    pub(super) fn clear(&self, now: u64) {
        let forfeited = Lease::end_of(now);
        self.forfeited.store(forfeited, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{model, sync::Arc, thread};

    use super::*;

    const HERE: Place = Place::shared_number(0);

    /// How many tokens were borrowed and used by a thread that wants two.
    fn use_two(leases: &Leases) -> (u64, u64) {
        let mut borrowed = 0;
        for _ in 0..2 {
            if !leases.take(HERE, 0) {
                let due = leases.due(HERE, 0, 2);
                borrowed += due.tokens;
                leases.keep(due, 0);
            }
        }
        (borrowed, 2)
    }

    #[test]
    fn two_threads_of_a_stripe_neither_lose_nor_double_a_token() {
        model(|| {
            let leases = Arc::new(Leases::new());
            let other = {
                let leases = Arc::clone(&leases);
                thread::spawn(move || use_two(&leases))
            };

            let (mut borrowed, mut used) = use_two(&leases);
            let theirs = other.join().unwrap();

            borrowed += theirs.0;
            used += theirs.1;
            while leases.take(HERE, 0) {
                used += 1;
            }
            assert_eq!(used, borrowed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place::shared_number(0);

    fn due(leases: &Leases, now: u64) -> u64 {
        leases.due(HERE, now, MOST).tokens
    }

    /// Borrows, and takes `taken` of the tokens.
    fn borrow(leases: &Leases, now: u64, taken: u64) {
        leases.keep(leases.due(HERE, now, MOST), now);
        (1..taken).for_each(|_| assert!(leases.take(HERE, now)));
    }

    #[test]
    fn a_lease_doubles_while_it_is_used_up_in_half_its_time() {
        let leases = Leases::new();

        for tokens in [1, 2, 4, 8, 16, 32, 32] {
            assert_eq!(due(&leases, 0), tokens);
            if tokens == 16 {
                assert_eq!(due(&leases, LASTS * 3 / 4), 8, "that was slower");
                assert_eq!(due(&leases, LASTS), 1, "and that too slow");
            }
            borrow(&leases, 0, tokens);
            assert!(!leases.take(HERE, 0));
        }
    }

    #[test]
    fn what_is_not_used_in_time_is_forfeited() {
        let leases = Leases::new();
        borrow(&leases, 0, 1);
        borrow(&leases, 0, 1);

        assert!(!leases.take(HERE, LASTS));
        assert!(leases.take(HERE, LASTS - (2 << UNIT_BITS)));
    }

    /// A thread that owns its stripe may write what it read before.
    #[test]
    fn what_comes_back_after_it_was_forfeited_is_of_no_use() {
        let leases = Leases::new();
        borrow(&leases, 0, 1);
        borrow(&leases, 0, 1);
        let word = leases.stripes.at(HERE).value();
        let before = word.load(Ordering::Relaxed);

        leases.clear(0);
        word.store(before, Ordering::Relaxed);

        assert!(!leases.take(HERE, 0));
        assert_eq!(due(&leases, 0), 1);
        let next = 1 << UNIT_BITS;
        borrow(&leases, next, 1);
        borrow(&leases, next, 2);
    }

    #[test]
    fn the_owner_of_a_stripe_takes_what_it_borrowed() {
        let (leases, place) = (Leases::new(), Place::of_this_thread());
        leases.keep(leases.due(place, 0, MOST), 0);
        leases.keep(leases.due(place, 0, MOST), 0);

        assert!(leases.take(place, 0));
        assert!(!leases.take(place, 0));
    }

    #[test]
    fn two_threads_of_a_stripe_lose_nothing_of_what_both_borrow() {
        let leases = Leases::new();
        borrow(&leases, 0, 1);
        let (one, other) = (leases.due(HERE, 0, MOST), leases.due(HERE, 0, MOST));

        leases.keep(one, 0);
        leases.keep(other, 0);

        assert!(leases.take(HERE, 0) && leases.take(HERE, 0));
        assert!(!leases.take(HERE, 0));
    }

    #[test]
    fn a_failed_attempt_starts_over_and_takes_nothing_from_others() {
        let leases = Leases::new();
        borrow(&leases, 0, 1);
        let failed = leases.due(HERE, 0, MOST);
        assert_eq!(failed.tokens, 2);
        leases.start_over(failed);
        assert_eq!(due(&leases, 0), 1);

        borrow(&leases, 0, 1);
        borrow(&leases, 0, 1);
        leases.start_over(failed);
        assert!(leases.take(HERE, 0), "somebody else has borrowed since");
    }

    #[test]
    fn little_is_lent_of_little() {
        let stripes = striped::places() as u64;
        let per_second = |calls: u64| 1_000_000_000 / calls;

        assert_eq!(most(per_second(799 * stripes), u32::MAX), 1);
        assert_eq!(most(per_second(800 * stripes), u32::MAX), 2);
        assert_eq!(most(per_second(10_000_000), u32::MAX), 32);
        assert_eq!(most(per_second(10_000_000), 1), 1);
    }
}
