//! What an operator does with the plugins of a running engine.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use orchestrator_plugin_runtime::{PluginStatus, Reloaded, Runtime};

use super::{Engine, Shared};
use crate::{config::Config, disabled::Disabled, error::EngineError};

impl Engine {
    /// Every plugin that was found, also those that cannot be used.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let mut plugins = self.shared.runtime.plugins();
        self.shared.health.put_into(&mut plugins);
        plugins
    }

    /// Keeps a plugin, in all its versions, from taking calls, in this engine and in
    /// those that will be started in its home. Calls in flight end as they would; one
    /// that is out of service stays so, and is not started by a reload. Who did it is
    /// kept as `by`.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or this cannot be written down.
    pub fn disable_plugin(&self, id: &str, by: &str) -> Result<(), EngineError> {
        let written = self.shared.written();
        self.shared.runtime.disable(id)?;
        written.add(id, by)?;
        Ok(())
    }

    /// Lets a plugin take calls again, also after a crash loop or a failed start. Of one
    /// that was disabled and is out of service, only the one is taken back.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, the configuration disables it, this cannot be written
    /// down, or it was not disabled and is out of service.
    pub fn enable_plugin(&self, id: &str) -> Result<(), EngineError> {
        if is_configured(&self.shared.config, id) {
            return Err(EngineError::DisabledByConfig { id: id.to_owned() });
        }
        let written = self.shared.written();
        written.remove(id)?;
        Ok(self.shared.runtime.enable(id)?)
    }

    /// Starts a plugin again, in the version that its name leads to and those that run:
    /// its calls have `grace` to end, those that come meanwhile wait. Returns when it takes
    /// calls. Dropping the future leaves a restart that has begun to itself.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, it is disabled or could not be loaded, and when
    /// it does not start again.
    pub async fn restart_plugin(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        Ok(self.shared.runtime.restart(id, grace).await?)
    }

    /// Lets a plugin go on with what is installed now: see [`Runtime::reload`]. Runs
    /// that are in flight keep the version they began with. What is disabled is not
    /// started. When the future is dropped, the reload goes on.
    ///
    /// [`Runtime::reload`]: orchestrator_plugin_runtime::Runtime::reload
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::reload`]; the version that served goes on then.
    pub async fn reload_plugin(&self, id: &str) -> Result<Reloaded, EngineError> {
        self.shared.keep_as_written(id);
        Ok(self.shared.runtime.reload(id).await?)
    }

    /// Disables what was disabled in the home since the engine was started.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub fn disable_as_written(&self) -> Result<(), EngineError> {
        disable(&self.shared.runtime, &self.shared.written())
    }
}

impl Shared {
    /// What is written down as disabled. Whoever changes it and the runtime holds it
    /// meanwhile, so that both come to say the same.
    fn written(&self) -> MutexGuard<'_, Disabled> {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Disables a plugin that is to be, though the runtime may not have it yet, or may
    /// have been told nothing of it.
    fn keep_as_written(&self, id: &str) {
        let written = self.written();
        if is_configured(&self.config, id) || written.has(id) {
            self.runtime.keep_disabled(id);
        }
    }
}

/// Whether the configuration disables it.
fn is_configured(config: &Config, id: &str) -> bool {
    let plugin = config.plugins.get(id);
    plugin.is_some_and(|plugin| plugin.disabled)
}

/// Disables what is written down, also what is not there yet.
pub(super) fn disable(runtime: &Runtime, written: &Disabled) -> Result<(), EngineError> {
    for id in written.list()? {
        runtime.keep_disabled(&id);
    }
    Ok(())
}
