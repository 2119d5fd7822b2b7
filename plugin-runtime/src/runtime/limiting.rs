//! Limits of plugins, changed and watched while they run.

use super::Runtime;
use crate::{PluginLimits, RuntimeError, UnreadViolations};

impl Runtime {
    /// Puts `limits` in place of those that the versions of a plugin have, for as long as
    /// this host runs. A process that runs is held to them from the next sample on, the
    /// next one from its start.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, and when one of the limits cannot change or nothing
    /// holds it. Versions before the one that refused have the new limits then.
    pub fn set_limits(&self, id: &str, limits: PluginLimits) -> Result<(), RuntimeError> {
        let plugins = self.registry.plugins();
        let mut versions = plugins.versions(id).peekable();
        if versions.peek().is_none() {
            return Err(RuntimeError::UnknownPlugin {
                id: id.to_owned(),
                nearest: self.nearest(id),
            });
        }
        let fixed = |(key, why)| RuntimeError::LimitFixed {
            id: id.to_owned(),
            key,
            why,
        };
        for entry in versions {
            let bounds = entry.facts.limits.as_ref();
            let bounds = bounds.ok_or_else(|| fixed(("resources", NO_PROCESS)))?;
            bounds.set(limits).map_err(fixed)?;
        }
        Ok(())
    }

    /// The violations of limits that have come since this was last asked: the last ten, or
    /// as many as `monitor.violations_kept` says.
    pub fn take_violations(&self) -> UnreadViolations {
        self.violations.take()
    }
}

const NO_PROCESS: &str = "it has no process of its own, or was refused";
