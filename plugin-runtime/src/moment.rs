//! When something happened, by two clocks.

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// When something happened. What is decided goes by the clock that only goes on; the
/// machine's own, which somebody may set meanwhile, is for people alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    ms: i64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            ms: now_ms(),
        }
    }

    /// In milliseconds since 1970 (UTC), to be shown.
    pub(crate) fn shown(self) -> i64 {
        self.ms
    }

    /// How long after `earlier` it was; nothing when it was before.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Moment {}

/// The machine's time, in milliseconds since 1970 (UTC), to be shown.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 is not worth an error here.
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_sets_the_machine_s_clock_back_changes_no_order() {
        let earlier = Moment::now();
        advance(Duration::from_secs(30)).await;
        let later = Moment {
            ms: earlier.ms - 3_600_000,
            ..Moment::now()
        };
        assert!(later > earlier);
        assert_eq!(later.since(earlier), Duration::from_secs(30));
        assert_eq!(earlier.since(later), Duration::ZERO);
    }
}
