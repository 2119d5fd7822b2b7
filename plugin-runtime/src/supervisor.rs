//! When a process that ended by itself is started again.

use std::{collections::VecDeque, time::Duration};

use crate::settings::RestartSettings;

/// What to do after a process ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start it again after this delay.
    Restart(Duration),
    /// It ends too often; a person has to look.
    CrashLoop,
}

/// Counts the ends of one plugin's processes.
///
/// The crash loop's window is running time: waits between starts do not count,
/// because growing waits would hide every loop. A process that ran as long as the
/// window wipes the record, so its end is the first one again.
#[derive(Debug)]
pub(crate) struct Restarts {
    settings: RestartSettings,
    /// How long the last processes ran, oldest first.
    runs: VecDeque<Duration>,
    /// Ends in a row, for the delay.
    ends: u32,
}

impl Restarts {
    pub(crate) fn new(settings: RestartSettings) -> Self {
        Self {
            settings,
            runs: VecDeque::new(),
            ends: 0,
        }
    }

    /// A process ended after running for `ran`. `jitter` is uniform in `0.0..1.0`.
    pub(crate) fn ended(&mut self, ran: Duration, jitter: f64) -> Verdict {
        let window = self.settings.crash_loop_window;
        if ran >= window {
            self.reset();
        }
        self.runs.push_back(ran);
        self.ends = self.ends.saturating_add(1);
        // The oldest end lies the running time of all later processes back.
        while self.runs.iter().skip(1).sum::<Duration>() >= window && self.runs.len() > 1 {
            self.runs.pop_front();
        }
        if self.runs.len() > self.settings.crash_loop_restarts as usize {
            return Verdict::CrashLoop;
        }
        Verdict::Restart(self.delay(jitter))
    }

    /// Forgets every end, after an operator's reset.
    pub(crate) fn reset(&mut self) {
        self.runs.clear();
        self.ends = 0;
    }

    /// Between half and all of the doubled delay, so that plugins which ended
    /// together do not start together.
    fn delay(&self, jitter: f64) -> Duration {
        let doublings = self.ends.saturating_sub(1).min(20);
        let full = self.settings.first.saturating_mul(1 << doublings);
        full.min(self.settings.max).mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: f64 = 1.0;

    fn restarts() -> Restarts {
        Restarts::new(RestartSettings::default())
    }

    fn seconds(verdict: Verdict) -> f64 {
        match verdict {
            Verdict::Restart(delay) => delay.as_secs_f64(),
            Verdict::CrashLoop => f64::INFINITY,
        }
    }

    #[test]
    fn delays_double_and_a_process_that_ends_at_once_is_a_crash_loop() {
        let mut restarts = restarts();
        let mut delays = Vec::new();
        for _ in 0..6 {
            delays.push(seconds(restarts.ended(Duration::ZERO, FULL)));
        }
        assert_eq!(delays, [1.0, 2.0, 4.0, 8.0, 16.0, f64::INFINITY]);
    }

    #[test]
    fn a_long_run_wipes_the_record() {
        let mut restarts = restarts();
        for _ in 0..5 {
            restarts.ended(Duration::ZERO, FULL);
        }
        assert_eq!(seconds(restarts.ended(Duration::from_secs(10), FULL)), 1.0);
        assert_eq!(seconds(restarts.ended(Duration::ZERO, FULL)), 2.0);
    }

    #[test]
    fn runs_of_some_seconds_are_no_crash_loop_but_wait_at_most_the_maximum() {
        let mut restarts = restarts();
        let mut last = 0.0;
        for _ in 0..20 {
            last = seconds(restarts.ended(Duration::from_secs(3), FULL));
        }
        assert_eq!(last, 30.0);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        assert_eq!(seconds(restarts().ended(Duration::ZERO, 0.0)), 0.5);
    }

    #[test]
    fn a_reset_forgets() {
        let mut restarts = restarts();
        for _ in 0..6 {
            restarts.ended(Duration::ZERO, FULL);
        }
        restarts.reset();
        assert_eq!(seconds(restarts.ended(Duration::ZERO, FULL)), 1.0);
    }
}
