//! Turns away the least important calls first when there are too many.
//!
//! For: overload, when not every call can be answered. Without it, whichever
//! calls come first take the room, and the one that a person waits for is
//! refused as readily as the one of a nightly job.
//!
//! Not for: calls that are all of one importance, for which a bulkhead does;
//! nor for making room by ending calls that are in already.
//!
//! Calls are of four classes, after the SRE book (Beyer et al. 2016, "Handling
//! Overload"). Each class is let in while fewer calls than its share of the
//! limit are in flight, those of all classes counted together; so the more
//! important classes always find the rest free. Goes outside the rate limit:
//! a call that is turned away should cost nothing, not even a token.

mod handle;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    num::NonZeroUsize,
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize};

pub use self::handle::{ClassSnapshot, Shed, ShedSnapshot};
use crate::{
    admission::{Admission, Call, End},
    config::{ConfigError, Ratio},
    permits::PERMITS_MAX,
    refusal::Refusal,
    retry::Once,
    stack::Policies,
};

/// How important a call is: what may be turned away first when there is too
/// much to do.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// Turned away first: nobody notices if it is tried again much later.
    Sheddable,
    /// Turned away before anything critical; batch work.
    SheddablePlus,
    /// The default: somebody waits for it.
    #[default]
    Critical,
    /// Turned away last.
    CriticalPlus,
}

impl Criticality {
    /// All, the least important first.
    pub const ALL: [Self; 4] = [
        Self::Sheddable,
        Self::SheddablePlus,
        Self::Critical,
        Self::CriticalPlus,
    ];

    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::SheddablePlus => "sheddable_plus",
            Self::Critical => "critical",
            Self::CriticalPlus => "critical_plus",
        }
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many calls may be in flight before those of each class are turned away.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShedConfig {
    /// Calls that may be in flight together: those that have come in and not
    /// ended, whether they wait, run or pause between attempts. All of them
    /// are open to the class `critical_plus`.
    pub max_in_flight: NonZeroUsize,
    /// The share of `max_in_flight` that is open to the class `critical`.
    pub critical: Ratio,
    /// The share that is open to `sheddable_plus`; no more than to `critical`.
    pub sheddable_plus: Ratio,
    /// The share that is open to `sheddable`; no more than to
    /// `sheddable_plus`.
    pub sheddable: Ratio,
}

impl Default for ShedConfig {
    fn default() -> Self {
        let share = |share| Ratio::new(share).unwrap_or(Ratio::ALL);
        Self {
            max_in_flight: NonZeroUsize::MIN.saturating_add(1_023),
            critical: share(0.95),
            sheddable_plus: share(0.8),
            sheddable: share(0.7),
        }
    }
}

impl ShedConfig {
    /// Checks that these bounds can work.
    ///
    /// # Errors
    ///
    /// Names the bound that is out of range, or that gives a class more room
    /// than one that is more important.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_in_flight.get() > PERMITS_MAX {
            let problem = format!("is more than {PERMITS_MAX}");
            let help = "leave load shedding out to allow any number";
            return Err(ConfigError::new("max_in_flight", problem, help));
        }
        let help = "give the less important class the smaller share";
        if self.sheddable > self.sheddable_plus {
            let problem = "is more than `sheddable_plus`";
            return Err(ConfigError::new("sheddable", problem, help));
        }
        if self.sheddable_plus > self.critical {
            let problem = "is more than `critical`";
            return Err(ConfigError::new("sheddable_plus", problem, help));
        }
        Ok(())
    }

    /// How many calls may be in flight, those of `class` included, once one of
    /// them is let in. At least one: else the class could as well be refused
    /// by whoever writes the configuration.
    fn limit_of(&self, class: Criticality) -> usize {
        let share = match class {
            Criticality::Sheddable => self.sheddable,
            Criticality::SheddablePlus => self.sheddable_plus,
            Criticality::Critical => self.critical,
            Criticality::CriticalPlus => Ratio::ALL,
        };
        let part = share.of(self.max_in_flight.get() as u64);
        usize::try_from(part).unwrap_or(usize::MAX).max(1)
    }
}

/// [`Shed`] alone, as a layer.
///
/// A call takes up room when it is first polled, and until its future ends or
/// is dropped, wherever it is.
pub type ShedLayer<C> = Policies<C, Shed>;

impl<C> ShedLayer<C> {
    /// Sends every service that this layer wraps through `shed`.
    pub fn new(shed: Shed, classify: C) -> Self {
        Self::assemble(classify, shed, Once, ())
    }
}

/// Whether a call takes up room.
#[derive(Debug, Default)]
pub struct Hold(bool);

/// Refuses with [`Refusal::Shed`] when there is no room for a call of its
/// class.
impl<Req, Res, Err> Admission<Req, Res, Err> for Shed {
    type Hold = Hold;

    const WAITS: bool = false;

    const TIMES_ENTRY: bool = false;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        let class = call.criticality();
        hold.0 = self.enter(class);
        if hold.0 {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(self.refuse(class)))
        }
    }

    #[inline]
    fn settle(&self, hold: &mut Hold, _: &mut Call, _: &End<'_, Res, Err>) {
        if std::mem::take(&mut hold.0) {
            self.leave();
        }
    }
}
