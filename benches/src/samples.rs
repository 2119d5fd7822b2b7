//! Many samples to few numbers.

use std::time::Duration;

/// The order in which `count` contenders take their turn in `round`: each
/// round another one begins.
pub fn in_turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (round + turn) % count)
}

/// The middle of `samples`, of an even number the mean of the two middle ones.
///
/// # Panics
///
/// Without samples.
pub fn median(samples: &[f64]) -> f64 {
    assert!(!samples.is_empty(), "nothing was measured");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Where the middle and the slow end of many durations lie, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the samples are no longer than this.
    pub p50: f64,
    /// 99 in 100 samples are no longer than this.
    pub p99: f64,
}

impl Spread {
    /// Of `samples`, which it sorts.
    ///
    /// # Panics
    ///
    /// Without samples.
    pub fn of(samples: &mut [Duration]) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        let at = |hundredth: usize| {
            let rank = (samples.len() * hundredth).div_ceil(100);
            samples[rank.max(1) - 1].as_secs_f64() * 1e6
        };
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut samples: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        let spread = Spread::of(&mut samples);
        assert_eq!(
            spread,
            Spread {
                p50: 100.0,
                p99: 198.0
            }
        );
        let one = Spread::of(&mut [Duration::from_micros(5)]);
        assert_eq!(one, Spread { p50: 5.0, p99: 5.0 });
    }

    #[test]
    fn everybody_has_one_turn_and_everybody_begins() {
        assert_eq!(in_turns(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(in_turns(1, 3).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(in_turns(5, 3).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
