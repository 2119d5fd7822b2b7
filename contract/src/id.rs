//! Names and identifiers.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A name that many calls share: cloning it copies a pointer.
macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a name. Whoever parses it from outside checks its form.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

shared_name! {
    /// The id of a plugin, as its manifest states it (`git-history`,
    /// `com.example.greeter`).
    PluginId
}
shared_name! {
    /// The name of a phase within its plugin.
    PhaseName
}
shared_name! {
    /// The id of a step within its pipeline.
    StepId
}

/// A 128-bit identifier that sorts by creation time, written as a
/// [ULID](https://github.com/ulid/spec).
macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// Builds an id from milliseconds since the Unix epoch and
            /// randomness, of which the low 80 bits are used.
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, random))
            }

            /// Milliseconds since the Unix epoch at which the id was made.
            pub fn unix_ms(&self) -> u64 {
                self.0.timestamp_ms()
            }

            /// The id as 16 bytes, big-endian, so that bytes sort as ids do.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }

            /// The reverse of [`Self::to_bytes`].
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Ulid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                f.pad(self.0.array_to_str(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = ulid::DecodeError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ulid::from_string(text).map(Self)
            }
        }
    };
}

ulid_id! {
    /// One execution of a pipeline.
    RunId
}
ulid_id! {
    /// The context that the phases of a run share; may span several runs.
    SessionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_round_trip() {
        let earlier = RunId::from_parts(1_000, u128::MAX >> 48);
        let later = RunId::from_parts(1_001, 0);
        assert!(earlier < later);
        assert!(earlier.to_bytes() < later.to_bytes());
        assert!(earlier.to_string() < later.to_string());
        assert_eq!(later.to_string().parse::<RunId>(), Ok(later));
        assert_eq!(RunId::from_bytes(later.to_bytes()), later);
        assert_eq!(later.unix_ms(), 1_001);
    }

    #[test]
    fn a_malformed_id_is_refused() {
        assert!("not-an-id".parse::<RunId>().is_err());
        assert!("".parse::<RunId>().is_err());
    }
}
