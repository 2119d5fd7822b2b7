//! The one clock that every policy reads.
//!
//! [`now`] reads the processor's own counter ([`quanta`]), which costs less
//! than half of what the operating system's clock does. Under the feature
//! `test-util`, and in this crate's tests, it reads the tokio runtime's clock
//! instead, so that a test which pauses the runtime pauses every policy with
//! it, the rate limiter included.
//!
//! Decisions never read the clock themselves, they take `now`. A call reads it
//! once on its way in and once on its way out, however many policies it
//! passes. Timers are tokio's in either case.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// The furthest that any deadline lies ahead: a year. Longer delays count as
/// this one, which every timer can still handle.
pub const HORIZON: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A moment, in nanoseconds from one that is fixed for the process.
///
/// Arithmetic saturates: nothing is before the first moment, and nothing after
/// the last, 584 years later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the first.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// How many nanoseconds after the first moment this is.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The same moment on the runtime's clock, as tokio's timers take it.
    #[must_use]
    pub fn into_tokio(self) -> tokio::time::Instant {
        let (here, there) = (now(), tokio::time::Instant::now());
        match self.0.checked_sub(here.0) {
            Some(ahead) => there + Duration::from_nanos(ahead).min(HORIZON),
            None => there
                .checked_sub(here - self)
                // Before the runtime's clock began, which is in the past too.
                .unwrap_or(there),
        }
    }

    /// The moment that the runtime's clock calls `instant`.
    #[must_use]
    pub fn from_tokio(instant: tokio::time::Instant) -> Self {
        let (here, there) = (now(), tokio::time::Instant::now());
        match instant.checked_duration_since(there) {
            Some(ahead) => here + ahead,
            None => Self(here.0.saturating_sub(nanos(there - instant))),
        }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(nanos(delay)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// How long after `earlier` this is; no time if it is before.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Reads the clock.
#[must_use]
#[inline]
pub fn now() -> Instant {
    Instant(source::nanos())
}

/// The instant `delay` after `now`; far delays end at the [`HORIZON`].
#[must_use]
#[inline]
pub fn after(now: Instant, delay: Duration) -> Instant {
    now + delay.min(HORIZON)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(not(any(test, feature = "test-util")))]
mod source {
    use std::sync::OnceLock;

    use quanta::Clock;

    static COUNTER: OnceLock<Counter> = OnceLock::new();

    struct Counter {
        clock: Clock,
        /// Nanoseconds in 2^40 steps of the counter: a multiplication and a
        /// shift by a constant are all that a reading then needs.
        scale: u64,
    }

    const SCALE_BITS: u32 = 40;

    impl Counter {
        /// Finds out how fast the counter runs, which takes milliseconds.
        fn new() -> Self {
            let clock = Clock::new();
            let scale = clock.delta_as_nanos(0, 1 << SCALE_BITS);
            Self { clock, scale }
        }

        #[inline]
        fn nanos(&self) -> u64 {
            let nanos = u128::from(self.clock.raw()) * u128::from(self.scale);
            (nanos >> SCALE_BITS) as u64
        }
    }

    #[inline]
    pub(super) fn nanos() -> u64 {
        match COUNTER.get() {
            Some(counter) => counter.nanos(),
            None => first_nanos(),
        }
    }

    #[cold]
    fn first_nanos() -> u64 {
        COUNTER.get_or_init(Counter::new).nanos()
    }
}

#[cfg(any(test, feature = "test-util"))]
mod source {
    use std::{sync::OnceLock, time::Duration};

    use tokio::time::Instant;

    /// How long before the first reading the first moment is. Every test may
    /// have a paused clock of its own, and some of them stood still earlier.
    const LEAD: Duration = Duration::from_secs(24 * 60 * 60);

    pub(super) fn nanos() -> u64 {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        let first = *FIRST.get_or_init(|| now);
        let ahead = (now + LEAD).saturating_duration_since(first);
        super::nanos(ahead)
    }
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
    fn nothing_is_before_the_first_moment_or_after_the_last() {
        let (first, last) = (Instant::from_nanos(0), Instant::from_nanos(u64::MAX));

        assert_eq!(first - last, Duration::ZERO);
        assert_eq!(last + Duration::from_nanos(1), last);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_survives_the_way_to_the_runtimes_clock_and_back() {
        let delay = Duration::from_millis(7);
        let (later, earlier) = (after(now(), delay), now());
        tokio::time::advance(delay / 2).await;

        assert_eq!(Instant::from_tokio(later.into_tokio()), later);
        assert_eq!(Instant::from_tokio(earlier.into_tokio()), earlier);
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_can_sleep_until_the_horizon() {
        let start = now();

        tokio::time::sleep_until(after(start, Duration::MAX).into_tokio()).await;

        assert!(now() - start >= HORIZON);
    }
}
