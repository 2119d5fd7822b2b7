//! Asks services from time to time whether they are well.
//!
//! For: a service that is down while nobody calls it, or that knows more of
//! itself than its callers see. What the checks find can be looked at, is told
//! to a [`Listener`], and, if asked for, keeps a [`Breaker`] open until the
//! service is well again.
//!
//! Not for: noticing failures of calls; a breaker does that sooner and without
//! asking. Nor for a check that says the same as the calls do: then it adds
//! load and nothing else.
//!
//! One check in a row that fails may be bad luck, so a service is unhealthy
//! after several, and healthy after several that succeed. Each check has a
//! task of its own and a time limit, so one that hangs delays no other;
//! intervals are random within bounds, so that checks do not come together.
//! The tasks end when the monitor is dropped.

mod check;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};

use self::check::{HeldOpen, Record, Runner};
use crate::{
    breaker::Breaker,
    config::{ConfigError, Ratio, check_time},
    event::{Emitter, Listener},
};

/// How often services are asked, and how often they must answer alike.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// From the end of a check to the beginning of the next.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The part of `interval` by which it is shorter or longer, at random.
    pub jitter: Ratio,
    /// How long a check may take; from then on it counts as failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How many checks in a row must fail.
    pub unhealthy_after: NonZeroU32,
    /// How many checks in a row must succeed.
    pub healthy_after: NonZeroU32,
    /// How many services are watched at most.
    pub max_checks: NonZeroUsize,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            jitter: Ratio::TENTH,
            timeout: Duration::from_secs(2),
            unhealthy_after: NonZeroU32::MIN.saturating_add(2),
            healthy_after: NonZeroU32::MIN.saturating_add(1),
            max_checks: NonZeroUsize::MIN.saturating_add(1023),
        }
    }
}

impl HealthConfig {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tick = Duration::from_millis(1);
        check_time("interval", self.interval, tick)?;
        check_time("timeout", self.timeout, tick)
    }
}

/// Whether a service is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Too few checks have ended to tell.
    #[default]
    Unknown,
    /// It is.
    Healthy,
    /// It is not.
    Unhealthy,
}

impl Health {
    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One change of a service's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Counts the changes of this service from 1, for as long as one check
    /// watches it.
    pub sequence: u64,
    /// The service.
    pub name: Arc<str>,
    /// What the last check found, if the service became unhealthy. Cut to a
    /// bounded length.
    pub reason: Option<String>,
    /// Its health before.
    pub from: Health,
    /// Its health after.
    pub to: Health,
}

/// What is known of one service. Taking it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// The service.
    pub name: Arc<str>,
    /// Whether it is well.
    pub health: Health,
    /// Checks that have ended.
    pub checks: u64,
    /// How many of the last checks ended as the last one did.
    pub in_a_row: u32,
    /// What the last check found, if it failed. Cut to a bounded length.
    pub problem: Option<String>,
}

/// As many services are watched as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{limit} services are watched already")]
pub struct TooManyChecks {
    /// How many may be watched.
    pub limit: usize,
}

/// Watches services. The checks end when it is dropped.
pub struct HealthMonitor {
    config: watch::Sender<HealthConfig>,
    emitter: Emitter,
    watched: Mutex<Watched>,
}

struct Watched {
    rng: Rng,
    checks: BTreeMap<Arc<str>, Check>,
}

/// A check that goes on until this is dropped.
struct Check {
    record: Arc<Record>,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthMonitor {
    /// A monitor that watches nothing yet.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: HealthConfig) -> Result<Self, ConfigError> {
        Self::build(config, Rng::new(), Emitter::default())
    }

    /// As [`Self::new`]; tells `listener` of all changes, those of one service
    /// in order.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_listener(
        config: HealthConfig,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, ConfigError> {
        Self::build(config, Rng::new(), Emitter::new(listener))
    }

    /// As [`Self::with_listener`], with intervals that are the same for the
    /// same `seed`.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn with_seed(
        config: HealthConfig,
        listener: Arc<dyn Listener>,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        Self::build(config, Rng::with_seed(seed), Emitter::new(listener))
    }

    fn build(config: HealthConfig, rng: Rng, emitter: Emitter) -> Result<Self, ConfigError> {
        config.validate()?;
        let checks = BTreeMap::new();
        Ok(Self {
            config: watch::Sender::new(config),
            emitter,
            watched: Mutex::new(Watched { rng, checks }),
        })
    }

    /// Goes on with `config` at once; a check that is running ends as it began.
    /// Keeps what is known, and the checks that there are even if they are too many now.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; then nothing has changed.
    pub fn reconfigure(&self, config: HealthConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.config.send_replace(config);
        Ok(())
    }

    /// Watches the service `name` by calling `check` again and again, in a
    /// task of the current runtime. Takes the place of an earlier check of the
    /// same name. A check that panics has failed; one that takes too long is
    /// dropped, so it must be safe to drop.
    ///
    /// # Errors
    ///
    /// Fails if there are too many checks; then nothing has changed.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn watch<F, T, E>(&self, name: impl Into<Arc<str>>, check: F) -> Result<(), TooManyChecks>
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        self.start(name.into(), None, check)
    }

    /// As [`Self::watch`], and holds `breaker` open while the service is
    /// unhealthy. After that, or when the check ends, traffic
    /// [ramps up](Breaker::recover), unless another check holds the breaker as
    /// well. What somebody [forces](Breaker::force_open) it to comes first, and
    /// lasts until somebody resets it; and a disabled breaker lets all calls in.
    ///
    /// # Errors
    ///
    /// As for [`Self::watch`].
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn watch_breaker<F, T, E>(
        &self,
        name: impl Into<Arc<str>>,
        breaker: Breaker,
        check: F,
    ) -> Result<(), TooManyChecks>
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        self.start(name.into(), Some(breaker), check)
    }

    fn start<F, T, E>(
        &self,
        name: Arc<str>,
        breaker: Option<Breaker>,
        check: F,
    ) -> Result<(), TooManyChecks>
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let mut watched = self.watched();
        let limit = self.config.borrow().max_checks.get();
        if watched.checks.len() >= limit && !watched.checks.contains_key(&name) {
            return Err(TooManyChecks { limit });
        }
        let record = Arc::<Record>::default();
        let runner = Runner {
            name: Arc::clone(&name),
            record: Arc::clone(&record),
            config: self.config.subscribe(),
            emitter: self.emitter.clone(),
            rng: watched.rng.fork(),
            held: breaker.map(HeldOpen::new),
            changes: 0,
        };
        let task = tokio::spawn(runner.run(check));
        watched.checks.insert(name, Check { record, task });
        Ok(())
    }

    /// Ends the check of this name. Whether there was one.
    pub fn unwatch(&self, name: &str) -> bool {
        self.watched().checks.remove(name).is_some()
    }

    /// Whether the service `name` is well; nothing if it is not watched.
    #[must_use]
    pub fn health(&self, name: &str) -> Option<Health> {
        let watched = self.watched();
        watched.checks.get(name).map(|check| check.record.health())
    }

    /// What is known of all services, by name.
    #[must_use]
    pub fn snapshot(&self) -> Vec<HealthSnapshot> {
        let watched = self.watched();
        let snapshot = |(name, check): (&Arc<str>, &Check)| check.record.snapshot(name);
        watched.checks.iter().map(snapshot).collect()
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HealthMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.snapshot()).finish()
    }
}
