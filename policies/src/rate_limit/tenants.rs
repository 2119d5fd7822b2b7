//! Remembers the buckets of a bounded number of tenants.
//!
//! A bucket that has filled up again is no different from a new one, so it
//! can be forgotten at no loss. That is done when there is no room for a new
//! tenant, and not more often than once a second for each part of the store:
//! looking through all of it takes a while. A tenant that finds no room shares
//! one bucket with all others that find none.
//!
//! The store is in parts, each with a lock of its own, so that two tenants on
//! two threads seldom meet.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use governor::{clock::Clock, nanos::Nanos, state::StateStore};

use super::gcra::{FullAt, GivenClock};
use crate::striped::STRIPES;

/// How long to wait after looking through a part before looking again, in
/// nanoseconds: one second.
const SWEEP_EVERY: u64 = 1_000_000_000;

/// When each tenant's bucket will be full again. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct TenantStore(Arc<Tenants>);

#[derive(Debug)]
struct Tenants {
    keys_max: AtomicUsize,
    /// In all parts together.
    keys: AtomicUsize,
    parts: Box<[CachePadded<Part>]>,
    overflow: FullAt,
}

#[derive(Debug, Default)]
struct Part {
    full_at: Mutex<HashMap<u64, Nanos>>,
    next_sweep: AtomicU64,
}

impl TenantStore {
    pub(super) fn new(keys_max: usize) -> Self {
        // A power of two, and so many that two threads seldom meet in one.
        let parts = (0..8 * *STRIPES).map(|_| CachePadded::default());
        Self(Arc::new(Tenants {
            keys_max: AtomicUsize::new(keys_max),
            keys: AtomicUsize::new(0),
            parts: parts.collect(),
            overflow: FullAt::default(),
        }))
    }

    /// Tenants that are remembered.
    pub(super) fn len(&self) -> usize {
        self.0.keys.load(Ordering::Relaxed)
    }

    /// Changes how many tenants are remembered, and when their buckets will be
    /// full. If there are too many, no others come in until enough of their
    /// buckets are full.
    pub(super) fn take_over(&self, keys_max: usize, change: impl Fn(u64) -> u64) {
        self.0.keys_max.store(keys_max, Ordering::Relaxed);
        for part in &self.0.parts {
            for full_at in part.lock().values_mut() {
                *full_at = Nanos::new(change(full_at.as_u64()));
            }
            // They may be full sooner than was known.
            part.next_sweep.store(0, Ordering::Relaxed);
        }
        self.0.overflow.change(change);
    }

    /// Changes when the bucket of `tenant` will be full: its own, or the one
    /// that all share who have none.
    pub(super) fn change(&self, tenant: u64, mut change: impl FnMut(u64) -> u64) {
        let part = self.0.part_of(tenant);
        if let Some(full_at) = part.lock().get_mut(&tenant) {
            *full_at = Nanos::new(change(full_at.as_u64()));
            return;
        }
        self.0.overflow.change(change);
    }
}

impl StateStore for TenantStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, tenant: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let part = self.0.part_of(*tenant);
        loop {
            let mut known = part.lock();
            if let Some(full_at) = known.get_mut(tenant) {
                let (decision, next) = decide(Some(*full_at))?;
                *full_at = next;
                return Ok(decision);
            }
            if self.0.reserve() {
                // A new bucket is full and gives a token.
                let (decision, next) = decide(None).inspect_err(|_| self.0.release(1))?;
                known.insert(*tenant, next);
                return Ok(decision);
            }
            drop(known);
            if !self.0.make_room(GivenClock.now().as_u64()) {
                return self.0.overflow.decide(decide);
            }
        }
    }
}

impl Tenants {
    /// Multiplies with the golden ratio, which spreads numbers that follow one
    /// another as well as any.
    fn part_of(&self, tenant: u64) -> &Part {
        let spread = tenant.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.parts[spread as usize & (self.parts.len() - 1)]
    }

    fn reserve(&self) -> bool {
        let max = self.keys_max.load(Ordering::Relaxed);
        let more = |keys: usize| (keys < max).then_some(keys + 1);
        self.keys
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn release(&self, keys: usize) {
        self.keys.fetch_sub(keys, Ordering::Relaxed);
    }

    /// Forgets full buckets, part by part until there are some.
    #[cold]
    fn make_room(&self, now: u64) -> bool {
        self.parts.iter().any(|part| {
            let forgotten = part.sweep(now);
            self.release(forgotten);
            forgotten > 0
        })
    }
}

impl Part {
    /// Forgets full buckets, unless that was done lately. How many there were.
    fn sweep(&self, now: u64) -> usize {
        if now < self.next_sweep.load(Ordering::Relaxed) {
            return 0;
        }
        let mut known = self.lock();
        let before = known.len();
        known.retain(|_, full_at| full_at.as_u64() > now);
        let next = now.saturating_add(SWEEP_EVERY);
        self.next_sweep.store(next, Ordering::Relaxed);
        // Or else each part would keep the room that it ever needed.
        if known.capacity() / 4 > known.len() {
            let room = known.len() * 2;
            known.shrink_to(room);
        }
        before - known.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Nanos>> {
        // A panic cannot leave the map half changed, so poison is ignored.
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;
    use crate::rate_limit::{Rate, gcra::TenantBuckets};

    const SECOND: u64 = 1_000_000_000;

    /// One call a second each, room for two tenants.
    fn buckets() -> TenantBuckets {
        let rate = Rate {
            calls: NonZeroU32::MIN,
            per: Duration::from_secs(1),
            burst: None,
        };
        TenantBuckets::new(&rate, 2)
    }

    #[test]
    fn tenants_do_not_spend_each_others_tokens() {
        let buckets = buckets();

        assert_eq!(buckets.take(1, 0), Ok(()));
        assert_eq!(buckets.take(1, 1), Err(Duration::from_nanos(SECOND - 1)));
        assert_eq!(buckets.take(2, 1), Ok(()));
        assert_eq!(buckets.take(1, SECOND), Ok(()));
    }

    #[test]
    fn tenants_beyond_the_room_share_one_bucket() {
        let buckets = buckets();
        assert_eq!(buckets.take(1, 0), Ok(()));
        assert_eq!(buckets.take(2, 0), Ok(()));

        assert_eq!(buckets.take(3, 0), Ok(()), "the shared bucket starts full");
        assert!(buckets.take(4, 0).is_err(), "and is empty for the next");
        assert!(
            buckets.take(1, 0).is_err(),
            "while the first keep their own"
        );
    }

    #[test]
    fn a_full_bucket_makes_room_and_no_sooner() {
        let buckets = buckets();
        for tenant in [1, 2, 3] {
            assert_eq!(buckets.take(tenant, 0), Ok(()));
        }

        assert!(buckets.take(4, SECOND - 1).is_err(), "still shares");
        assert_eq!(buckets.take(4, SECOND), Ok(()), "has the room of 1 or 2");
        assert_eq!(buckets.take(5, SECOND), Ok(()), "has the room of the other");
        assert_eq!(buckets.take(6, SECOND), Ok(()), "shares again");
        assert!(buckets.take(7, SECOND).is_err());
    }

    /// `governor`'s own store keeps a million.
    #[test]
    fn trap_g02_g07_a_million_tenants_take_no_more_room_than_allowed() {
        const KEYS_MAX: usize = 1_000;
        let store = TenantStore::new(KEYS_MAX);
        let fill = |tenants: std::ops::Range<u64>, full_at| {
            for tenant in tenants {
                let _ = store.measure_and_replace(&tenant, |_| Ok::<_, ()>(((), full_at)));
            }
        };
        fill(0..500_000, Nanos::new(0));
        fill(500_000..1_000_000, Nanos::new(u64::MAX));

        let keys = |part: &CachePadded<Part>| part.lock().len();
        let room = |part: &CachePadded<Part>| part.lock().capacity();
        let sum = |each: fn(&CachePadded<Part>) -> usize| -> usize {
            store.0.parts.iter().map(each).sum()
        };
        assert_eq!((store.len(), sum(keys)), (KEYS_MAX, KEYS_MAX));
        assert!(sum(room) <= 8 * KEYS_MAX, "room for {}", sum(room));
    }

    #[test]
    fn tenants_are_spread_over_all_parts() {
        let store = TenantStore::new(usize::MAX);
        for tenant in 0..10_000_u64 {
            let _ = store.measure_and_replace(&tenant, |_| Ok::<_, ()>(((), Nanos::new(1))));
        }

        let most = store.0.parts.iter().map(|part| part.lock().len()).max();

        assert!(most.unwrap() <= 2 * 10_000 / store.0.parts.len());
    }

    #[test]
    fn threads_never_remember_more_than_allowed() {
        let store = TenantStore::new(100);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for tenant in 0..5_000 {
                        let tenant = tenant * 4 + thread;
                        let full = Nanos::new(tenant % 2 * u64::MAX);
                        let _ = store.measure_and_replace(&tenant, |_| Ok::<_, ()>(((), full)));
                        assert!(store.len() <= 100);
                    }
                });
            }
        });

        let keys: usize = store.0.parts.iter().map(|part| part.lock().len()).sum();
        assert_eq!(keys, store.len());
    }
}
