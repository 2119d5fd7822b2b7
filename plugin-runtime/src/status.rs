//! What people and programs see of a plugin.

use std::path::PathBuf;

use orchestrator_contract::PluginState;
use semver::Version;
use serde::Serialize;

use crate::{PluginProblem, StateChange};

/// What people and programs see of a plugin. A moment later it may be out of date.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PluginStatus {
    /// The plugin's id.
    pub id: String,
    /// Its version.
    pub version: Version,
    /// How it runs: `builtin`, `exec`, `node`, …
    pub kind: &'static str,
    /// What it is for: `domain`, `resource`, …
    pub roles: Vec<&'static str>,
    /// What it does.
    pub description: String,
    /// Where it stands in its life.
    pub state: PluginState,
    /// How it came there, oldest first; the last 64 changes.
    pub history: Vec<StateChange>,
    /// 1 untrusted, 2 partner, 3 internal; absent when its signature was refused.
    pub trust_level: Option<u8>,
    /// The key that signed it; absent for builtins.
    pub key_id: Option<String>,
    /// Nobody signed it; it runs because the operator listed its directory.
    pub unsigned: bool,
    /// Identifies the exact content of the package, or of a builtin's manifest.
    pub digest: String,
    /// Where it was found; absent for builtins.
    pub location: Option<PathBuf>,
    /// The search entry it was found below, or `builtin`.
    pub label: String,
    /// The phases that can be called.
    pub phases: Vec<String>,
    /// What the operator granted.
    pub grants: Vec<String>,
    /// Grants whose bounds the kernel does not enforce: the plugin could do more.
    pub not_enforced: Vec<String>,
    /// The process, where there is one right now.
    pub pid: Option<u32>,
    /// How often its process was started again after it ended by itself.
    pub restarts: u64,
    /// Calls in flight, those that wait included.
    pub calls: u64,
    /// Of these, the ones that wait until the plugin takes more.
    pub waiting: u64,
    /// Why it does not run.
    pub error: Option<PluginProblem>,
    /// Copies of the same version that come later in the search path.
    pub shadowed: Vec<PathBuf>,
}
