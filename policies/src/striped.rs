//! Memory that many threads use without waiting for each other.
//!
//! A word that two cores write travels between them with every write, which
//! costs more than all else a policy does. What is only added up now and then
//! is therefore kept once for each stripe of threads, each on a cache line of
//! its own.
//!
//! Even where nobody else is, a step that no other thread may come between
//! costs as much as twenty that one may. [`Sums`] do without: most of their
//! stripes belong to one thread, which adds with a plain load and store.

mod place;

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
    thread,
};

use crossbeam_utils::CachePadded;

pub(crate) use self::place::{Place, places};
use crate::sync::{AtomicU64, Ordering};

/// More stripes than this cost more memory than they save time; and more than
/// one would have loom try the same thing many times over.
const STRIPES_MAX: usize = if cfg!(loom) { 1 } else { 32 };

/// How many stripes there are: a power of two, and at least as many as threads
/// that run at once where that is not too many.
pub(crate) static STRIPES: LazyLock<usize> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    threads.next_power_of_two().min(STRIPES_MAX)
});

/// The number of this thread. Small, but others may have the same.
#[inline]
pub(crate) fn thread_number() -> usize {
    Place::of_this_thread().number()
}

/// One value for each stripe.
#[derive(Debug)]
pub(crate) struct Striped<T>(Box<[CachePadded<T>]>);

impl<T> Striped<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        let values = (0..*STRIPES).map(|_| CachePadded::new(make()));
        Self(values.collect())
    }

    /// The value of this thread's stripe. Other threads may have the same.
    #[inline]
    pub(crate) fn mine(&self) -> &T {
        self.of(thread_number())
    }

    /// The value of the stripe of the thread with this number.
    #[inline]
    pub(crate) fn of(&self, thread: usize) -> &T {
        // The length is a power of two.
        &self.0[thread & (self.0.len() - 1)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Deref::deref)
    }
}

/// Words that are added to by many threads and added up now and then. A value
/// has any number of them.
#[derive(Debug)]
pub(crate) struct Sums<T>(Box<[CachePadded<T>]>);

impl<T> Sums<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        let values = (0..places()).map(|_| CachePadded::new(make()));
        Self(values.collect())
    }

    /// The value of the thread that counts at `place`.
    #[inline]
    pub(crate) fn at(&self, place: Place) -> Mine<'_, T> {
        Mine {
            value: &self.0[place.number()],
            alone: place.is_owned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Deref::deref)
    }
}

/// A value whose words this thread may add to.
pub(crate) struct Mine<'a, T> {
    value: &'a T,
    /// Whether no other thread changes it.
    alone: bool,
}

impl<'a, T> Mine<'a, T> {
    #[inline]
    pub(crate) fn value(&self) -> &'a T {
        self.value
    }

    /// Whether no other thread changes the value.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Adds to a `word` of the value. Relaxed: each is a number by itself.
    #[inline]
    pub(crate) fn add(&self, word: &AtomicU64, more: u64) {
        if self.alone {
            let sum = word.load(Ordering::Relaxed).wrapping_add(more);
            word.store(sum, Ordering::Relaxed);
        } else {
            word.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// A value with a copy for each stripe, so that threads that take a pointer to
/// it for each call do not meet at the count of pointers. Copies of the value
/// must be as good as the value itself.
#[derive(Debug)]
pub(crate) struct Spread<T>(Arc<Striped<Local<T>>>);

/// A pointer to a [`Spread`] value. Neither its count nor what it points to is
/// on a cache line that another stripe uses.
pub(crate) type Local<T> = Arc<CachePadded<T>>;

impl<T: Clone> Spread<T> {
    pub(crate) fn new(value: &T) -> Self {
        let local = || Arc::new(CachePadded::new(value.clone()));
        Self(Arc::new(Striped::new(local)))
    }
}

impl<T> Spread<T> {
    #[inline]
    pub(crate) fn local(&self) -> Local<T> {
        Arc::clone(self.0.mine())
    }
}

impl<T> Clone for Spread<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{cell::Cell, sync::Barrier, thread};

    use super::*;

    fn words() -> Sums<AtomicU64> {
        Sums::new(|| AtomicU64::new(0))
    }

    fn add(words: &Sums<AtomicU64>, times: u64) {
        for _ in 0..times {
            let mine = words.at(Place::of_this_thread());
            mine.add(mine.value(), 1);
        }
    }

    fn sum(words: &Sums<AtomicU64>) -> u64 {
        words.iter().map(|word| word.load(Ordering::Relaxed)).sum()
    }

    #[test]
    fn a_thread_keeps_its_place() {
        let words = words();

        add(&words, 2);

        let counts: Vec<_> = words
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts.iter().sum::<u64>(), 2);
        assert!(counts.contains(&2), "{counts:?}");
    }

    /// More of them than places, so that some own theirs and others share.
    #[test]
    fn threads_lose_no_count() {
        let words = words();
        let threads = 2 * places();
        let start = Barrier::new(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    start.wait();
                    add(&words, 10_000);
                });
            }
        });

        assert_eq!(sum(&words), 10_000 * threads as u64);
    }

    /// One after the other, so that each gets the place of one before.
    #[test]
    fn a_value_goes_from_thread_to_thread_with_its_count() {
        let words = words();
        for _ in 0..200 {
            thread::scope(|scope| drop(scope.spawn(|| add(&words, 10))));
        }

        assert_eq!(sum(&words), 2_000);
    }

    /// As a pool does that keeps a call in a thread-local.
    #[test]
    fn a_thread_that_is_ending_may_still_count() {
        struct CountsWhenDropped(Cell<Option<Arc<Sums<AtomicU64>>>>);
        impl Drop for CountsWhenDropped {
            fn drop(&mut self) {
                if let Some(words) = self.0.take() {
                    add(&words, 1);
                }
            }
        }
        thread_local! {
            // Made before the thread takes a place, so it ends after that.
            static EARLY: CountsWhenDropped = const { CountsWhenDropped(Cell::new(None)) };
        }
        let words = Arc::new(words());
        let theirs = Arc::clone(&words);
        thread::spawn(move || {
            EARLY.with(|early| early.0.set(Some(Arc::clone(&theirs))));
            add(&theirs, 1);
        })
        .join()
        .unwrap();

        assert_eq!(sum(&words), 2);
    }

    #[test]
    fn a_spread_value_lives_as_long_as_its_last_pointer() {
        let value = Arc::new(());
        let spread = Spread::new(&value);
        let local = spread.local();

        drop(spread);
        assert_eq!(Arc::strong_count(&value), 2, "the local pointer holds it");
        drop(local);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
