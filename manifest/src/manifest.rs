//! The manifest as the rest of Orchestrator sees it: complete, checked, every
//! alias resolved and every default filled in.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use semver::{Version, VersionReq};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{
    capability::Capability,
    duration::format_duration,
    name::PluginName,
    package_path::PackagePath,
    word::{Channel, Effect, Kind, Role},
};

/// How long a phase may take when its manifest says nothing.
pub const PHASE_TIMEOUT: Duration = Duration::from_secs(600);

/// A plugin's manifest.
///
/// Made by [`Manifest::load`] and [`Manifest::parse`] only, so a value of
/// this type has passed every check. Serialised, it is a manifest again.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Plugin manifest", extend("patternProperties" = {"^x-": true}))]
#[non_exhaustive]
pub struct Manifest {
    /// The version of this format; 1.
    pub manifest_version: u32,
    /// The plugin's identity, unique among publishers: reverse-DNS or a slug.
    /// The last part of it is `name` unless `name` is given.
    pub id: PluginName,
    /// The short name, for people and commands.
    pub name: PluginName,
    /// What people see instead of the name; free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The plugin's version (semantic versioning 2.0).
    pub version: Version,
    /// What the plugin does.
    pub description: String,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The licence, as an SPDX expression or free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The oldest Orchestrator that can run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_host_version: Option<Version>,
    /// Whether it is the current, the trial or the outgoing version.
    pub channel: Channel,
    /// Why the plugin should no longer be used; absent when it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
    /// How the plugin runs.
    pub kind: Kind,
    /// What the plugin is for; at least one.
    pub role: Vec<Role>,
    /// The program, library or component, as a path inside the package. For
    /// the kind `builtin`, the name of the constructor.
    pub entry_point: String,
    /// The program that runs the entry point when that is a script. Absolute,
    /// outside the package and its signature; granted by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// Arguments put behind the program's name, as they are; no shell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Plugins that run before this one, with the versions that will do.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        serialize_with = "as_text_map"
    )]
    #[schemars(with = "BTreeMap<PluginName, String>")]
    pub dependencies: BTreeMap<PluginName, VersionReq>,
    /// Parts of Orchestrator that must be there, such as `events`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_features: Vec<String>,
    /// What the plugin asks to be allowed; sorted, each once. Asking grants nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// Abilities that others can look for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<Provided>,
    /// Limits that the author knows to be enough. None of them: no limit.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// The JSON Schema of the plugin's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Value>,
    /// A configuration that fits the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_example: Option<Value>,
    /// Dotted configuration key to environment variable. Not used by this build.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env_mapping: BTreeMap<String, String>,
    /// Dotted configuration keys whose values are never shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sensitive_fields: Vec<String>,
    /// Kinds of work the plugin is made for, such as `fiction` or `docs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// The phases, in the order they were written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Phase or prompt name to a text file in the package. Not used by this build
    /// but for checking that the files are there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, PackagePath>,
    /// The files a run leaves behind. Not used by this build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_spec: Option<OutputSpec>,
    /// The namespace of a resource plugin, such as `AWS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Keys starting with `x-`, kept and not understood.
    #[serde(flatten)]
    #[schemars(skip)]
    pub extensions: BTreeMap<String, Value>,
}

/// One named operation of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Phase {
    /// The phase's name, unique within the plugin.
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Lower runs first where nothing else decides. Not used by this build.
    pub order: u32,
    /// Whether a run fails when this phase does. Not used by this build: the
    /// pipeline's step decides.
    pub required: bool,
    /// The whole time one step may take, retries included: `10m`, `1h30m`.
    #[serde(serialize_with = "as_go_duration")]
    #[schemars(with = "String", extend("pattern" = "^([0-9]*\\.?[0-9]+(ns|us|µs|ms|s|m|h))+$"))]
    pub timeout: Duration,
    /// What happens in the world when the phase runs twice.
    pub effect: Effect,
    /// Whether an attempt that started may be repeated.
    pub retryable: bool,
    /// Attempts after the first, 0 for none. Absent: as many as the host
    /// allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Whether its output is encrypted at rest and left out of dumps.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
}

impl Phase {
    /// Attempts in all, the first one included, where the manifest says so.
    pub fn max_attempts(&self) -> Option<u32> {
        self.max_retries.map(|retries| retries + 1)
    }

    /// A phase of which only the name and the effect are known.
    pub(crate) fn implied(name: &str, effect: Effect) -> Self {
        Self {
            name: name.to_owned(),
            description: None,
            order: 0,
            required: true,
            timeout: PHASE_TIMEOUT,
            effect,
            retryable: effect.is_retry_safe(),
            max_retries: None,
            sensitive: false,
        }
    }
}

/// An ability that others can look for: what the plugin offers, as opposed to
/// what it asks for.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Provided {
    /// The ability's name, such as `text.summarise`.
    pub name: String,
    /// Its version; the plugin's own when absent.
    pub version: Version,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON Schema of its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// Limits that the author knows to be enough. An absent one, or 0, is no limit:
/// the host adds none of its own. One that the host cannot enforce for the
/// plugin's kind is refused when the plugin is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Resources {
    /// Memory in MiB. Absent or 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u32>,
    /// Processor time in percent of one core; may exceed 100. Absent or 0: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_percent: Option<u32>,
    /// Room in MiB for files in the plugin's own `TMPDIR`, the only place where it
    /// can write then. Absent or 0: no limit, and no such directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk_mb: Option<u32>,
    /// Threads and processes, all of the plugin's together. Absent or 0: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tasks: Option<u32>,
    /// Open file descriptors. Absent or 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open_files: Option<u32>,
}

impl Resources {
    /// Returns whether no limit was written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The files a run leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutputSpec {
    /// The file people want to see first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_output: Option<PackagePath>,
    /// File to what it holds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub descriptions: BTreeMap<PackagePath, String>,
}

impl Manifest {
    /// Returns whether the plugin has this role.
    pub fn has_role(&self, role: Role) -> bool {
        self.role.contains(&role)
    }

    /// Every phase that can be called: the declared ones, and the operations
    /// that come with the roles and were not declared.
    pub fn callable_phases(&self) -> Vec<Phase> {
        let mut phases = self.phases.clone();
        for (name, effect) in self.role.iter().flat_map(|role| role.operations()) {
            if !phases.iter().any(|phase| phase.name == *name) {
                phases.push(Phase::implied(name, *effect));
            }
        }
        phases
    }

    /// The phase called `name`, declared or implied by a role.
    pub fn phase(&self, name: &str) -> Option<Phase> {
        self.callable_phases()
            .into_iter()
            .find(|phase| phase.name == name)
    }

    /// The entry point as a file of the package; `None` for a builtin.
    pub fn entry_path(&self) -> Option<PackagePath> {
        match self.kind {
            Kind::Builtin => None,
            _ => PackagePath::parse(&self.entry_point).ok(),
        }
    }

    /// Every file of the package that the manifest names, with the place
    /// where it does.
    pub fn referenced_files(&self) -> Vec<(String, PackagePath)> {
        let entry = self
            .entry_path()
            .map(|path| ("/entry_point".to_owned(), path));
        let prompts = self.prompts.iter().map(|(name, path)| {
            (
                format!("/prompts/{}", crate::pointer::escape(name)),
                path.clone(),
            )
        });
        entry.into_iter().chain(prompts).collect()
    }
}

fn as_go_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

fn as_text_map<S: Serializer>(
    map: &BTreeMap<PluginName, VersionReq>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(name, range)| (name, range.to_string())))
}
