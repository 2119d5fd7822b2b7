//! What an operator may set, and how the pieces are put together.
//!
//! Values come from, in rising order of precedence: `default.toml` (compiled
//! in), `/etc/orchestrator/config.toml`, the user's file, a file named on the
//! command line, `ORCHESTRATOR_…__…` environment variables, and single values
//! named on the command line. The types have no defaults of their own, so
//! `default.toml` is the one place to look for one.

mod error;
mod file;
mod policy;
mod sources;
mod stack;
mod types;
mod values;

pub use error::ConfigError;
pub use policy::{DeadlineOverrides, FallbackConfig, PolicyConfig};
pub use sources::{Origin, Sources};
pub use stack::PolicyStack;
pub use types::{
    AuditConfig, CheckpointCopy, DiscoveryConfig, HealthAction, HealthSettings, InstallConfig,
    LogConfig, LogFormat, PluginConfig, RunConfig, ServerConfig,
};

use std::collections::BTreeMap;

use figment::Figment;
use orchestrator_plugin_runtime::RuntimeSettings;
use serde::{Deserialize, Serialize};

use crate::{journal::JournalSettings, session::SessionSettings};

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("config/default.toml");

/// Everything an operator may set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is logged, and how.
    pub log: LogConfig,
    /// The HTTP service.
    pub server: ServerConfig,
    /// Runs.
    pub run: RunConfig,
    /// Where plugins are looked for.
    pub discovery: DiscoveryConfig,
    /// How packages are installed.
    pub install: InstallConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// What every phase call meets.
    pub policy: PolicyConfig,
    /// How plugins are run.
    pub runtime: RuntimeSettings,
    /// What is asked of plugins that run, and done about those that are not well.
    pub health: HealthSettings,
    /// The journal.
    pub journal: JournalSettings,
    /// Sessions.
    pub session: SessionSettings,
    /// What is particular to single plugins, by id.
    pub plugins: BTreeMap<String, PluginConfig>,
}

impl Config {
    /// The defaults and nothing else.
    ///
    /// # Errors
    ///
    /// Never in a build whose tests pass.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::extract(&Sources::defaults())
    }

    /// Reads every source.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, and for the first key or value that does
    /// not fit, naming the key and where it comes from.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::extract(&sources.figment()?)
    }

    /// [`Self::load`], and every key with its value and where that comes from,
    /// sorted by key.
    ///
    /// # Errors
    ///
    /// Those of [`Self::load`].
    pub fn load_with_origins(sources: &Sources) -> Result<(Self, Vec<Origin>), ConfigError> {
        let figment = sources.figment()?;
        Ok((Self::extract(&figment)?, sources::origins(&figment)?))
    }

    fn extract(figment: &Figment) -> Result<Self, ConfigError> {
        let config: Self = figment.extract().map_err(ConfigError::misfit)?;
        config.validate().map_err(|error| error.located(figment))?;
        Ok(config)
    }

    /// Finds at start what would otherwise be found by the first call.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        values::check(self)?;
        self.policy.validate("policy")?;
        let checked = self.health.check.validate();
        checked.map_err(|error| ConfigError::Policy {
            section: "health.check".to_owned(),
            error,
        })?;
        for (name, plugin) in &self.plugins {
            let place = format!("plugins.{name}");
            let policy = format!("{place}.policy");
            self.policy.overridden(&policy, [&plugin.policy])?;
            for (phase, overrides) in &plugin.phases {
                let place = format!("{place}.phases.{phase}");
                self.policy
                    .overridden(&place, [&plugin.policy, overrides])?;
            }
        }
        Ok(())
    }

    /// The policies of one phase: what everybody gets, then the manifest's
    /// number of attempts, then what is set for the plugin and the phase, then
    /// what a step asks for.
    pub(crate) fn phase_policy(
        &self,
        plugin: &str,
        phase: &orchestrator_manifest::Phase,
        step: Option<&serde_json::Value>,
    ) -> Result<PolicyConfig, ConfigError> {
        let manifest = match phase.max_attempts() {
            // Says nothing, so the operator's general number stands.
            None => serde_json::Value::Null,
            Some(most) => serde_json::json!({ "retry": { "max_attempts": most } }),
        };
        let own = self.plugins.get(plugin);
        let layers = [
            Some(&manifest),
            own.map(|plugin| &plugin.policy),
            own.and_then(|plugin| plugin.phases.get(&phase.name)),
            step,
        ];
        let place = format!("plugins.{plugin}.phases.{}", phase.name);
        self.policy.overridden(&place, layers.into_iter().flatten())
    }

    /// Whether a phase is configured by itself, and so has a breaker, a
    /// bulkhead and a rate limit of its own.
    pub(crate) fn has_own_policies(&self, plugin: &str, phase: &str) -> bool {
        self.plugins
            .get(plugin)
            .is_some_and(|plugin| plugin.phases.contains_key(phase))
    }
}

#[cfg(test)]
mod tests;
