//! How many lines a plugin may write.

use tokio::time::Instant;

use crate::settings::LogSettings;

/// A token bucket: `burst` lines at once, `lines_per_second` in the long run.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    /// When tokens were last added; set by the first line.
    filled: Option<Instant>,
    suppressed: u64,
}

impl TokenBucket {
    pub(crate) fn new(settings: &LogSettings) -> Self {
        let burst = f64::from(settings.burst.max(1));
        Self {
            tokens: burst,
            burst,
            per_second: f64::from(settings.lines_per_second),
            filled: None,
            suppressed: 0,
        }
    }

    /// Takes a token for one line and returns how many lines were refused since
    /// the last admitted one, or `None` when this one is refused too.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.take(now) {
            self.suppressed += 1;
            return None;
        }
        Some(self.take_suppressed())
    }

    /// Takes a token for something that is no line. Returns whether there was one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.filled = Some(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// How many lines were refused since this was last asked or reported.
    pub(crate) fn take_suppressed(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_the_rest_is_counted() {
        let settings = LogSettings {
            lines_per_second: 2,
            burst: 3,
            ..LogSettings::default()
        };
        let mut bucket = TokenBucket::new(&settings);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(bucket.admit(start), Some(0));
        }
        assert_eq!(bucket.admit(start), None);
        assert_eq!(bucket.admit(start + Duration::from_millis(400)), None);
        assert_eq!(bucket.admit(start + Duration::from_millis(600)), Some(2));
        assert_eq!(bucket.admit(start + Duration::from_millis(600)), None);
        assert_eq!(bucket.take_suppressed(), 1);
        assert_eq!(bucket.take_suppressed(), 0);
    }
}
