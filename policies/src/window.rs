//! Counts of the recent past, without a lock.
//!
//! Time is cut into slices, a tenth of the window each, and a ring of buckets
//! holds the counts of the last ten slices. So the window slides by a
//! slice at a time: it covers between nine tenths and the whole of its
//! length. Every stripe of threads has a ring of its own; the sum is taken
//! when something failed, which is seldom.

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use std::time::Duration;

use crate::{
    clock,
    striped::{Place, Sums},
    sync::{AtomicU64, Ordering},
};

/// Slices that a window covers. For loom as few as do all that many do.
const SLICES: usize = if cfg!(loom) { 1 } else { 10 };

/// More than slices, so that a bucket is found without a division.
const BUCKETS: usize = if cfg!(loom) { 2 } else { 16 };

/// The shortest window. With a much shorter one a slice would be over before
/// the runtime's timers, which count milliseconds, could tell.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// Two counters of events, both over the same recent past.
#[derive(Debug)]
pub(crate) struct Window {
    rings: Sums<Ring>,
    slices: Slices,
    /// Is added to the stamp of every slice, and changes when the window is
    /// cleared. So nothing comes back that a thread was just adding to.
    era: AtomicU64,
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
/// 2^24 slices; a bucket would have to lie untouched for exactly that long to
/// be taken for a new one (two days with the shortest window, nineteen months
/// with one of 30 s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    /// The number, plus the era.
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
const SLICE_SHIFT: u32 = 2 * COUNT_BITS;

/// What a clearing adds to the era, which comes round after 16 of them.
const ERA: u64 = 1 << (SLICE_SHIFT + SLICE_BITS - 4);

/// A call that is this many slices behind its bucket is late. One that seems
/// further behind is ahead: its bucket has not been used for long. (After 2^24
/// slices less this many, nearly two days with the shortest window, it is
/// taken for late by mistake and goes uncounted.)
const LATE_MAX: u64 = 1 << 16;

/// Nobody's clock is this many slices behind.
const STRAY_MIN: u64 = 10 * SLICES as u64;

impl Bucket {
    fn unpack(word: u64) -> Self {
        Self {
            slice: word >> SLICE_SHIFT,
            counts: Counts {
                all: (word >> COUNT_BITS) & COUNT_MAX,
                marked: word & COUNT_MAX,
            },
        }
    }

    fn pack(self) -> u64 {
        (self.slice << SLICE_SHIFT) | (self.counts.all << COUNT_BITS) | self.counts.marked
    }

    /// Whether it is so far ahead of `slice` that its number must be one from
    /// before a [`Window::resize`], written by a thread that was held up.
    fn is_stray(self, slice: u64) -> bool {
        let ahead = self.slice.wrapping_sub(slice) & SLICE_MASK;
        self.counts.all > 0 && (STRAY_MIN..=LATE_MAX).contains(&ahead)
    }

    /// With all of `counts`, which are of `slice`.
    fn with_all(mut self, slice: u64, counts: Counts) -> Self {
        if self.slice != slice {
            self = Self {
                slice,
                counts: Counts::default(),
            };
        }
        self.counts.all += counts.all;
        self.counts.marked += counts.marked;
        while self.counts.all > COUNT_FULL {
            self.counts.all /= 2;
            self.counts.marked /= 2;
        }
        self
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
            rings: Sums::new(|| std::array::from_fn(|_| AtomicU64::new(0))),
            slices: Slices::of(slice_length(length)),
            era: AtomicU64::new(0),
        }
    }

    /// Makes it a window of `length` from `now` on, in nanoseconds, and keeps
    /// what it has counted. Events of this very moment may go uncounted.
    pub(crate) fn resize(&self, length: Duration, now: u64) {
        let old_length = self.slices.length();
        let length = slice_length(length);
        if self.slices.is_of(length) {
            return;
        }
        let last = self.slices.number(now);
        let kept: [Counts; SLICES] = std::array::from_fn(|age| {
            let number = last.checked_sub(age as u64);
            number.map_or(Counts::default(), |number| self.sum_slice(number))
        });
        self.slices.set(length);
        self.clear();
        let last = self.slices.number(now);
        for (age, counts) in (0..).zip(kept) {
            let number = self.slices.number(now.saturating_sub(age * old_length));
            if number + SLICES as u64 <= last {
                break;
            }
            let slice = self.stamp(number) >> SLICE_SHIFT;
            let bucket = &self.rings.at(Place::of_this_thread()).value()[index_of(number)];
            let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(Bucket::unpack(word).with_all(slice, counts).pack())
            });
        }
    }

    /// Counts one event that happened at `now`, in nanoseconds.
    pub(crate) fn add(&self, now: u64, marked: bool) {
        self.add_at(Place::of_this_thread(), now, marked);
    }

    /// [`Self::add`] on a thread whose place is known.
    #[inline]
    pub(crate) fn add_at(&self, place: Place, now: u64, marked: bool) {
        let number = self.slices.number(now);
        let stamp = self.stamp(number);
        let mine = self.rings.at(place);
        let bucket = &mine.value()[index_of(number)];
        // A bucket of another slice looks as if it had counted too much.
        let counted = bucket.load(Ordering::Relaxed).wrapping_sub(stamp);
        if counted < COUNT_FULL << COUNT_BITS {
            // A bucket that moves on just now counts this event for the slice
            // after, which is as good.
            mine.add(bucket, (1 << COUNT_BITS) | u64::from(marked));
        } else {
            add_slowly(bucket, stamp, marked);
        }
    }

    /// What was counted in the window that ends at `now`, in nanoseconds.
    pub(crate) fn sum(&self, now: u64) -> Counts {
        let last = self.slices.number(now);
        let first = last.saturating_sub(SLICES as u64 - 1);
        let mut sum = Counts::default();
        for number in first..=last {
            let slice = self.sum_slice(number);
            sum.all += slice.all;
            sum.marked += slice.marked;
        }
        sum
    }

    fn sum_slice(&self, number: u64) -> Counts {
        let slice = self.stamp(number) >> SLICE_SHIFT;
        let mut sum = Counts::default();
        for ring in self.rings.iter() {
            let word = &ring[index_of(number)];
            let known = word.load(Ordering::Relaxed);
            let bucket = Bucket::unpack(known);
            if bucket.slice == slice {
                sum.all += bucket.counts.all;
                sum.marked += bucket.counts.marked;
            } else if bucket.is_stray(slice) {
                // It would take all events for late ones until then.
                let _ = word.compare_exchange(known, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        sum
    }

    /// Forgets everything. What is to be counted anew must come after.
    pub(crate) fn clear(&self) {
        self.era.fetch_add(ERA, Ordering::Relaxed);
        for bucket in self.rings.iter().flatten() {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// What the bucket of slice `number` holds before anything is counted.
    #[inline]
    fn stamp(&self, number: u64) -> u64 {
        (number << SLICE_SHIFT).wrapping_add(self.era.load(Ordering::Relaxed))
    }
}

/// Counts an event where the bucket is of an earlier slice, or full.
#[cold]
fn add_slowly(bucket: &AtomicU64, stamp: u64, marked: bool) {
    let slice = stamp >> SLICE_SHIFT;
    let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
        Bucket::unpack(word).with(slice, marked).map(Bucket::pack)
    });
}

/// The length of the slices of a window of `length`, in nanoseconds.
fn slice_length(length: Duration) -> u64 {
    clock::nanos(length.max(SHORTEST)) / SLICES as u64
}

/// Numbers the slices of time. A division would cost as much as the rest of
/// counting, so the length's inverse is multiplied with instead.
///
/// All of it is one word, so that whoever reads it while it is set sees the
/// old or the new one. Without the length beside it a slice begins early, by
/// a part of itself as small as `now` is of 2^64 ns: a sixteenth after 36
/// years.
#[derive(Debug)]
struct Slices {
    /// 2^64 / length, rounded up.
    inverse: AtomicU64,
}

impl Slices {
    /// Slices of `length` nanoseconds, more than one.
    fn of(length: u64) -> Self {
        Self {
            inverse: AtomicU64::new(inverse_of(length)),
        }
    }

    fn set(&self, length: u64) {
        self.inverse.store(inverse_of(length), Ordering::Relaxed);
    }

    fn is_of(&self, length: u64) -> bool {
        self.inverse.load(Ordering::Relaxed) == inverse_of(length)
    }

    /// Rounded up by less than its part of 2^64 ns; so right for all but very
    /// long ones.
    fn length(&self) -> u64 {
        u64::MAX / (self.inverse.load(Ordering::Relaxed) - 1)
    }

    /// The number of the slice that `now` is in.
    #[inline]
    fn number(&self, now: u64) -> u64 {
        let inverse = self.inverse.load(Ordering::Relaxed);
        ((u128::from(now) * u128::from(inverse)) >> 64) as u64
    }
}

fn inverse_of(length: u64) -> u64 {
    u64::MAX / length + 1
}

/// The bucket of slice `number`.
#[inline]
fn index_of(number: u64) -> usize {
    (number % BUCKETS as u64) as usize
}
