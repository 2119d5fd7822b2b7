//! Gives a failing service a rest.
//!
//! For: a service that is down. Its callers get their answer at once and the
//! service gets time to recover, then a few probes, then its traffic back.
//!
//! Not for: errors that are the caller's own; tell the breaker to
//! [ignore](crate::Outcome::Ignore) those. And a service with many
//! independent parts needs a breaker for each: one bad part should not shut
//! off the others.
//!
//! ```text
//!             too many failures            rest is over
//!   Closed ───────────────────────▶ Open ────────────────▶ HalfOpen
//!     ▲                              ▲    a probe failed      │
//!     │                              └────────────────────────┤
//!     └───────────────────────────────────────────────────────┘
//!                       enough probes succeeded
//! ```
//!
//! It trips when too large a part of the calls of the last [`window`] failed,
//! too many failed in a row, or, if asked for, too many were slow. Each rest
//! is twice as long as the one before, up to a limit, until the breaker has
//! stayed closed for a while. Goes inside retry and outside the attempt
//! deadline: one sample for each attempt, and a timeout is a failure.
//!
//! After closing, traffic comes back little by little over [`ramp`]. The rules
//! for tripping apply meanwhile, on counts that began anew, and the rest that
//! follows is a longer one.
//!
//! In [another mode](BreakerMode) it only tells what it would do, or does
//! nothing; and it can be [forced](Breaker::force_open) open or closed. All
//! settings can be [changed](Breaker::reconfigure) while it works.
//!
//! Where to read: `gate.rs` is what most calls see, `machine.rs` decides,
//! `policy.rs` holds the rules for tripping, `service.rs` the tower layer.
//!
//! [`window`]: BreakerConfig::window
//! [`ramp`]: BreakerConfig::ramp

mod gate;
mod handle;
#[cfg(all(test, loom))]
mod loom_tests;
mod machine;
mod news;
mod permit;
mod policy;
mod service;

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    handle::{Breaker, BreakerSnapshot},
    permit::Permit,
    service::{BreakerLayer, Hold},
};
use crate::{
    config::{ConfigError, Ratio, check_time},
    window::SHORTEST,
};

/// When a service gets a rest, for how long, and how it comes back.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Whether it does what it says.
    pub mode: BreakerMode,
    /// How much of the recent past the ratios are taken over.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// With fewer calls than this in the window no ratio says anything.
    pub min_requests: NonZeroU32,
    /// The part of the calls in the window whose failure trips it.
    pub failure_ratio: Ratio,
    /// How many failures in a row trip it.
    pub consecutive_failures: NonZeroU32,
    /// A success that took at least this long counts as slow. Needs
    /// `slow_ratio`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub slow_after: Option<Duration>,
    /// The part of the calls in the window whose slowness trips it. Unless
    /// set, slow calls are as good as others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_ratio: Option<Ratio>,
    /// When a call is cut off by its caller's deadline, that is a failure of
    /// the service only if it had more time than this. Keeps impatient
    /// callers from shutting a service off for the others. Nor is it one if
    /// the call had waited for its slot for longer than the service had it.
    #[serde(with = "humantime_serde")]
    pub short_deadline: Duration,
    /// The first rest. The actual one is random, between half of this and
    /// all of it; likewise for those that follow.
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// Where the doubling of rests ends.
    #[serde(with = "humantime_serde")]
    pub max_open: Duration,
    /// Once it has stayed closed for this long, the next rest is a first one.
    #[serde(with = "humantime_serde")]
    pub backoff_reset: Duration,
    /// Probes that may be in flight together.
    pub max_probes: NonZeroU32,
    /// Probes that must succeed, with none failing, to close it.
    pub success_threshold: NonZeroU32,
    /// How long a probe may take that has no deadline; one that has may take
    /// until then. One that takes longer has failed; but if it succeeds after
    /// all, the next ones get twice the time that it took.
    #[serde(with = "humantime_serde")]
    pub probe_lease: Duration,
    /// How long after closing until all traffic is let in again; it starts
    /// with a tenth. Traffic below [`Critical`](crate::Criticality::Critical)
    /// follows later: nothing of it comes in for the first quarter, and of the
    /// lowest class for the first half, so that what it finds is room that the
    /// others leave. No time: all traffic at once.
    #[serde(with = "humantime_serde")]
    pub ramp: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        let count = |n: u32| NonZeroU32::MIN.saturating_add(n - 1);
        Self {
            mode: BreakerMode::Enforce,
            window: Duration::from_secs(30),
            min_requests: count(10),
            failure_ratio: Ratio::SIX_TENTHS,
            consecutive_failures: count(5),
            slow_after: None,
            slow_ratio: None,
            short_deadline: Duration::ZERO,
            open: Duration::from_secs(5),
            max_open: Duration::from_secs(60),
            backoff_reset: Duration::from_secs(60),
            max_probes: count(1),
            success_threshold: count(3),
            probe_lease: Duration::from_secs(11),
            ramp: Duration::from_secs(20),
        }
    }
}

impl BreakerConfig {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range, or that has no effect because
    /// another is missing.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let tick = Duration::from_millis(1);
        check_time("window", self.window, SHORTEST)?;
        check_time("open", self.open, tick)?;
        check_time("max_open", self.max_open, self.open)?;
        check_time("backoff_reset", self.backoff_reset, Duration::ZERO)?;
        check_time("probe_lease", self.probe_lease, tick)?;
        check_time("ramp", self.ramp, Duration::ZERO)?;
        check_time("short_deadline", self.short_deadline, Duration::ZERO)?;
        if self.max_probes.get() > gate::PROBES_MAX {
            let problem = format!("is more than {}", gate::PROBES_MAX);
            return Err(ConfigError::new(
                "max_probes",
                problem,
                "a few probes tell enough",
            ));
        }
        match (self.slow_after, self.slow_ratio) {
            (Some(_), None) => Err(ConfigError::new(
                "slow_after",
                "has no effect without `slow_ratio`",
                "set `slow_ratio` to the part of slow calls that should trip the breaker, such as 0.8",
            )),
            (Some(after), Some(_)) => check_time("slow_after", after, tick),
            (None, _) => Ok(()),
        }
    }
}

/// Whether a breaker does what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerMode {
    /// It refuses calls.
    #[default]
    Enforce,
    /// It counts, changes its state and tells whom it would refuse, but lets
    /// everybody through. To see what settings do before they do it.
    ObserveOnly,
    /// It lets everybody through and counts nothing.
    Disabled,
}

impl BreakerMode {
    /// The name to use in labels, logs and configurations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::ObserveOnly => "observe_only",
            Self::Disabled => "disabled",
        }
    }
}

/// Whether a breaker lets calls through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls flow.
    Closed,
    /// Calls are refused.
    Open,
    /// A few calls are let in to see whether the service has recovered.
    HalfOpen,
    /// Calls are refused until somebody resets it, and until every service is
    /// well whose [health](crate::HealthMonitor::watch_breaker) decides over it.
    ForcedOpen,
    /// Calls flow and are counted, however they end, until somebody resets it.
    ForcedClosed,
    /// Calls flow and are not counted; see [`BreakerMode::Disabled`].
    Disabled,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
        Self::Disabled,
    ];

    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Disabled => "disabled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_work() {
        assert_eq!(BreakerConfig::default().validate(), Ok(()));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let key = |change: fn(&mut BreakerConfig)| {
            let mut config = BreakerConfig::default();
            change(&mut config);
            config.validate().unwrap_err().key
        };

        assert_eq!(
            key(|config| config.window = Duration::from_millis(99)),
            "window"
        );
        assert_eq!(key(|config| config.open = Duration::ZERO), "open");
        assert_eq!(
            key(|config| config.max_open = Duration::from_secs(4)),
            "max_open"
        );
        assert_eq!(
            key(|config| config.probe_lease = Duration::ZERO),
            "probe_lease"
        );
        assert_eq!(key(|config| config.ramp = Duration::MAX), "ramp");
        assert_eq!(
            key(|config| config.max_probes = NonZeroU32::MAX),
            "max_probes"
        );
        assert_eq!(
            key(|config| config.slow_after = Some(Duration::from_secs(1))),
            "slow_after"
        );
    }
}
