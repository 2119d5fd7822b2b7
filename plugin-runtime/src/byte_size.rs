//! Sizes in bytes as people write them: `64MiB`, `16KiB`, `4096`.

use std::{borrow::Cow, fmt};

use serde::{Deserializer, Serializer, de, ser};

/// Units, largest first so that writing picks the largest that divides.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a size such as `64MiB`, `16KiB` or a number of bytes")]
pub struct ByteSizeError;

/// Reads a whole number with an optional unit: B, kB, MB, GB, KiB, MiB, GiB, TiB.
///
/// # Errors
///
/// When the number is missing, negative, has a fraction or does not fit 64 bits,
/// and when the unit is unknown.
pub fn parse(text: &str) -> Result<u64, ByteSizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| ByteSizeError)?;
    let unit = match unit.trim_start() {
        "" => 1,
        unit => UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
            .ok_or(ByteSizeError)?,
    };
    number.checked_mul(unit).ok_or(ByteSizeError)
}

/// Writes a size with the largest binary unit that divides it.
pub fn format(bytes: u64) -> String {
    UNITS
        .iter()
        .filter(|(name, _)| name.ends_with("iB"))
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// For `#[serde(with = "byte_size")]`: writes the text form.
///
/// # Errors
///
/// Those of the serializer.
pub fn serialize<N, S>(bytes: &N, serializer: S) -> Result<S::Ok, S::Error>
where
    N: Copy + TryInto<u64>,
    S: Serializer,
{
    let too_large = |_| ser::Error::custom("the size does not fit 64 bits");
    serializer.serialize_str(&format((*bytes).try_into().map_err(too_large)?))
}

/// For `#[serde(with = "byte_size")]`: reads a number of bytes or the text form.
///
/// # Errors
///
/// When the value is neither, or does not fit the field's type.
pub fn deserialize<'de, N, D>(deserializer: D) -> Result<N, D::Error>
where
    N: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let bytes = deserializer.deserialize_any(SizeVisitor)?;
    let too_large = |_| de::Error::custom(format_args!("{bytes} bytes do not fit here"));
    N::try_from(bytes).map_err(too_large)
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a size such as \"64MiB\" or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
        u64::try_from(bytes).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let shown: Cow<'_, str> = text.chars().take(40).collect();
        parse(text).map_err(|error| E::custom(format_args!("`{shown}` is {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("16KiB", 16 << 10),
            ("64 MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("3kB", 3_000),
            ("7B", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
            assert_eq!(parse(&format(bytes)), Ok(bytes), "{text}");
        }
        assert_eq!(format(64 << 20), "64MiB");
        for text in ["", "MiB", "-1", "1.5MiB", "1XB", "1mib", "99999999999TiB"] {
            assert_eq!(parse(text), Err(ByteSizeError), "{text}");
        }
    }
}
