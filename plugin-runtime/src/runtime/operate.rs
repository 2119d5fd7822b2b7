//! What an operator does with plugins that are loaded.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::PluginState;
use tokio::task::JoinSet;

use super::Runtime;
use crate::{
    RuntimeError,
    entry::{Body, Entry, NotRestarted},
    lifecycle::Illegal,
};

impl Runtime {
    /// Keeps every version of a plugin from taking calls. Calls in flight end as
    /// they would, and its process keeps its state.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or it is in a state that has nothing to disable.
    pub fn disable(&self, id: &str) -> Result<(), RuntimeError> {
        for entry in self.versions(id)? {
            let disabled = entry
                .life
                .go(PluginState::Disabled, "disabled by an operator");
            disabled.map_err(|illegal| RuntimeError::illegal(id, illegal))?;
        }
        Ok(())
    }

    /// Lets a plugin take calls again after [`disable`](Self::disable), a crash loop
    /// or a failed start.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, it could not be loaded, or it was stopped
    /// because its trust or a grant was taken back, which only a new start of the
    /// runtime can mend.
    pub fn enable(&self, id: &str) -> Result<(), RuntimeError> {
        for entry in self.versions(id)? {
            enable(&entry).map_err(|illegal| RuntimeError::illegal(id, illegal))?;
        }
        Ok(())
    }

    /// Starts every version of a plugin again, side by side: its calls have `grace`
    /// to end, those that come meanwhile wait. Gets a plugin out of a crash loop and
    /// a failed start too. Returns when it takes calls. What depends on it is left
    /// as it is. Dropping the future leaves what has begun to itself.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, it is disabled or could not be loaded, and when
    /// it does not start again.
    pub async fn restart(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let versions = self.versions(id)?;
        let loaded = |entry: &&Arc<Entry>| !matches!(entry.body, Body::None);
        let usable: Vec<_> = versions.iter().filter(loaded).collect();
        let mut restarting = JoinSet::new();
        // Of one that was not loaded, its state says why.
        for entry in if usable.is_empty() {
            versions.iter().collect()
        } else {
            usable
        } {
            let (entry, limit) = (Arc::clone(entry), self.settings.stop_timeout);
            restarting.spawn(async move {
                let reason = "restarted by an operator";
                entry.restart(grace, limit, reason).await
            });
        }
        let mut failures = Vec::new();
        while let Some(ended) = restarting.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(NotRestarted::Illegal(illegal))) => {
                    return Err(RuntimeError::illegal(id, illegal));
                }
                Ok(Err(NotRestarted::Start(error))) => failures.push(error.to_string()),
                Err(panic) => failures.push(panic.to_string()),
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(RuntimeError::NotRestarted {
                id: id.to_owned(),
                message: failures.join("; "),
            }),
        }
    }
}

fn enable(entry: &Entry) -> Result<(), Illegal> {
    let state = match entry.life.state() {
        PluginState::Disabled => entry.life.enable()?,
        state => state,
    };
    match state {
        PluginState::Error | PluginState::CrashLoop if !matches!(entry.body, Body::None) => {
            let reason = "an operator has it tried again";
            entry.life.go(PluginState::Loaded, reason)?;
            if let Body::Node(node) = &entry.body {
                node.request_start();
            }
        }
        PluginState::Error
        | PluginState::Stopping
        | PluginState::Stopped
        | PluginState::Unloaded => {
            let (from, to) = (state, PluginState::Loaded);
            return Err(Illegal { from, to });
        }
        _ => {}
    }
    Ok(())
}
