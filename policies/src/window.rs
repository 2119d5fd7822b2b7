//! Counts of the recent past, without a lock.
//!
//! Time is cut into slices, a tenth of the window each, and a ring of ten
//! buckets holds the counts of the last ten slices. So the window slides by a
//! slice at a time: it covers between nine tenths and the whole of its
//! length. Every stripe of threads has a ring of its own; the sum is taken
//! when something failed, which is seldom.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{clock, striped::Striped};

const BUCKETS: usize = 10;

/// The shortest window. With a much shorter one a slice would be over before
/// the runtime's timers, which count milliseconds, could tell.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// Two counters of events, both over the same recent past.
#[derive(Debug)]
pub(crate) struct Window {
    rings: Striped<Ring>,
    slices: Slices,
}

type Ring = [AtomicU64; BUCKETS];

/// What a [`Window`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Everything.
    pub(crate) all: u64,
    /// Those that were marked, among all.
    pub(crate) marked: u64,
}

/// A bucket's contents: the slice that its counts are of, then the counts.
/// Only the low bits of the slice's number fit. They come round again after
/// 2^24 slices, and to the same bucket after five times as many; a bucket
/// would have to lie untouched for exactly that long to be taken for a new
/// one (ten days with the shortest window, eight years with one of 30 s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    slice: u64,
    counts: Counts,
}

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// From here on counting takes care not to run over. Far enough below the top
/// that all threads at once cannot get there unseen.
const COUNT_FULL: u64 = COUNT_MAX - (1 << 16);
const SLICE_BITS: u32 = 24;
const SLICE_MASK: u64 = (1 << SLICE_BITS) - 1;

/// A call that is this many slices behind its bucket is late. One that seems
/// further behind is ahead: its bucket has not been used for long. (After 2^24
/// slices less this many, nearly two days with the shortest window, it is
/// taken for late by mistake and goes uncounted.)
const LATE_MAX: u64 = 1 << 16;

impl Bucket {
    fn unpack(word: u64) -> Self {
        Self {
            slice: word >> (2 * COUNT_BITS),
            counts: Counts {
                all: (word >> COUNT_BITS) & COUNT_MAX,
                marked: word & COUNT_MAX,
            },
        }
    }

    fn pack(self) -> u64 {
        (self.slice << (2 * COUNT_BITS)) | (self.counts.all << COUNT_BITS) | self.counts.marked
    }

    /// With one more event of `slice`; nothing if the bucket has moved on to
    /// a later slice.
    fn with(mut self, slice: u64, marked: bool) -> Option<Self> {
        let behind = self.slice.wrapping_sub(slice) & SLICE_MASK;
        if (1..=LATE_MAX).contains(&behind) && self.counts.all > 0 {
            return None;
        }
        if behind != 0 {
            self = Self {
                slice,
                counts: Counts::default(),
            };
        }
        if self.counts.all >= COUNT_FULL {
            // Keeps the ratio, which is what large counts are used for.
            self.counts.all /= 2;
            self.counts.marked /= 2;
        }
        self.counts.all += 1;
        self.counts.marked += u64::from(marked);
        Some(self)
    }
}

impl Window {
    /// A window of `length`, at least [`SHORTEST`].
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            rings: Striped::new(|| std::array::from_fn(|_| AtomicU64::new(0))),
            slices: Slices::of(clock::nanos(length.max(SHORTEST)) / BUCKETS as u64),
        }
    }

    /// Counts one event that happened at `now`, in nanoseconds.
    #[inline]
    pub(crate) fn add(&self, now: u64, marked: bool) {
        let (slice, index) = place(self.slices.number(now));
        let bucket = &self.rings.mine()[index];
        // Relaxed: a bucket is one word, and no other memory hangs on it.
        let word = bucket.load(Ordering::Relaxed);
        let known = Bucket::unpack(word);
        if known.slice == slice && known.counts.all < COUNT_FULL {
            // A bucket that moves on just now counts this event for the slice
            // after, which is as good.
            bucket.fetch_add((1 << COUNT_BITS) | u64::from(marked), Ordering::Relaxed);
        } else {
            add_slowly(bucket, slice, marked);
        }
    }

    /// What was counted in the window that ends at `now`, in nanoseconds.
    pub(crate) fn sum(&self, now: u64) -> Counts {
        let last = self.slices.number(now);
        let first = last.saturating_sub(BUCKETS as u64 - 1);
        let mut sum = Counts::default();
        for number in first..=last {
            let (slice, index) = place(number);
            for ring in self.rings.iter() {
                let bucket = Bucket::unpack(ring[index].load(Ordering::Relaxed));
                if bucket.slice == slice {
                    sum.all += bucket.counts.all;
                    sum.marked += bucket.counts.marked;
                }
            }
        }
        sum
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for bucket in self.rings.iter().flatten() {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts an event where the bucket is of an earlier slice, or full.
#[cold]
fn add_slowly(bucket: &AtomicU64, slice: u64, marked: bool) {
    let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
        Bucket::unpack(word).with(slice, marked).map(Bucket::pack)
    });
}

/// Numbers the slices of time. A division would cost as much as the rest of
/// counting, so the length's inverse is multiplied with instead.
#[derive(Debug)]
struct Slices {
    length: u64,
    /// 2^64 / length.
    inverse: u64,
}

impl Slices {
    /// Slices of `length` nanoseconds, more than one.
    fn of(length: u64) -> Self {
        Self {
            length,
            inverse: u64::MAX / length,
        }
    }

    /// The number of the slice that `now` is in.
    #[inline]
    fn number(&self, now: u64) -> u64 {
        let product = u128::from(now) * u128::from(self.inverse);
        let number = (product >> 64) as u64;
        // The inverse is rounded down, by less than one slice's worth.
        number + u64::from(now - number * self.length >= self.length)
    }
}

/// What a bucket stores as the number of slice `number`, and which bucket it
/// is.
#[inline]
fn place(number: u64) -> (u64, usize) {
    (number & SLICE_MASK, (number % BUCKETS as u64) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_nanos(1_000_000_000);
    const SLICE: u64 = 100_000_000;

    fn counts(all: u64, marked: u64) -> Counts {
        Counts { all, marked }
    }

    #[test]
    fn an_event_counts_for_ten_slices_and_no_longer() {
        let window = Window::new(LENGTH);
        window.add(0, true);
        window.add(SLICE - 1, false);

        assert_eq!(window.sum(0), counts(2, 1));
        assert_eq!(window.sum(10 * SLICE - 1), counts(2, 1));
        assert_eq!(window.sum(10 * SLICE), counts(0, 0));
    }

    #[test]
    fn an_event_too_late_for_its_bucket_is_dropped() {
        let window = Window::new(LENGTH);
        window.add(10 * SLICE, false);
        window.add(0, true);

        assert_eq!(window.sum(10 * SLICE), counts(1, 0));
    }

    #[test]
    fn a_full_bucket_keeps_its_ratio() {
        let full = Bucket {
            slice: 3,
            counts: counts(COUNT_FULL, COUNT_FULL / 4),
        };

        let more = full.with(3, true).unwrap();

        assert_eq!(more.counts, counts(COUNT_FULL / 2 + 1, COUNT_FULL / 8 + 1));
        assert_eq!(Bucket::unpack(more.pack()), more);
    }

    /// Half the numbers later its number looks as if it were in the past.
    #[test]
    fn a_bucket_may_lie_unused_for_any_time() {
        for idle in [
            SLICE_MASK / 2,
            SLICE_MASK / 2 + 1,
            SLICE_MASK - LATE_MAX - 10,
            SLICE_MASK + 100,
        ] {
            let window = Window::new(LENGTH);
            (0..10).for_each(|slice| window.add(slice * SLICE, true));
            let now = idle * SLICE;

            window.add(now, false);

            assert_eq!(window.sum(now), counts(1, 0), "{idle}");
        }
    }

    #[test]
    fn the_slice_number_may_wrap() {
        let window = Window::new(LENGTH);
        let wrap = (SLICE_MASK + 1) * SLICE;
        window.add(wrap - 1, true);
        window.add(wrap, false);

        assert_eq!(window.sum(wrap), counts(2, 1));
    }

    #[test]
    fn threads_lose_no_count() {
        let window = Window::new(LENGTH);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|n| window.add(0, n % 4 == 0)));
            }
        });

        assert_eq!(window.sum(0), counts(4000, 1000));
    }

    proptest! {
        #[test]
        fn slices_are_numbered_as_by_division(length in 2u64..1 << 40, now in any::<u64>()) {
            prop_assert_eq!(Slices::of(length).number(now), now / length);
        }

        /// Against the plain thing: a list of all events.
        #[test]
        fn counts_what_a_list_would(steps in prop::collection::vec((0u64..3 * SLICE, any::<bool>()), 1..200)) {
            let window = Window::new(LENGTH);
            let mut list = Vec::new();
            let mut now = 0;
            for (wait, marked) in steps {
                now += wait;
                window.add(now, marked);
                list.push((now / SLICE, marked));
                list.retain(|(slice, _)| slice + 10 > now / SLICE);
                let marked = list.iter().filter(|(_, marked)| *marked).count();
                prop_assert_eq!(window.sum(now), counts(list.len() as u64, marked as u64));
            }
        }
    }
}
