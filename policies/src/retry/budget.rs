//! Bounds retries to a part of the traffic.
//!
//! Without a budget, three attempts each turn a failing service's load into
//! three times as much, just when it can take less.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    clock::{self, Instant},
    config::{ConfigError, Ratio, check_time},
    striped::Place,
    window::{SHORTEST, Window},
};

/// How much of the traffic may be retries.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetConfig {
    /// Retries for each request of the last `ttl`.
    pub ratio: Ratio,
    /// Retries within any `ttl` that are allowed however little the traffic,
    /// so that a quiet caller can retry at all. Not in addition to `ratio`: a
    /// caller that earns more than this has only what it earns.
    pub reserve: u32,
    /// How long requests and retries are remembered.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self {
            ratio: Ratio::TENTH,
            reserve: 10,
            ttl: Duration::from_secs(10),
        }
    }
}

impl RetryBudgetConfig {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_time("budget.ttl", self.ttl, SHORTEST)
    }
}

/// A budget of retries. Clones share it.
#[derive(Clone, Debug)]
pub struct RetryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: Window,
    retries: Window,
    /// Held while a retry is granted, so that no two take the last one.
    config: Mutex<RetryBudgetConfig>,
}

/// What a budget remembers at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetSnapshot {
    /// Requests within the last `ttl`.
    pub requests: u64,
    /// Retries within the last `ttl`.
    pub retries: u64,
    /// Retries that would be granted now.
    pub left: u64,
}

impl RetryBudget {
    /// A budget with its reserve untouched.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RetryBudgetConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let (requests, retries) = (Window::new(config.ttl), Window::new(config.ttl));
        Ok(Self(Arc::new(Shared {
            requests,
            retries,
            config: Mutex::new(config),
        })))
    }

    /// Changes the settings and keeps what it remembers.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; nothing has changed then.
    pub fn reconfigure(&self, config: RetryBudgetConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let mut current = self.config();
        let now = clock::now().as_nanos();
        self.0.requests.resize(config.ttl, now);
        self.0.retries.resize(config.ttl, now);
        *current = config;
        Ok(())
    }

    /// Nothing panics while it is held, so poison is ignored.
    fn config(&self) -> MutexGuard<'_, RetryBudgetConfig> {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request: its first attempt, however it will end. Were only
    /// successes counted, a failing service would drain its own budget; were
    /// attempts, retries would earn further retries.
    pub fn deposit(&self, now: Instant) {
        self.deposit_at(Place::of_this_thread(), now);
    }

    /// [`Self::deposit`] on a thread whose place is known.
    #[inline]
    pub(super) fn deposit_at(&self, place: Place, now: Instant) {
        self.0.requests.add_at(place, now.as_nanos(), false);
    }

    /// Grants one retry, or says that there is none left.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let config = self.config();
        let granted = self.count(&config, now).left > 0;
        if granted {
            self.0.retries.add(now.as_nanos(), false);
        }
        granted
    }

    /// What it remembers at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> RetryBudgetSnapshot {
        self.count(&self.config(), now)
    }

    fn count(&self, config: &RetryBudgetConfig, now: Instant) -> RetryBudgetSnapshot {
        let now = now.as_nanos();
        let (requests, retries) = (self.0.requests.sum(now).all, self.0.retries.sum(now).all);
        let earned = config.ratio.of(requests);
        let left = earned
            .max(u64::from(config.reserve))
            .saturating_sub(retries);
        RetryBudgetSnapshot {
            requests,
            retries,
            left,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn budget(reserve: u32) -> RetryBudget {
        RetryBudget::new(RetryBudgetConfig {
            reserve,
            ..RetryBudgetConfig::default()
        })
        .unwrap()
    }

    fn grants(budget: &RetryBudget, now: Instant) -> usize {
        (0..20).filter(|_| budget.withdraw(now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_requests_earn_one_retry_and_nine_none() {
        let now = clock::now();
        let budget = budget(0);

        (0..9).for_each(|_| budget.deposit(now));
        assert_eq!(grants(&budget, now), 0);
        budget.deposit(now);
        assert_eq!(grants(&budget, now), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_comes_back_after_its_time_and_not_before() {
        let start = clock::now();
        let budget = budget(10);
        assert_eq!(grants(&budget, start), 10);

        assert_eq!(grants(&budget, start + Duration::from_millis(9_999)), 0);
        assert_eq!(grants(&budget, start + Duration::from_secs(10)), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_is_not_added_to_what_is_earned() {
        let now = clock::now();
        let budget = budget(3);

        (0..29).for_each(|_| budget.deposit(now));
        assert_eq!(budget.snapshot(now).left, 3);
        (0..11).for_each(|_| budget.deposit(now));
        assert_eq!(grants(&budget, now), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn new_settings_keep_what_is_remembered_and_wrong_ones_change_nothing() {
        let now = clock::now();
        let budget = budget(0);
        (0..50).for_each(|_| budget.deposit(now));
        assert_eq!(grants(&budget, now), 5);
        let config = |ratio, ttl| RetryBudgetConfig {
            ratio: Ratio::new(ratio).unwrap(),
            reserve: 0,
            ttl,
        };

        let refused = budget.reconfigure(config(0.5, Duration::ZERO));
        assert_eq!(refused.unwrap_err().key, "budget.ttl");
        assert_eq!(budget.snapshot(now).left, 0);

        budget
            .reconfigure(config(0.2, Duration::from_secs(60)))
            .unwrap();
        let remembered = RetryBudgetSnapshot {
            requests: 50,
            retries: 5,
            left: 5,
        };
        assert_eq!(budget.snapshot(now), remembered);
        assert_eq!(budget.snapshot(now + Duration::from_secs(50)), remembered);
    }

    #[test]
    fn racing_callers_never_get_more_than_there_is() {
        for _ in 0..300 {
            let budget = budget(2);
            let now = clock::now();
            let start = Barrier::new(4);
            let caller = || {
                start.wait();
                grants(&budget, now)
            };
            let granted: usize = std::thread::scope(|scope| {
                let callers = [(); 4].map(|()| scope.spawn(caller));
                callers
                    .into_iter()
                    .map(|caller| caller.join().unwrap())
                    .sum()
            });

            assert_eq!(granted, 2);
            let drained = RetryBudgetSnapshot {
                requests: 0,
                retries: 2,
                left: 0,
            };
            assert_eq!(budget.snapshot(now), drained);
        }
    }
}
