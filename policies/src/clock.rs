//! The one clock that every policy reads.
//!
//! All time in this crate is [`Instant`], the runtime's own: a test that
//! pauses the runtime pauses every policy with it, the rate limiter included.
//! Decisions never read it themselves, they take `now`; only the services
//! call [`now`]. Another source of time is put here and nowhere else.

use std::time::Duration;

pub use tokio::time::Instant;

/// The longest time that any policy waits for: one year.
///
/// The runtime's timer wheel ends after about two, and arithmetic on instants
/// panics far beyond that, so longer limits are cut to this one.
pub const HORIZON: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads the clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The instant `delay` after `now`, or [`HORIZON`] after it if that is sooner.
#[must_use]
pub fn after(now: Instant, delay: Duration) -> Instant {
    now + delay.min(HORIZON)
}

/// A zero point that turns instants into numbers that fit an atomic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(Instant);

impl Origin {
    pub(crate) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Nanoseconds since the origin; an instant before it counts as zero.
    pub(crate) fn nanos(self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.0))
    }

    /// The instant that [`Self::nanos`] gives `nanos` for.
    pub(crate) fn instant(self, nanos: u64) -> Instant {
        after(self.0, Duration::from_nanos(nanos))
    }
}

/// `duration` in nanoseconds, at most the 584 years that fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_end_at_the_horizon() {
        let now = now();

        assert_eq!(
            after(now, Duration::from_secs(1)) - now,
            Duration::from_secs(1)
        );
        assert_eq!(after(now, HORIZON) - now, HORIZON);
        assert_eq!(after(now, Duration::MAX) - now, HORIZON);
    }

    #[test]
    fn an_instant_survives_the_way_to_a_number_and_back() {
        let origin = Origin::new(now());
        let later = after(now(), Duration::from_millis(7));

        assert_eq!(origin.instant(origin.nanos(later)), later);
    }

    #[test]
    fn instants_before_the_origin_count_as_zero() {
        let early = now();
        let origin = Origin::new(after(early, Duration::from_secs(1)));

        assert_eq!(origin.nanos(early), 0);
    }

    /// A timer at the horizon must be one that the runtime can hold.
    #[tokio::test(start_paused = true)]
    async fn the_runtime_can_sleep_until_the_horizon() {
        let start = now();

        tokio::time::sleep_until(after(start, Duration::MAX)).await;

        assert!(now() - start >= HORIZON);
    }
}
