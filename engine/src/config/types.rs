//! The sections of the configuration that belong to no other crate.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use orchestrator_plugin_runtime::byte_size;
use orchestrator_policies::HealthConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::Retention;

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
    /// How many of each plugin's last log lines are kept for who asks.
    pub plugin_log_lines: NonZeroUsize,
    /// What these lines may take, in bytes.
    #[serde(with = "byte_size")]
    pub plugin_log_bytes: u64,
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
    /// What the results of a run's steps may take altogether, in bytes.
    #[serde(with = "byte_size")]
    pub outputs_bytes_max: u64,
}

/// Where plugins are looked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Directories before the documented ones; absolute.
    pub extra: Vec<PathBuf>,
}

/// How packages are installed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InstallConfig {
    /// The largest package in an archive, in bytes.
    #[serde(with = "byte_size")]
    pub package_bytes_max: u64,
}

/// The audit log.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Whether anything is recorded.
    pub enabled: bool,
    /// Where the log lies; a relative path is meant from the home.
    pub dir: PathBuf,
    /// The most records between two checkpoints.
    pub checkpoint_records: NonZeroU64,
    /// The longest time from a record to a checkpoint.
    #[serde(with = "humantime_serde")]
    pub checkpoint_interval: Duration,
    /// A second place for checkpoints.
    pub checkpoint_copy: CheckpointCopy,
    /// Records of one kind that a plugin may cause a second, in the long run.
    pub records_per_second: NonZeroU32,
    /// Records of one kind that a plugin may cause at once.
    pub burst: NonZeroU32,
    /// How long refusals of a plugin that are the same are counted before that is recorded.
    #[serde(with = "humantime_serde")]
    pub repeat_interval: Duration,
    /// How many different refusals of a plugin are told apart meanwhile.
    pub repeat_sorts: NonZeroUsize,
    /// A larger segment is followed by a new one, in bytes.
    #[serde(with = "byte_size")]
    pub segment_bytes: u64,
    /// How long segments are kept after their last record.
    pub keep: Retention,
    /// Records that may wait to be written.
    pub queue_max: NonZeroUsize,
    /// How long another process may hold the log.
    #[serde(with = "humantime_serde")]
    pub busy_timeout: Duration,
}

/// A second place for checkpoints: `off`, `stderr`, or a file's absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum CheckpointCopy {
    /// None: then nobody sees that the log was cut.
    Off,
    /// Standard error, from where a service manager takes them.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

impl TryFrom<String> for CheckpointCopy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "off" => Ok(Self::Off),
            "stderr" => Ok(Self::Stderr),
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            other => Err(format!(
                "`{other}` is neither \"off\" nor \"stderr\" nor an absolute path"
            )),
        }
    }
}

impl From<CheckpointCopy> for String {
    fn from(copy: CheckpointCopy) -> Self {
        match copy {
            CheckpointCopy::Off => "off".to_owned(),
            CheckpointCopy::Stderr => "stderr".to_owned(),
            CheckpointCopy::File(path) => path.display().to_string(),
        }
    }
}

/// How plugins that run are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// What is done about a plugin that is not well, besides telling.
    pub action: HealthAction,
    /// How often plugins are asked, and how often they must answer alike.
    pub check: HealthConfig,
}

/// What is done about a plugin that is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// Nothing but telling.
    Tell,
    /// It is started again.
    Restart,
    /// Its breaker refuses calls until it is well again.
    Breaker,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_asked_as_the_policies_would_but_for_the_limit() {
        let health = crate::config::Config::defaults().unwrap().health;
        assert_eq!(health.action, HealthAction::Tell);
        let timeout = Duration::from_secs(5);
        let own = HealthConfig::default();
        assert_eq!(health.check, HealthConfig { timeout, ..own });
    }

    #[test]
    fn checkpoints_go_nowhere_that_depends_on_where_one_stands() {
        let read = |text: &str| serde_json::from_value::<CheckpointCopy>(text.into());
        assert_eq!(read("off").unwrap(), CheckpointCopy::Off);
        assert_eq!(read("stderr").unwrap(), CheckpointCopy::Stderr);
        let file = CheckpointCopy::File("/mnt/copy".into());
        assert_eq!(read("/mnt/copy").unwrap(), file);
        assert_eq!(serde_json::to_value(file).unwrap(), "/mnt/copy");
        assert!(read("copy").unwrap_err().to_string().contains("absolute"));
    }
}
