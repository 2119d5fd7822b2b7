//! What the program that embeds the runtime has to say about what plugins do.
//!
//! Grants say what operators allow. An embedder can have rules of its own on top of them,
//! that no grant could express: by the hour, by the input of a call, by the tenant of a run.

use std::{fmt, sync::Arc};

use orchestrator_contract::{PhaseCall, PluginId};
use orchestrator_manifest::{Capability, Target};

use crate::error::LoadError;

/// Asked before a plugin gets what it was granted. It can only take away.
pub trait SecurityValidator: Send + Sync + 'static {
    /// Whether `plugin` may have `capability`, which it was granted. Asked for each one when
    /// the plugin is loaded; one that is denied keeps the plugin from being loaded (`ORC-3081`).
    /// What is compiled in has none.
    ///
    /// # Errors
    ///
    /// Why not.
    fn validate_capability(&self, plugin: &PluginId, capability: &Capability) -> Result<(), Veto> {
        let _ = (plugin, capability);
        Ok(())
    }

    /// Whether `plugin` may do this now. Asked at each call and each connection, on the
    /// caller's task, so it must not block. The call or the connection alone is denied.
    ///
    /// # Errors
    ///
    /// Why not.
    fn validate_operation(&self, plugin: &PluginId, operation: Operation<'_>) -> Result<(), Veto> {
        let _ = (plugin, operation);
        Ok(())
    }
}

/// What a plugin is about to do.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// To carry out a phase, with all that the caller says.
    Call(&'a PhaseCall),
    /// To connect to what it was granted, by the proxy.
    Connect(&'a Target),
}

/// A reason, in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veto(pub String);

impl<T: Into<String>> From<T> for Veto {
    fn from(reason: T) -> Self {
        Self(reason.into())
    }
}

/// A validator as a setting: equal to itself alone, and nothing for a file.
#[derive(Clone)]
pub struct Validator(Arc<dyn SecurityValidator>);

impl Validator {
    /// That of the embedding program.
    pub fn new(validator: Arc<dyn SecurityValidator>) -> Self {
        Self(validator)
    }

    pub(crate) fn capabilities(&self, id: &str, granted: &[Capability]) -> Result<(), LoadError> {
        let plugin = PluginId::new(id);
        granted.iter().try_for_each(|capability| {
            let allowed = self.0.validate_capability(&plugin, capability);
            allowed.map_err(|Veto(reason)| LoadError::Vetoed {
                capability: capability.to_string(),
                reason,
            })
        })
    }

    pub(crate) fn operation(
        &self,
        plugin: &PluginId,
        operation: Operation<'_>,
    ) -> Result<(), Veto> {
        self.0.validate_operation(plugin, operation)
    }
}

impl PartialEq for Validator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Validator {}

impl fmt::Debug for Validator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Validator")
    }
}
