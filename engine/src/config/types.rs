//! The sections of the configuration that belong to no other crate.

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration,
};

use orchestrator_plugin_runtime::byte_size;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// A level, or levels per module: `info,orchestrator_engine=debug`.
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The HTTP service.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it may listen elsewhere than on loopback.
    pub allow_remote: bool,
    /// The largest request body, in bytes.
    #[serde(with = "byte_size")]
    pub body_bytes_max: u64,
    /// Connections served at once.
    pub connections_max: NonZeroUsize,
    /// How long a client may take to send a request's headers.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a request may take, its body included, until its answer begins.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    #[serde(with = "humantime_serde")]
    pub write_idle_timeout: Duration,
    /// How long a client may lag behind with what is sent to it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How often silence on an event stream is filled.
    #[serde(with = "humantime_serde")]
    pub event_heartbeat: Duration,
    /// How long runs may finish when the service is stopped.
    #[serde(with = "humantime_serde")]
    pub drain_grace: Duration,
}

/// Runs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Steps of one run in flight together.
    pub concurrency: NonZeroUsize,
    /// Runs in flight together.
    pub in_flight_max: NonZeroUsize,
    /// The largest value an expression may produce, in bytes.
    #[serde(with = "byte_size")]
    pub payload_bytes_max: u64,
}

/// Where plugins are looked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Directories before the documented ones; absolute.
    pub extra: Vec<PathBuf>,
}

/// What is particular to one plugin.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// Keeps the plugin from taking calls.
    #[serde(default)]
    pub disabled: bool,
    /// The plugin's own configuration; its manifest's schema applies.
    #[serde(default)]
    pub config: Value,
    /// Overrides of the policies, for all its phases.
    #[serde(default)]
    pub policy: Value,
    /// Overrides for single phases, by name.
    #[serde(default)]
    pub phases: BTreeMap<String, Value>,
}
