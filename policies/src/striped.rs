//! Memory that many threads use without waiting for each other.
//!
//! A word that two cores write travels between them with every write, which
//! costs more than all else a policy does. What is only added up now and then
//! is therefore kept once for each stripe of threads, each on a cache line of
//! its own.

use std::{
    ops::Deref,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crossbeam_utils::CachePadded;

/// More stripes than this cost more memory than they save time.
const STRIPES_MAX: usize = 32;

/// How many stripes there are: a power of two, and at least as many as threads
/// that run at once where that is not too many.
pub(crate) static STRIPES: LazyLock<usize> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    threads.next_power_of_two().min(STRIPES_MAX)
});

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
        // The length is a power of two.
        &self.0[thread_number() & (self.0.len() - 1)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Deref::deref)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Threads number themselves as they come.
#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // A thread that is ending, and whose number is gone, shares the first.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// A shared value with a count of owners for each stripe, so that threads that
/// copy the pointer for each call do not meet at the count.
#[derive(Debug)]
pub(crate) struct Spread<T>(Arc<Striped<Local<T>>>);

/// A pointer to a [`Spread`] value, counted with its stripe.
pub(crate) type Local<T> = Arc<CachePadded<Arc<T>>>;

impl<T> Spread<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Arc::new(value);
        Self(Arc::new(Striped::new(|| {
            Arc::new(CachePadded::new(Arc::clone(&value)))
        })))
    }

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

impl<T> Deref for Spread<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.mine()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_stripe() {
        let striped = Striped::new(|| AtomicUsize::new(0));

        striped.mine().fetch_add(1, Ordering::Relaxed);
        striped.mine().fetch_add(1, Ordering::Relaxed);

        let counts: Vec<_> = striped
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 2);
        assert!(counts.contains(&2), "{counts:?}");
        assert_eq!(counts.len(), striped.len());
    }

    #[test]
    fn a_spread_value_lives_as_long_as_its_last_pointer() {
        let spread = Spread::new(Arc::new(()));
        let value = Arc::clone(&spread);
        let local = spread.local();

        drop(spread);
        assert_eq!(Arc::strong_count(&value), 2, "the local pointer holds it");
        drop(local);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
