//! Every limit and delay of the runtime.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use orchestrator_manifest::Channel;
use orchestrator_signing::TrustLevel;
use serde::{Deserialize, Serialize};

use crate::{Lessons, Validator, byte_size, egress::EgressSettings, limits::Policy};

/// Every limit and delay of the runtime. The values of `Default` are those that
/// the engine documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSettings {
    /// When a process that ended by itself is started again.
    pub restart: RestartSettings,
    /// Plugins of kind `node`.
    pub node: NodeSettings,
    /// Plugins of kind `exec`.
    pub exec: ExecSettings,
    /// What plugins write.
    pub log: LogSettings,
    /// How much of a process's last output is attached to a crash.
    #[serde(with = "byte_size")]
    pub crash_output_bytes: u64,
    /// How resource use is watched.
    pub monitor: MonitorSettings,
    /// When processes of kind `node` are started.
    pub start: StartMode,
    /// How long one plugin's start may take.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    /// How long one plugin's stop may take.
    #[serde(with = "humantime_serde")]
    pub stop_timeout: Duration,
    /// Absolute directories below which unsigned plugins run, with trust level 3,
    /// while they are being written.
    pub unsigned_paths: Vec<PathBuf>,
    /// How native plugins are confined.
    pub sandbox: SandboxSettings,
    /// The way out of plugins that were granted part of the network.
    pub egress: EgressSettings,
    /// How a plugin goes on with what is installed now.
    pub reload: ReloadSettings,
    /// Whose releases are meant when nobody says so, by plugin id; else stable ones.
    pub channels: BTreeMap<String, Channel>,
}

/// How a plugin goes on with what is installed now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadSettings {
    /// How long new calls wait at most while the old ones end and the state moves.
    /// When it is over the old version goes on.
    #[serde(with = "humantime_serde")]
    pub hold_max: Duration,
    /// How much of that runs that began with the old version may take to end. Those
    /// that take longer go on with it, and what they change in its state is lost.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// The largest state of a plugin.
    #[serde(with = "byte_size")]
    pub state_bytes_max: u64,
}

/// How native plugins are confined, as far as their trust level leaves it open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// Plugins of trust level 3.
    pub level3: Level3,
    /// The most memory of a confined plugin in bytes, whatever its manifest asks for. Here
    /// and below, what a manifest does not bound is bounded by this, and 0 bounds nothing.
    #[serde(with = "byte_size")]
    pub memory_max: u64,
    /// The most processor time of a confined plugin, in hundredths of one core.
    pub cpu_percent_max: u32,
    /// The most threads and processes of a confined plugin.
    pub tasks_max: u32,
    /// The most open descriptors of a confined plugin; never more than half of the host's.
    pub open_files_max: u32,
    /// Of whom to learn what would have to be granted, instead of holding it to what was.
    /// Not for a file: a caller says so for one package that it knows.
    #[serde(skip)]
    pub learn: Option<Lessons>,
    /// Whom to ask beside the grants. Not for a file: the embedding program has it.
    #[serde(skip)]
    pub validator: Option<Validator>,
}

/// Whether plugins of trust level 3 are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level3 {
    /// They have the rights of the host's user.
    #[default]
    Unconfined,
    /// They are held to their grants as far as the host can, and start in any case.
    Confined,
}

/// When processes of kind `node` are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMode {
    /// By their first call.
    #[default]
    Lazy,
    /// With the runtime: dependencies first, independent ones in parallel.
    Eager,
}

/// When a process that ended by itself is started again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartSettings {
    /// The delay before the first restart; each further one doubles it.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// The longest delay.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// More ends than this within `crash_loop_window` are a crash loop.
    pub crash_loop_restarts: u32,
    /// Running time, waits left out, in which ends are counted. A process that
    /// runs longer starts with a clean record.
    #[serde(with = "humantime_serde")]
    pub crash_loop_window: Duration,
}

/// Plugins of kind `node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// How long a new process may take to say who it is.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a process may finish its calls when it is stopped.
    #[serde(with = "humantime_serde")]
    pub drain_grace: Duration,
    /// How long a cancelled call may take to end before its process is killed.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// The largest input and the largest output of a call.
    #[serde(with = "byte_size")]
    pub payload_bytes_max: u64,
    /// The most calls one process may work on, whatever credit it gives.
    pub slots_max: u16,
    /// The most calls that may wait for one process to give credit.
    pub waiting_max: u32,
}

/// Plugins of kind `exec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecSettings {
    /// The largest output of a call.
    #[serde(with = "byte_size")]
    pub output_bytes_max: u64,
    /// How long a cancelled process may take to end after `SIGTERM`.
    #[serde(with = "humantime_serde")]
    pub kill_grace: Duration,
    /// The most processes of one plugin at once; further calls wait.
    pub concurrency_max: u16,
    /// The most calls that may wait for one plugin.
    pub waiting_max: u32,
}

/// What plugins write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The longest line; the rest of a longer one is counted and dropped.
    #[serde(with = "byte_size")]
    pub line_bytes_max: u64,
    /// Lines and reports of progress per second and plugin in the long run;
    /// further ones are counted and dropped.
    pub lines_per_second: u32,
    /// Lines and reports that may come at once.
    pub burst: u32,
}

/// How resource use is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorSettings {
    /// The time between two samples.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How many seconds in a row a plugin may use more processor than its limit
    /// before it is killed.
    pub cpu_seconds_over: u32,
    /// How many violations of limits are kept for whoever asks for them; older ones are
    /// counted and dropped.
    pub violations_kept: u32,
    /// What is done about a plugin that uses more than it may.
    pub policy: PolicySettings,
}

/// What is done about a plugin that uses more than it may, by its trust level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySettings {
    /// Trust level 1.
    pub level1: Policy,
    /// Trust level 2.
    pub level2: Policy,
    /// Trust level 3.
    pub level3: Policy,
}

impl PolicySettings {
    /// That of a level, and the key of the configuration that it is from.
    pub(crate) fn of(&self, level: TrustLevel) -> (Policy, &'static str) {
        match level {
            TrustLevel::Untrusted => (self.level1, "runtime.monitor.policy.level1"),
            TrustLevel::Partner => (self.level2, "runtime.monitor.policy.level2"),
            TrustLevel::Internal => (self.level3, "runtime.monitor.policy.level3"),
        }
    }
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            restart: RestartSettings::default(),
            node: NodeSettings::default(),
            exec: ExecSettings::default(),
            log: LogSettings::default(),
            crash_output_bytes: 64 << 10,
            monitor: MonitorSettings::default(),
            start: StartMode::Lazy,
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(30),
            unsigned_paths: Vec::new(),
            sandbox: SandboxSettings::default(),
            egress: EgressSettings::default(),
            reload: ReloadSettings::default(),
            channels: BTreeMap::new(),
        }
    }
}

impl Default for ReloadSettings {
    fn default() -> Self {
        Self {
            hold_max: Duration::from_secs(10),
            settle: Duration::from_secs(2),
            state_bytes_max: 1 << 20,
        }
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            level3: Level3::default(),
            memory_max: 1 << 30,
            cpu_percent_max: 0,
            tasks_max: 512,
            open_files_max: 1024,
            learn: None,
            validator: None,
        }
    }
}

impl Default for RestartSettings {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(30),
            crash_loop_restarts: 5,
            crash_loop_window: Duration::from_secs(10),
        }
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(5),
            cancel_grace: Duration::from_secs(5),
            payload_bytes_max: 64 << 20,
            slots_max: 64,
            waiting_max: 1024,
        }
    }
}

impl Default for ExecSettings {
    fn default() -> Self {
        Self {
            output_bytes_max: 16 << 20,
            kill_grace: Duration::from_secs(2),
            concurrency_max: 16,
            waiting_max: 1024,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            line_bytes_max: 16 << 10,
            lines_per_second: 200,
            burst: 1000,
        }
    }
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            cpu_seconds_over: 5,
            violations_kept: 10,
            policy: PolicySettings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_units_and_unknown_keys_are_refused() {
        let json = serde_json::json!({
            "restart": { "first": "10ms" },
            "node": { "payload_bytes_max": "1MiB", "slots_max": 4 },
            "start": "eager",
        });
        let settings: RuntimeSettings = serde_json::from_value(json).unwrap();
        assert_eq!(settings.restart.first, Duration::from_millis(10));
        assert_eq!(settings.restart.max, Duration::from_secs(30));
        assert_eq!(settings.node.payload_bytes_max, 1 << 20);
        assert_eq!(settings.start, StartMode::Eager);

        let typo = serde_json::json!({ "restart": { "frist": "1s" } });
        assert!(serde_json::from_value::<RuntimeSettings>(typo).is_err());

        let written = serde_json::to_value(RuntimeSettings::default()).unwrap();
        assert_eq!(written["crash_output_bytes"], "64KiB");
        let read: RuntimeSettings = serde_json::from_value(written).unwrap();
        assert_eq!(read, RuntimeSettings::default());
    }
}
