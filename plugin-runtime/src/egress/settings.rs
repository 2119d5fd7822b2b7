//! The limits of one plugin's proxy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::byte_size;

/// The limits of one plugin's proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSettings {
    /// Connections at once, those that are being asked for too. Each holds two
    /// descriptors of the host, and 512 KiB while it moves much both ways.
    pub connections_max: u32,
    /// How much a plugin may send before it is connected.
    #[serde(with = "byte_size")]
    pub request_bytes_max: u64,
    /// How long a plugin may take to say where it wants to.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Names that are looked up at once. Each holds a thread of the runtime's blocking pool.
    pub lookups_max: u32,
    /// How long a look-up and all attempts to connect may take together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// A connection on which nothing moves for this long, and less than twice as long, is
    /// closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Denials that are told at once, and a second in the long run; the rest is counted.
    pub denials_per_second: u32,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            connections_max: 64,
            request_bytes_max: 16 << 10,
            request_timeout: Duration::from_secs(10),
            lookups_max: 8,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            denials_per_second: 10,
        }
    }
}
