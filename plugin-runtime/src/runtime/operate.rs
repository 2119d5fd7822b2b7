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
    /// Keeps every version of a plugin from taking calls, those that a reload brings
    /// included, until it is [enabled](Self::enable). Calls in flight end as they would,
    /// and its process keeps its state.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or no version is in a state that has something to
    /// disable.
    pub fn disable(&self, id: &str) -> Result<(), RuntimeError> {
        let mut disabled = self.registry.disabled();
        let versions = self.versions(id)?;
        let each = versions.iter().map(|entry| entry.life.disable());
        any(each).map_err(|illegal| RuntimeError::illegal(id, illegal))?;
        disabled.insert(id.to_owned());
        for entry in self.registry.left(id) {
            // One that is stopped already takes no calls.
            let _ = entry.life.disable();
        }
        Ok(())
    }

    /// [Disables](Self::disable) a plugin, also one that only a reload will bring, or
    /// bring back.
    pub fn keep_disabled(&self, id: &str) {
        let mut disabled = self.registry.disabled();
        disabled.insert(id.to_owned());
        let versions = self.registry.with(|plugins| plugins.operated(id));
        for entry in versions.into_iter().chain(self.registry.left(id)) {
            // One that cannot be disabled does not run.
            let _ = entry.life.disable();
        }
    }

    /// Lets a plugin take calls again after [`disable`](Self::disable), a crash loop
    /// or a failed start.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or none of its versions can be enabled: it could
    /// not be loaded, or was stopped because its trust or a grant was taken back, which
    /// only a reload or a new start of the runtime can mend.
    pub fn enable(&self, id: &str) -> Result<(), RuntimeError> {
        let mut disabled = self.registry.disabled();
        disabled.remove(id);
        for entry in self.registry.left(id) {
            // Whoever began with it goes on where it was.
            let _ = entry.life.enable();
        }
        let versions = self.versions(id)?;
        let each = versions.iter().map(|entry| enable(entry));
        any(each).map_err(|illegal| RuntimeError::illegal(id, illegal))
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

/// Does it to each, and fails as the first one did when it could be done to none.
fn any(each: impl Iterator<Item = Result<(), Illegal>>) -> Result<(), Illegal> {
    let (done, mut refused): (Vec<_>, Vec<_>) = each.partition(Result::is_ok);
    match refused.is_empty() || !done.is_empty() {
        true => Ok(()),
        false => refused.swap_remove(0),
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
