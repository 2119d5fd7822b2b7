//! Durations as Go writes them: `10m`, `1h30m`, `250ms`.

use std::time::Duration;

/// Longest duration a manifest may state: thirty days.
pub const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Nothing at all.
    #[error("a duration needs a number and a unit")]
    Empty,
    /// A sign.
    #[error("a duration has no sign")]
    Signed,
    /// A number without a unit, or a unit that is not known.
    #[error("every number needs one of the units ns, us, ms, s, m, h")]
    Unit,
    /// Digits that make no number.
    #[error("not a number with a unit")]
    Number,
    /// More than [`DURATION_MAX`].
    #[error("more than thirty days")]
    TooLong,
}

/// Reads a duration such as `10m`, `1h30m`, `1.5s` or `250ms`.
///
/// # Errors
///
/// [`DurationError`] for bare numbers, signs, unknown units and anything
/// over thirty days. Fractions below a nanosecond are cut off.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text.starts_with(['-', '+']) {
        return Err(DurationError::Signed);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(DurationError::Unit)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, scale) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(DurationError::Unit)?;
        nanos = nanos.saturating_add(scaled(number, *scale)?);
        rest = tail;
    }
    if nanos > DURATION_MAX.as_nanos() {
        return Err(DurationError::TooLong);
    }
    let nanos = u64::try_from(nanos).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::from_nanos(nanos))
}

fn scaled(number: &str, scale: u128) -> Result<u128, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.len() > 20 || (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::Number);
    }
    let digits = |text: &str| match text {
        "" => Ok(0),
        text => text.parse::<u128>().map_err(|_| DurationError::Number),
    };
    let tenths = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| DurationError::Number)?);
    Ok(digits(whole)?.saturating_mul(scale) + digits(fraction)? * scale / tenths)
}

/// Writes a duration so that [`parse_duration`] reads the same one again, in
/// the largest units that fit: `1h30m`, `1s500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    for (unit, scale) in UNITS.iter().rev().filter(|(unit, _)| *unit != "µs") {
        let count = nanos / scale;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            nanos %= scale;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, millis) in [
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1m0.5s", 60_500),
            ("0s", 0),
            ("720h", 2_592_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert_eq!(parse_duration("3us"), parse_duration("3µs"));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "10",
            "-5m",
            "+5m",
            "5 m",
            "m",
            "1d",
            "1h 30m",
            "1.2.3s",
            "10M",
            "1e3s",
            "٣s",
            "721h",
            "99999999999999999999h",
            "999999999999999999999999s",
            ".s",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?} should be refused");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..=DURATION_MAX.as_nanos()) {
            let duration = Duration::from_nanos(u64::try_from(nanos).unwrap());
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
