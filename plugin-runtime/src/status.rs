//! What people and programs see of a plugin.

use std::path::PathBuf;

use orchestrator_contract::PluginState;
use orchestrator_manifest::{Channel, Phase};
use semver::{Version, VersionReq};
use serde::{Serialize, Serializer};

use crate::{
    HeldLimit, LastProblem, PluginHealth, PluginProblem, SandboxStatus, StateChange, limits::Watch,
};

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
    /// Who made it.
    pub author: Option<String>,
    /// Its licence.
    pub license: Option<String>,
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
    /// Whom its publisher means it for: everybody (`stable`), whoever asks (`beta`), or
    /// whoever has not moved on (`deprecated`).
    pub channel: Channel,
    /// Where it was found; absent for builtins.
    #[serde(serialize_with = "optional_text")]
    pub location: Option<PathBuf>,
    /// The search entry it was found below, or `builtin`.
    pub label: String,
    /// The phases that can be called.
    pub phases: Vec<PhaseStatus>,
    /// The plugins that must run before it.
    pub dependencies: Vec<DependencyStatus>,
    /// Limits from its manifest, or those that were put in their place since.
    pub limits: Watch,
    /// The same, with who holds the plugin to each.
    pub limits_held: Vec<HeldLimit>,
    /// Whether its configuration is checked against a schema.
    pub has_config_schema: bool,
    /// Dotted keys of its configuration whose values are never shown.
    pub sensitive_fields: Vec<String>,
    /// What its manifest asks for and this build does not do.
    pub warnings: Vec<String>,
    /// What the operator granted.
    pub grants: Vec<String>,
    /// Grants that the kernel holds the plugin to.
    pub enforced_by_kernel: Vec<String>,
    /// Grants whose bounds nothing enforces: the plugin could do more.
    pub not_enforced: Vec<String>,
    /// What holds a native plugin to its grants; absent for others, and for what was
    /// refused before that was looked at.
    pub sandbox: Option<SandboxStatus>,
    /// The process, where there is one right now.
    pub pid: Option<u32>,
    /// Since when it runs, in milliseconds since 1970 (UTC).
    pub started_at: Option<i64>,
    /// When it was last known to be there, in milliseconds since 1970 (UTC): at its
    /// start and when it says that it is well.
    pub last_seen: Option<i64>,
    /// Whether it is well.
    pub health: PluginHealth,
    /// How often its process was started again after it ended by itself.
    pub restarts: u64,
    /// Calls in flight, those that wait included.
    pub calls: u64,
    /// Of these, the ones that wait until the plugin takes more.
    pub waiting: u64,
    /// Why it does not run.
    pub error: Option<PluginProblem>,
    /// What went wrong last, also when it runs again.
    pub last_problem: Option<LastProblem>,
    /// Copies of the same version that come later in the search path.
    #[serde(serialize_with = "texts")]
    pub shadowed: Vec<PathBuf>,
}

/// A path need not be text, and then is shown as well as it can be.
fn optional_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = path.as_ref().map(|path| path.to_string_lossy());
    text.serialize(serializer)
}

fn texts<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// One phase that can be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PhaseStatus {
    /// The phase's name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// What happens in the world when it runs twice: `pure`, `idempotent`, …
    pub effect: &'static str,
    /// The whole time one step may take, in milliseconds.
    pub timeout_ms: u64,
    /// Attempts after the first, where its author says so.
    pub max_retries: Option<u32>,
}

impl PhaseStatus {
    pub(crate) fn of(phase: &Phase) -> Self {
        Self {
            name: phase.name.clone(),
            description: phase.description.clone(),
            effect: phase.effect.as_str(),
            timeout_ms: u64::try_from(phase.timeout.as_millis()).unwrap_or(u64::MAX),
            max_retries: phase.max_retries,
        }
    }
}

/// One plugin that must run before another.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DependencyStatus {
    /// The plugin.
    pub id: String,
    /// The versions that will do.
    pub range: VersionReq,
    /// The version that was chosen; absent when there is none.
    pub version: Option<Version>,
}
