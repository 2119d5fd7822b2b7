//! Limits of plugins, changed and watched while they run.

use super::Runtime;
use crate::{LimitChange, LimitRefusal, RuntimeError, UnreadViolations};

impl Runtime {
    /// Puts limits in place of those that every version of a plugin has, also of those that
    /// a reload brings, for as long as this host runs. A process that runs is held to them
    /// from the next sample on, the next one from its start;
    /// [`limits_held`](crate::PluginStatus::limits_held) says what waits for that.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, and when one of the limits cannot change, nothing
    /// holds it, or it is more than the operator lets confined plugins have. Nothing has
    /// changed then.
    pub fn set_limits(&self, id: &str, change: &LimitChange) -> Result<(), RuntimeError> {
        self.versions(id)?;
        let mut entries = self.registry.all();
        entries.retain(|entry| entry.id.as_str() == id);
        let limits = entries.iter().filter_map(|it| it.facts.limits.as_ref());
        let limits: Vec<_> = limits.collect();
        if limits.is_empty() {
            let (id, key) = (id.to_owned(), "resources");
            let why = "it has no process of its own, or was refused";
            return Err(LimitRefusal::Fixed { id, key, why }.into());
        }
        for bounds in &limits {
            bounds.check(id, change)?;
        }
        self.surroundings.rules.changes.add(id, *change);
        for bounds in limits {
            bounds.set(change);
        }
        Ok(())
    }

    /// The violations of limits that have come since this was last asked: the last ten, or
    /// as many as `monitor.violations_kept` says.
    pub fn take_violations(&self) -> UnreadViolations {
        self.violations.take()
    }
}
