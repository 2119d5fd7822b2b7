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
//! Where several retry all the same, an [`AttemptBudget`] that the request
//! carries bounds them together.

mod attempts;
mod backoff;
mod budget;
#[cfg(test)]
mod layer_tests;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

pub use self::{
    attempts::AttemptBudget,
    budget::{RetryBudget, RetryBudgetConfig, RetryBudgetSnapshot},
};
use crate::{
    admission::Call,
    classify::RetryAdvice,
    clock::{self, Instant},
    config::{ConfigError, check_time},
    event::RetryStop,
    refusal::RefusalKind,
    stack::Policies,
};

/// How often failed calls are tried, and when.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How often a call is tried altogether, the first time included.
    pub max_attempts: NonZeroU32,
    /// The longest wait before the second attempt. It doubles with each
    /// further one; the actual wait is random, as `jitter` says.
    #[serde(with = "humantime_serde")]
    pub base_delay: Duration,
    /// Where the doubling ends.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
    /// How random the waits are.
    pub jitter: Jitter,
    /// How much of the traffic may be retries.
    pub budget: RetryBudgetConfig,
}

/// How waits are spread, so that callers that failed together do not return
/// together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Between nothing and a ceiling that doubles. Spreads best.
    #[default]
    Full,
    /// Between `base_delay` and three times the wait before. For services
    /// that need some rest in any case: no wait is shorter than `base_delay`,
    /// and waits are longer by half.
    Decorrelated,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            base_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
            jitter: Jitter::Full,
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

/// Whether a failed attempt is followed by another. [`Once`] and [`Retry`]
/// are all there are.
pub trait Repeat<Req>: sealed::Sealed {
    /// Whether there ever is another.
    const REPEATS: bool;

    /// Takes note of a new call.
    #[doc(hidden)]
    fn begin(&self, call: &mut Call);

    /// What an attempt after number `number` would ask, if there may be one.
    #[doc(hidden)]
    fn spare(&self, request: &Req, number: u32) -> Option<Req>;

    /// What follows a failed attempt.
    #[doc(hidden)]
    fn next(&self, failed: &Failed, now: Instant) -> Next;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Once {}
    impl Sealed for super::Retry {}
}

/// Tries each call once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Once;

impl<Req> Repeat<Req> for Once {
    const REPEATS: bool = false;

    #[inline]
    fn begin(&self, _: &mut Call) {}

    #[inline]
    fn spare(&self, _: &Req, _: u32) -> Option<Req> {
        None
    }

    #[inline]
    fn next(&self, _: &Failed, _: Instant) -> Next {
        Next::GiveUp
    }
}

/// Tries failed calls again. Copies share settings, budget and random numbers.
#[derive(Clone, Debug)]
pub struct Retry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Of the settings, what each call looks at.
    max_attempts: AtomicU32,
    budget: RetryBudget,
    /// Whether the budget's settings are among those of this retry.
    owns_budget: bool,
    /// For failed attempts only.
    waits: Mutex<Waits>,
}

#[derive(Debug)]
struct Waits {
    config: RetryConfig,
    rng: Rng,
}

impl Retry {
    /// Tries again as `config` says, with a budget of its own.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RetryConfig) -> Result<Self, ConfigError> {
        let budget = RetryBudget::new(config.budget.clone())?;
        Self::assemble(config, budget, true)
    }

    /// Tries again as `config` says, but out of `budget`, which others may
    /// share; the budget in `config` is not used.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_budget(config: RetryConfig, budget: RetryBudget) -> Result<Self, ConfigError> {
        Self::assemble(config, budget, false)
    }

    fn assemble(
        config: RetryConfig,
        budget: RetryBudget,
        owns_budget: bool,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self(Arc::new(Shared {
            max_attempts: AtomicU32::new(config.max_attempts.get()),
            budget,
            owns_budget,
            waits: Mutex::new(Waits {
                config,
                rng: Rng::new(),
            }),
        })))
    }

    /// Makes the waits repeatable, those of copies included.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.0.waits().rng.seed(seed);
        self
    }

    /// Changes the settings, for calls under way too, and keeps what the
    /// budget remembers. A budget that others may share keeps its settings
    /// as well; see [`RetryBudget::reconfigure`].
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; nothing has changed then.
    pub fn reconfigure(&self, config: RetryConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let mut waits = self.0.waits();
        if self.0.owns_budget {
            self.0.budget.reconfigure(config.budget.clone())?;
        }
        let max_attempts = config.max_attempts.get();
        self.0.max_attempts.store(max_attempts, Ordering::Relaxed);
        waits.config = config;
        Ok(())
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> RetryConfig {
        self.0.waits().config.clone()
    }

    /// Takes note at `now` of work that begins and is no tower service, so that
    /// it earns its part of the budget.
    pub fn begin_work(&self, now: Instant) {
        self.0.budget.deposit(now);
    }

    /// After how long such work may be tried again that failed at `now`, for
    /// the `attempt`th time, having waited for `waited` before; if it may be. To
    /// be asked once for each attempt: the budget pays for the next one.
    #[must_use]
    pub fn repeat_work(&self, attempt: u32, waited: Duration, now: Instant) -> Option<Duration> {
        let failed = Failed {
            attempt,
            waited,
            is_kept: true,
            attempts: None,
            advice: RetryAdvice::NotStarted { after: None },
            refusal: None,
            idempotent: true,
            deadline: Instant::from_nanos(u64::MAX),
        };
        match self.0.next(&failed, now) {
            Next::After(delay) => Some(delay),
            Next::GiveUp | Next::Stop(_) => None,
        }
    }

    /// What its budget remembers at `now`.
    #[must_use]
    pub fn budget(&self, now: Instant) -> RetryBudgetSnapshot {
        self.0.budget.snapshot(now)
    }
}

/// [`Retry`] alone, as a layer.
pub type RetryLayer<C> = Policies<C, (), Retry>;

impl<C> RetryLayer<C> {
    /// See [`Retry::new`].
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RetryConfig, classify: C) -> Result<Self, ConfigError> {
        Ok(Self::assemble(classify, (), Retry::new(config)?, ()))
    }

    /// See [`Retry::with_budget`].
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_budget(
        config: RetryConfig,
        budget: RetryBudget,
        classify: C,
    ) -> Result<Self, ConfigError> {
        let retry = Retry::with_budget(config, budget)?;
        Ok(Self::assemble(classify, (), retry, ()))
    }

    /// See [`Retry::with_seed`].
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.retry = self.retry.with_seed(seed);
        self
    }
}

/// A failed attempt, as far as the decision to make another depends on it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Failed {
    pub(crate) attempt: u32,
    /// The wait before it.
    pub(crate) waited: Duration,
    /// Whether there is a request for another attempt to ask.
    pub(crate) is_kept: bool,
    /// What the request carries.
    pub(crate) attempts: Option<AttemptBudget>,
    pub(crate) advice: RetryAdvice,
    pub(crate) refusal: Option<RefusalKind>,
    pub(crate) idempotent: bool,
    pub(crate) deadline: Instant,
}

/// What follows a failed attempt.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The error is the answer, and always was going to be.
    GiveUp,
    /// The error is the answer, though another attempt might have helped.
    Stop(RetryStop),
    /// Another attempt, after this wait.
    After(Duration),
}

impl<Req: Clone> Repeat<Req> for Retry {
    const REPEATS: bool = true;

    #[inline]
    fn begin(&self, call: &mut Call) {
        self.0.budget.deposit_at(call.place(), call.now());
    }

    #[inline]
    fn spare(&self, request: &Req, number: u32) -> Option<Req> {
        let max_attempts = self.0.max_attempts.load(Ordering::Relaxed);
        (number < max_attempts).then(|| request.clone())
    }

    fn next(&self, failed: &Failed, now: Instant) -> Next {
        self.0.next(failed, now)
    }
}

impl Shared {
    /// Nothing panics while it is held, so poison is ignored.
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        let delay = match self.waits().delay(failed, after) {
            Ok(delay) => delay,
            Err(next) => return next,
        };
        if clock::after(now, delay) >= failed.deadline {
            return Next::Stop(RetryStop::Deadline);
        }
        // Last, so that only attempts that will be made are paid for.
        match self.pay(failed.attempts.as_ref(), now) {
            Ok(()) => Next::After(delay),
            Err(reason) => Next::Stop(reason),
        }
    }

    fn pay(&self, attempts: Option<&AttemptBudget>, now: Instant) -> Result<(), RetryStop> {
        if attempts.is_some_and(|attempts| !attempts.take()) {
            return Err(RetryStop::Exhausted);
        }
        if self.budget.withdraw(now) {
            return Ok(());
        }
        if let Some(attempts) = attempts {
            attempts.give_back();
        }
        Err(RetryStop::Budget)
    }
}

impl Waits {
    /// How long until another attempt, if one more is allowed.
    fn delay(&mut self, failed: &Failed, after: Option<Duration>) -> Result<Duration, Next> {
        let max_attempts = self.config.max_attempts.get();
        if max_attempts == 1 {
            return Err(Next::GiveUp);
        }
        // More may be allowed by now than when the attempt was made; what it
        // asked is then gone.
        if failed.attempt >= max_attempts || !failed.is_kept {
            return Err(Next::Stop(RetryStop::Exhausted));
        }
        let jittered = match self.config.jitter {
            Jitter::Full => backoff::full(&self.config, failed.attempt, &mut self.rng),
            Jitter::Decorrelated => {
                backoff::decorrelated(&self.config, failed.waited, &mut self.rng)
            }
        };
        Ok(backoff::with_rest(jittered, after))
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
