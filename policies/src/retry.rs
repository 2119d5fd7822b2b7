//! Tries failed calls again.
//!
//! For: failures that pass by themselves, such as a restart or a lost
//! connection.
//!
//! Not for: overload and lasting failures, which retries make worse. Three
//! things keep them from doing so: full jitter spreads them out, the
//! [budget](RetryBudget) bounds them to a part of the traffic, and what
//! another policy refused is not tried again. Nor for calls that may not
//! happen twice: only requests that [`idempotent`](crate::Classify::idempotent) vouches for are
//! repeated, or calls that are known not to have started.
//!
//! Goes outside the breaker, so that every attempt asks it. Use it at one
//! place in a stack of calls: three layers of three attempts each make 27.

mod backoff;
mod budget;
mod service;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

pub use self::budget::{RetryBudget, RetryBudgetConfig, RetryBudgetSnapshot};
pub use self::service::{Retry, RetryFuture};
use crate::{
    classify::RetryAdvice,
    clock::{self, Instant},
    config::{ConfigError, check_time},
    event::{Emitter, Listener, RetryStop},
    refusal::RefusalKind,
};

/// How often failed calls are tried, and when.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How often a call is tried altogether, the first time included.
    pub max_attempts: NonZeroU32,
    /// The longest wait before the second attempt. It doubles with each
    /// further one; the actual wait is random, between nothing and this.
    #[serde(with = "humantime_serde")]
    pub base_delay: Duration,
    /// Where the doubling ends.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// How much of the traffic may be retries.
    pub budget: RetryBudgetConfig,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            base_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
            budget: RetryBudgetConfig::default(),
        }
    }
}

impl RetryConfig {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_time("base_delay", self.base_delay, Duration::from_millis(1))?;
        check_time("max_delay", self.max_delay, self.base_delay)?;
        self.budget.validate()
    }
}

/// Tries failed calls again.
#[derive(Debug)]
pub struct RetryLayer<C>(Arc<Shared<C>>);

#[derive(Debug)]
struct Shared<C> {
    config: RetryConfig,
    budget: RetryBudget,
    classify: C,
    emitter: Emitter,
    rng: Mutex<Rng>,
}

impl<C> Clone for RetryLayer<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> RetryLayer<C> {
    /// Tries again as `config` says, with a budget of its own that all
    /// services wrapped by this layer and its clones share.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RetryConfig, classify: C) -> Result<Self, ConfigError> {
        let budget = RetryBudget::new(config.budget.clone())?;
        Self::with_budget(config, budget, classify)
    }

    /// Tries again as `config` says, but out of `budget`, which others may
    /// share; the budget in `config` is not used.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_budget(
        config: RetryConfig,
        budget: RetryBudget,
        classify: C,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self(Arc::new(Shared {
            config,
            budget,
            classify,
            emitter: Emitter::default(),
            rng: Mutex::new(Rng::new()),
        })))
    }

    /// Tells `listener` about retries.
    #[must_use]
    pub fn with_listener(self, listener: Arc<dyn Listener>) -> Self
    where
        C: Clone,
    {
        self.change(|shared| shared.emitter = Emitter::new(listener))
    }

    /// Makes the waits repeatable.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self
    where
        C: Clone,
    {
        self.change(|shared| shared.rng = Mutex::new(Rng::with_seed(seed)))
    }

    fn change(self, change: impl FnOnce(&mut Shared<C>)) -> Self
    where
        C: Clone,
    {
        let mut shared = Shared {
            config: self.0.config.clone(),
            budget: self.0.budget.clone(),
            classify: self.0.classify.clone(),
            emitter: self.0.emitter.clone(),
            rng: Mutex::new(lock(&self.0.rng).fork()),
        };
        change(&mut shared);
        Self(Arc::new(shared))
    }
}

/// A panic cannot leave a generator half changed, so poison is ignored.
fn lock(rng: &Mutex<Rng>) -> std::sync::MutexGuard<'_, Rng> {
    rng.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failed attempt, as far as the decision to make another depends on it.
struct Failed {
    attempt: u32,
    advice: RetryAdvice,
    refusal: Option<RefusalKind>,
    idempotent: bool,
    deadline: Option<Instant>,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The error is the answer, and always was going to be.
    GiveUp,
    /// The error is the answer, though another attempt might have helped.
    Stop(RetryStop),
    /// Another attempt, at this instant.
    At(Instant),
}

impl<C> Shared<C> {
    fn next(&self, failed: &Failed, now: Instant) -> Next {
        let final_refusal =
            |kind: RefusalKind| kind.is_turned_away() || matches!(kind, RefusalKind::TotalTimeout);
        if failed.refusal.is_some_and(final_refusal) {
            return Next::GiveUp;
        }
        let after = match failed.advice {
            RetryAdvice::NotStarted { after } => after,
            RetryAdvice::IfIdempotent { after } if failed.idempotent => after,
            RetryAdvice::IfIdempotent { .. } | RetryAdvice::Never => return Next::GiveUp,
        };
        if self.config.max_attempts.get() == 1 {
            return Next::GiveUp;
        }
        if failed.attempt >= self.config.max_attempts.get() {
            return Next::Stop(RetryStop::Exhausted);
        }
        let delay = backoff::delay(&self.config, failed.attempt, after, &mut lock(&self.rng));
        let at = clock::after(now, delay);
        if failed.deadline.is_some_and(|deadline| at >= deadline) {
            return Next::Stop(RetryStop::Deadline);
        }
        // Last, so that only attempts that will be made are paid for.
        if !self.budget.withdraw(now) {
            return Next::Stop(RetryStop::Budget);
        }
        Next::At(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tester;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let key = |change: fn(&mut RetryConfig)| {
            let mut config = RetryConfig::default();
            change(&mut config);
            RetryLayer::new(config, Tester).unwrap_err().key
        };

        assert_eq!(RetryConfig::default().validate(), Ok(()));
        assert_eq!(
            key(|config| config.base_delay = Duration::ZERO),
            "base_delay"
        );
        assert_eq!(
            key(|config| config.max_delay = Duration::from_millis(99)),
            "max_delay"
        );
        assert_eq!(
            key(|config| config.budget.ttl = Duration::ZERO),
            "budget.ttl"
        );
    }
}
