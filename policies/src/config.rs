//! What the configurations of all policies have in common: the error that
//! says what is wrong with one, and the types that cannot hold a wrong value.

use std::time::Duration;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clock::HORIZON;

/// A setting that cannot work.
///
/// The help line says what the setting takes.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[error("`{key}` {problem}")]
#[diagnostic(code("ORC-1290"), help("{help}"))]
pub struct ConfigError {
    /// The setting, within its policy's section.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub help: &'static str,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, problem: impl Into<String>, help: &'static str) -> Self {
        Self {
            key,
            problem: problem.into(),
            help,
        }
    }
}

/// Refuses a time that is not between `least` and [`HORIZON`].
pub(crate) fn check_time(
    key: &'static str,
    value: Duration,
    least: Duration,
) -> Result<(), ConfigError> {
    let help = "write a time with its unit, such as \"250ms\", \"30s\" or \"5m\"";
    if value < least {
        let problem = format!("is {value:?}, the least that works is {least:?}");
        return Err(ConfigError::new(key, problem, help));
    }
    if value > HORIZON {
        return Err(ConfigError::new(key, "is longer than 365 days", help));
    }
    Ok(())
}

/// A part of a whole: more than 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// All of it.
    pub const ALL: Self = Self(1.0);
    /// Six tenths.
    pub(crate) const SIX_TENTHS: Self = Self(0.6);
    /// One tenth.
    pub(crate) const TENTH: Self = Self(0.1);

    /// `value`, if it is more than 0 and at most 1.
    #[must_use]
    pub const fn new(value: f64) -> Option<Self> {
        // Written so that a value that is not a number is refused too.
        if value > 0.0 && value <= 1.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// This part of `whole`, rounded down.
    #[must_use]
    pub(crate) fn of(self, whole: u64) -> u64 {
        // Counts stay far below 2^52, where the conversion is exact. A tenth
        // has no exact form, so the product of ten may fall just short of one.
        (self.0 * whole as f64 + 1e-9) as u64
    }

    /// Whether `part` is at least this part of `whole`. Nothing is a part of
    /// an empty whole.
    #[must_use]
    pub(crate) fn is_reached(self, part: u64, whole: u64) -> bool {
        // As above: what falls short by rounding alone is reached.
        whole > 0 && part as f64 + 1e-9 >= self.0 * whole as f64
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        Self::new(value)
            .ok_or_else(|| format!("{value} is not a ratio: it must be more than 0 and at most 1"))
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> f64 {
        ratio.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_more_than_nothing_and_at_most_all() {
        for good in [f64::MIN_POSITIVE, 0.6, 1.0] {
            assert_eq!(Ratio::new(good).map(Ratio::get), Some(good));
        }
        for bad in [0.0, -0.1, 1.000_001, f64::NAN, f64::INFINITY] {
            assert!(Ratio::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn six_of_ten_reach_six_tenths_and_five_do_not() {
        let ratio = Ratio::new(0.6).unwrap();

        assert!(ratio.is_reached(6, 10));
        assert!(!ratio.is_reached(5, 10));
        assert!(!ratio.is_reached(0, 0));
    }

    #[test]
    fn times_have_two_edges() {
        let least = Duration::from_millis(10);
        let check = |value| check_time("window", value, least);

        assert!(check(least).is_ok());
        assert!(check(HORIZON).is_ok());
        assert!(check(HORIZON + Duration::from_nanos(1)).is_err());
        let error = check(Duration::from_millis(9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`window` is 9ms, the least that works is 10ms"
        );
        assert_eq!(error.code().unwrap().to_string(), "ORC-1290");
        assert!(error.help().unwrap().to_string().contains("unit"));
    }
}
