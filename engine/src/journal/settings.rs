//! What an operator may set about the journal.

use std::{fmt, time::Duration};

use orchestrator_plugin_runtime::byte_size;
use serde::{Deserialize, Serialize};

/// What an operator may set about the journal. The defaults are in the
/// configuration's `default.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalSettings {
    /// The most records that one transaction makes durable.
    pub group_records_max: usize,
    /// The most bytes that one transaction makes durable, and so the most
    /// that one append may hold, blobs not counted.
    #[serde(with = "byte_size")]
    pub group_bytes_max: usize,
    /// The most requests that wait for the writer; more wait for room.
    pub queue_max: usize,
    /// Payloads over this many bytes become files.
    #[serde(with = "byte_size")]
    pub inline_bytes_max: usize,
    /// Payloads over this many bytes are refused.
    #[serde(with = "byte_size")]
    pub payload_bytes_max: usize,
    /// The database file does not grow over this many bytes.
    #[serde(with = "byte_size")]
    pub database_bytes_max: u64,
    /// The most queries at a time.
    pub readers_max: usize,
    /// How long another process may keep the file from being written.
    #[serde(with = "humantime_serde")]
    pub busy_timeout: Duration,
    /// How long ended runs are kept.
    pub retention: Retention,
    /// How often requests from other processes are looked for.
    #[serde(with = "humantime_serde")]
    pub cancel_poll: Duration,
}

/// How long ended runs are kept: a duration (`30d`), or `off` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Ended runs stay.
    Off,
    /// Ended runs are deleted this long after their end.
    Keep(Duration),
}

impl Serialize for Retention {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Keep(duration) => humantime_serde::serialize(duration, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Retention;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"30d\", or \"off\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == "off" {
                    return Ok(Retention::Off);
                }
                let text = serde::de::value::StrDeserializer::<E>::new(text);
                humantime_serde::deserialize(text).map(Retention::Keep)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
impl JournalSettings {
    /// Small limits, so that tests reach them.
    pub(crate) fn for_tests() -> Self {
        Self {
            group_records_max: 4_096,
            group_bytes_max: 4 << 20,
            queue_max: 8_192,
            inline_bytes_max: 131_072,
            payload_bytes_max: 8 << 20,
            database_bytes_max: 1 << 30,
            readers_max: 2,
            busy_timeout: Duration::from_secs(5),
            retention: Retention::Keep(Duration::from_secs(30 * 24 * 60 * 60)),
            cancel_poll: Duration::from_millis(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_a_duration_or_off() {
        let read = |text: &str| serde_json::from_str::<Retention>(text);
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(read("\"off\"").unwrap(), Retention::Off);
        assert_eq!(read("\"30d\"").unwrap(), Retention::Keep(30 * day));
        assert!(read("\"never\"").is_err());
        assert!(read("30").is_err());
        let written = serde_json::to_string(&Retention::Keep(day)).unwrap();
        assert_eq!(read(&written).unwrap(), Retention::Keep(day));
        assert_eq!(serde_json::to_string(&Retention::Off).unwrap(), "\"off\"");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let mut json = serde_json::to_value(JournalSettings::for_tests()).unwrap();
        assert!(serde_json::from_value::<JournalSettings>(json.clone()).is_ok());
        json["fsync"] = false.into();
        assert!(serde_json::from_value::<JournalSettings>(json).is_err());
    }
}
