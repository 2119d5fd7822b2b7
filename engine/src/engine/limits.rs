//! What an operator lets the plugins of a running engine use.

use orchestrator_plugin_runtime::LimitChange;

use super::Engine;
use crate::error::EngineError;

impl Engine {
    /// Changes limits of a plugin, in all its versions, for as long as this engine runs. A
    /// process that runs is held to them within `runtime.monitor.interval`;
    /// [`plugins`](Self::plugins) says, below `limits_held`, what waits for its next start.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, when nothing holds it to one of the limits, and when
    /// one is more than `runtime.sandbox` lets confined plugins have. Nothing has changed
    /// then.
    pub fn limit_plugin(&self, id: &str, change: &LimitChange) -> Result<(), EngineError> {
        Ok(self.shared.runtime.set_limits(id, change)?)
    }
}
