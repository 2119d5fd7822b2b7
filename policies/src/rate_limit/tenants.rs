//! Remembers the buckets of a bounded number of tenants.
//!
//! A bucket that has filled up again is no different from a new one, so it
//! can be forgotten at no loss. That is done when there is no room for a new
//! tenant, and not more often than buckets fill: looking through all of them
//! takes a while. A tenant that finds no room shares one bucket with all
//! others that find none.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use governor::{clock::Clock, nanos::Nanos, state::StateStore};

use super::gcra::GivenClock;

/// How long to wait after looking through all buckets before looking again,
/// in nanoseconds: one second.
const SWEEP_EVERY: u64 = 1_000_000_000;

/// When each tenant's bucket will be full again.
#[derive(Debug)]
pub(super) struct TenantStore {
    keys_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    full_at: HashMap<u64, Nanos>,
    overflow: Option<Nanos>,
    next_sweep: u64,
}

impl TenantStore {
    pub(super) fn new(keys_max: usize) -> Self {
        let state = Mutex::default();
        Self { keys_max, state }
    }
}

impl StateStore for TenantStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, tenant: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // A panic cannot leave the state half changed, so poison is ignored.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = state.full_at.get_mut(tenant) {
            let (decision, next) = decide(Some(*full_at))?;
            *full_at = next;
            return Ok(decision);
        }
        state.make_room(self.keys_max, GivenClock.now().as_u64());
        if state.full_at.len() < self.keys_max {
            let (decision, next) = decide(None)?;
            state.full_at.insert(*tenant, next);
            return Ok(decision);
        }
        let (decision, next) = decide(state.overflow)?;
        state.overflow = Some(next);
        Ok(decision)
    }
}

impl State {
    fn make_room(&mut self, keys_max: usize, now: u64) {
        if self.full_at.len() < keys_max || now < self.next_sweep {
            return;
        }
        self.full_at.retain(|_, full_at| full_at.as_u64() > now);
        self.next_sweep = now.saturating_add(SWEEP_EVERY);
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

    #[test]
    fn a_million_tenants_take_no_more_room_than_allowed() {
        let store = TenantStore::new(100);
        for tenant in 0..1_000_000 {
            let _ = store.measure_and_replace(&tenant, |_| Ok::<_, ()>(((), Nanos::new(u64::MAX))));
        }

        assert_eq!(store.state.lock().unwrap().full_at.len(), 100);
    }
}
