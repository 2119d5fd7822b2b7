//! Which stripe is a thread's.

#[cfg(not(loom))]
use std::sync::LazyLock;
use std::{cell::Cell, sync::atomic::AtomicUsize};

use super::STRIPES;
use crate::sync::{AtomicU64, Ordering};

/// The stripes that belong to threads. More than threads that run at once:
/// others have made calls too, and still live.
#[cfg(not(loom))]
static OWNED: LazyLock<Owned> = LazyLock::new(|| Owned::new(2 * *STRIPES));

#[cfg(loom)]
loom::lazy_static! {
    static ref OWNED: Owned = Owned::new(2 * *STRIPES);
}

/// How many places there are: those that threads own, then those they share.
pub(crate) fn places() -> usize {
    OWNED.count + *STRIPES
}

/// A thread's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    number: u32,
    is_owned: bool,
}

impl Place {
    /// Of a thread that has none yet.
    const NONE: Self = Self::shared_number(u32::MAX);

    #[inline]
    pub(crate) fn of_this_thread() -> Self {
        let place = PLACE.with(Cell::get);
        if place.number == Self::NONE.number {
            return Self::take();
        }
        place
    }

    #[cold]
    fn take() -> Self {
        // A thread that is ending takes none, for it could not give it back.
        let owned = OWNERSHIP.try_with(Ownership::take).ok().flatten();
        let place = owned.unwrap_or_else(Self::shared);
        PLACE.with(|mine| mine.set(place));
        place
    }

    fn shared() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % *STRIPES;
        Self::shared_number((OWNED.count + number) as u32)
    }

    /// A place that is nobody's own.
    pub(crate) const fn shared_number(number: u32) -> Self {
        Self {
            number,
            is_owned: false,
        }
    }

    #[inline]
    pub(crate) fn number(self) -> usize {
        self.number as usize
    }

    #[inline]
    pub(super) fn is_owned(self) -> bool {
        self.is_owned
    }
}

#[cfg(loom)]
loom::thread_local! {
    static PLACE: Cell<Place> = Cell::new(Place::NONE);
    static OWNERSHIP: Ownership = Ownership(Cell::new(None));
}

#[cfg(not(loom))]
thread_local! {
    /// Needs no drop, so that reading it takes one instruction.
    static PLACE: Cell<Place> = const { Cell::new(Place::NONE) };
    static OWNERSHIP: Ownership = const { Ownership(Cell::new(None)) };
}

/// A stripe that is this thread's until it ends.
struct Ownership(Cell<Option<usize>>);

impl Ownership {
    fn take(&self) -> Option<Place> {
        // The first of a model's threads ends after all its statics.
        #[cfg(loom)]
        if format!("{:?}", loom::thread::current().id()) == "ThreadId(0)" {
            return None;
        }
        let index = OWNED.take()?;
        self.0.set(Some(index));
        Some(Place {
            number: index as u32,
            is_owned: true,
        })
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if let Some(index) = self.0.get() {
            // Whatever else ends with this thread may still count.
            let _ = PLACE.try_with(|place| place.set(Place::shared()));
            OWNED.give_back(index);
        }
    }
}

/// Which of the owned stripes are taken, one bit each.
struct Owned {
    taken: AtomicU64,
    count: usize,
}

impl Owned {
    /// At most 64 of them.
    fn new(count: usize) -> Self {
        Self {
            taken: AtomicU64::new(0),
            count,
        }
    }

    fn take(&self) -> Option<usize> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let index = taken.trailing_ones();
            if index as usize >= self.count {
                return None;
            }
            // Acquire: what the owner before has counted is there.
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            let more = taken | 1 << index;
            match self.taken.compare_exchange(taken, more, success, failure) {
                Ok(_) => return Some(index as usize),
                Err(now) => taken = now,
            }
        }
    }

    fn give_back(&self, index: usize) {
        self.taken.fetch_and(!(1 << index), Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_place_has_two_owners() {
        let owned = Owned::new(3);
        let taken = [(); 4].map(|()| owned.take());
        assert_eq!(taken, [Some(0), Some(1), Some(2), None]);

        owned.give_back(1);

        assert_eq!([owned.take(), owned.take()], [Some(1), None]);
    }
}
