//! Numbers as TOML has them, and as text where it has none so large.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(u64),
    Digits(String),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match i64::try_from(*number) {
        Ok(number) => serializer.serialize_i64(number),
        Err(_) => serializer.serialize_str(&number.to_string()),
    }
}

/// One spelling for each number.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = match Text::deserialize(deserializer) {
        Ok(Text::Number(number)) => Some(number),
        Ok(Text::Digits(digits)) => digits
            .parse()
            .ok()
            .filter(|number: &u64| i64::try_from(*number).is_err() && number.to_string() == digits),
        Err(_) => None,
    };
    number.ok_or_else(|| D::Error::custom("not a whole number from 0 on"))
}
