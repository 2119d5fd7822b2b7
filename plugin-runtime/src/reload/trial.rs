//! Starts the new version beside the old one, and lets it take its place.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::CallError;
use tokio::time::timeout;

use super::{
    HandedOn, Reload, Reloaded,
    anew::Anew,
    handover::{Handover, handover},
};
use crate::{
    RuntimeError,
    entry::{Entry, Gate},
};

impl Reload {
    /// Tries the new version, and lets it serve when it can.
    pub(super) async fn try_out(
        &self,
        anew: Anew,
        serving: Option<&Arc<Entry>>,
    ) -> Result<Reloaded, RuntimeError> {
        let new = Arc::clone(&anew.new);
        let gate = new.gate().await;
        if self.registry.put_aside(&new).is_err() {
            let id = new.id.to_string();
            return Err(RuntimeError::Closing { id });
        }
        let tried = self.with_new(anew, serving, gate).await;
        if tried.is_err() {
            new.close();
            self.registry.forget(&new);
        }
        tried
    }

    async fn with_new(
        &self,
        anew: Anew,
        serving: Option<&Arc<Entry>>,
        gate: Gate,
    ) -> Result<Reloaded, RuntimeError> {
        self.start(&anew.new).await?;
        match handover(serving, &anew.new) {
            Handover::Nothing(reason) => {
                self.put_in_place(&anew)?;
                gate.let_in();
                let state = HandedOn::nothing(reason);
                Ok(self.settle_down(anew, serving, state, Duration::ZERO))
            }
            Handover::Of(moving) => {
                let settings = &self.surroundings.settings.reload;
                // Before anybody waits: whether it works at all.
                moving.rehearse(settings).await?;
                let before = self.registry.plugins();
                self.put_in_place(&anew)?;
                match moving.carry_out(settings).await {
                    Ok((state, took)) => {
                        gate.let_in();
                        Ok(self.settle_down(anew, serving, state, took))
                    }
                    Err(error) => {
                        self.registry.put_back(before, &anew.replaced);
                        gate.send_to(moving.old);
                        Err(error)
                    }
                }
            }
        }
    }

    async fn start(&self, new: &Entry) -> Result<(), RuntimeError> {
        let limit = self.surroundings.settings.start_timeout;
        let not_started = |message: String| RuntimeError::NotStarted {
            id: new.id.to_string(),
            version: new.manifest.version.clone(),
            message,
        };
        match timeout(limit, new.start_now()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(not_started(in_its_words(&error, new))),
            Err(_) => Err(not_started(format!("it was not ready within {limit:?}"))),
        }
    }
}

/// Without the plugin's name, which is said already.
fn in_its_words(error: &CallError, new: &Entry) -> String {
    let message = match error {
        CallError::Unavailable { message } => message.clone(),
        other => other.to_string(),
    };
    let name = format!("plugin {}: ", new.id);
    message.strip_prefix(&name).unwrap_or(&message).to_owned()
}
