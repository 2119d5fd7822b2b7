//! How long to wait before another attempt.

use std::time::Duration;

use fastrand::Rng;

use super::RetryConfig;
use crate::clock;

/// A service that asks for a longer rest than the backoff would give gets at
/// most this much more, so that a wrong answer cannot stop a caller for long.
const EXTRA_REST_MAX: Duration = Duration::from_secs(5);

/// The wait after `attempt` failed attempts: at random up to
/// `base * 2^(attempt - 1)`, itself capped ("full jitter").
pub(super) fn full(config: &RetryConfig, attempt: u32, rng: &mut Rng) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let ceiling = config
        .base_delay
        .saturating_mul(1 << doublings)
        .min(config.max_delay);
    between(Duration::ZERO, ceiling, rng)
}

/// The wait after one of `last`, which is nothing after the first attempt: at
/// random from `base` to three times the last, capped ("decorrelated jitter").
pub(super) fn decorrelated(config: &RetryConfig, last: Duration, rng: &mut Rng) -> Duration {
    let ceiling = last.max(config.base_delay).saturating_mul(3);
    between(config.base_delay, ceiling, rng).min(config.max_delay)
}

fn between(least: Duration, most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.u64(clock::nanos(least)..=clock::nanos(most)))
}

/// `jittered`, or where the service asked to be left alone for `after`, that,
/// within [`EXTRA_REST_MAX`] of the jittered.
pub(super) fn with_rest(jittered: Duration, after: Option<Duration>) -> Duration {
    match after {
        Some(after) => after.clamp(jittered, jittered.saturating_add(EXTRA_REST_MAX)),
        None => jittered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(attempt: u32, after: Option<Duration>) -> Vec<Duration> {
        let mut rng = Rng::with_seed(7);
        let config = RetryConfig::default();
        (0..2000)
            .map(|_| with_rest(full(&config, attempt, &mut rng), after))
            .collect()
    }

    /// Each ceiling is approached but not passed, and so is zero.
    #[test]
    fn waits_spread_from_nothing_to_a_doubling_ceiling() {
        for (attempt, ceiling) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (6, 3200),
            (7, 5000),
            (u32::MAX, 5000),
        ] {
            let ceiling = Duration::from_millis(ceiling);
            let delays = delays(attempt, None);

            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(
                *most <= ceiling && *most > ceiling.mul_f64(0.99),
                "{attempt}: {most:?}"
            );
            assert!(*least < ceiling.mul_f64(0.01), "{attempt}: {least:?}");
            let mean = delays.iter().sum::<Duration>() / 2000;
            assert!(
                mean > ceiling.mul_f64(0.45) && mean < ceiling.mul_f64(0.55),
                "{attempt}: {mean:?}"
            );
        }
    }

    #[test]
    fn a_rest_that_was_asked_for_is_kept_within_reason() {
        let asked = |seconds| delays(1, Some(Duration::from_secs(seconds)));

        assert!(
            asked(3)
                .iter()
                .all(|delay| *delay == Duration::from_secs(3))
        );
        assert_eq!(asked(0), delays(1, None));
        let cut = delays(1, None)
            .into_iter()
            .map(|delay| delay + EXTRA_REST_MAX);
        assert_eq!(asked(3600), cut.collect::<Vec<_>>());
    }

    /// From the base to three times the wait before, and never above the cap.
    #[test]
    fn decorrelated_waits_stay_between_the_base_and_three_times_the_last() {
        let config = RetryConfig::default();
        let mut rng = Rng::with_seed(7);
        for (last, most) in [(0, 300), (100, 300), (1000, 3000), (5000, 5000)] {
            let last = Duration::from_millis(last);
            let most = Duration::from_millis(most);
            let waits: Vec<_> = (0..2000)
                .map(|_| decorrelated(&config, last, &mut rng))
                .collect();

            let (least_seen, most_seen) =
                (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least_seen >= config.base_delay, "{last:?}: {least_seen:?}");
            assert!(
                *least_seen < config.base_delay + most.mul_f64(0.02),
                "{last:?}: {least_seen:?}"
            );
            assert!(
                *most_seen <= most && *most_seen > most.mul_f64(0.98),
                "{last:?}: {most_seen:?}"
            );
        }
    }
}
