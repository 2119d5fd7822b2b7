//! The room there is for calls, and how much of it each class may take up.

use std::sync::Arc;

use super::{Criticality, ShedConfig};
use crate::{
    config::ConfigError,
    permits::Permits,
    refusal::Refusal,
    striped::{STRIPES, Striped, thread_number},
    sync::{AtomicI64, AtomicU64, Ordering},
};

/// The room for calls of all classes. Clones share it.
#[derive(Clone, Debug)]
pub struct Shed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    permits: Permits,
    /// The room that each class leaves to those above it.
    spared: [AtomicI64; 4],
    /// Calls of each class that were turned away.
    refused: Striped<[AtomicU64; 4]>,
}

/// What load shedding has done and may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedSnapshot {
    /// Calls in flight, of all classes.
    pub in_flight: usize,
    /// Each class, the least important first.
    pub classes: [ClassSnapshot; 4],
}

/// How one class fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassSnapshot {
    /// The class.
    pub criticality: Criticality,
    /// It is let in while fewer calls than this are in flight.
    pub limit: usize,
    /// Its calls that have been turned away so far.
    pub refused: u64,
}

impl ShedSnapshot {
    /// How `class` fares.
    #[must_use]
    pub fn of(&self, class: Criticality) -> ClassSnapshot {
        self.classes[class as usize]
    }
}

impl Shed {
    /// With nothing in flight.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: ShedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let spared = spared(&config);
        let limit = config.max_in_flight.get();
        Ok(Self(Arc::new(Shared {
            permits: Permits::new(limit, kept(&config), *STRIPES),
            spared: spared.map(AtomicI64::new),
            refused: Striped::new(|| std::array::from_fn(|_| AtomicU64::new(0))),
        })))
    }

    /// Changes the bounds. Calls in flight stay: a lower limit holds once
    /// enough of them have ended.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; the bounds are then what they were.
    pub fn reconfigure(&self, config: ShedConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let limit = config.max_in_flight.get();
        self.0.permits.resize(limit, kept(&config), || {
            for (known, spared) in self.0.spared.iter().zip(spared(&config)) {
                known.store(spared, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    /// What it has done and may do. The number of calls in flight is exact
    /// while none comes or ends.
    #[must_use]
    pub fn snapshot(&self) -> ShedSnapshot {
        let class = |criticality: Criticality| {
            let refused = |stripe: &[AtomicU64; 4]| {
                let refused = &stripe[criticality as usize];
                refused.load(Ordering::Relaxed)
            };
            ClassSnapshot {
                criticality,
                limit: self.limit_of(criticality),
                refused: self.0.refused.iter().map(refused).sum(),
            }
        };
        ShedSnapshot {
            in_flight: self.0.permits.taken(),
            classes: Criticality::ALL.map(class),
        }
    }

    #[inline]
    pub(super) fn enter(&self, class: Criticality) -> bool {
        let spared = self.0.spared[class as usize].load(Ordering::Relaxed);
        self.0.permits.take(thread_number(), spared)
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.0.permits.give_back(thread_number());
    }

    #[cold]
    pub(super) fn refuse(&self, class: Criticality) -> Refusal {
        self.0.refused.mine()[class as usize].fetch_add(1, Ordering::Relaxed);
        Refusal::Shed {
            criticality: class,
            limit: self.limit_of(class),
        }
    }

    fn limit_of(&self, class: Criticality) -> usize {
        let spared = self.0.spared[class as usize].load(Ordering::Relaxed);
        let spared = usize::try_from(spared).unwrap_or(0);
        self.0.permits.limit().saturating_sub(spared)
    }
}

/// The room that each class leaves to those above it.
fn spared(config: &ShedConfig) -> [i64; 4] {
    let spared = |class| config.max_in_flight.get() - config.limit_of(class);
    Criticality::ALL.map(|class| i64::try_from(spared(class)).unwrap_or(i64::MAX))
}

/// The room that is not open to all classes, and must therefore be counted out
/// one by one.
fn kept(config: &ShedConfig) -> usize {
    config.max_in_flight.get() - config.limit_of(Criticality::Sheddable)
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::num::NonZeroUsize;

    use loom::{model, thread};

    use super::*;

    /// Two operators, or one whose file is read again while a request comes.
    #[test]
    fn of_two_changes_at_once_one_holds_and_no_mixture() {
        model(|| {
            let config = |limit| ShedConfig {
                max_in_flight: NonZeroUsize::new(limit).unwrap(),
                ..ShedConfig::default()
            };
            let shed = Shed::new(config(10)).unwrap();
            let other = {
                let shed = shed.clone();
                thread::spawn(move || shed.reconfigure(config(1000)).unwrap())
            };
            shed.reconfigure(config(10)).unwrap();
            other.join().unwrap();

            let limits = shed.snapshot().classes.map(|class| class.limit);
            assert!([[7, 8, 9, 10], [700, 800, 950, 1000]].contains(&limits));
        });
    }
}
