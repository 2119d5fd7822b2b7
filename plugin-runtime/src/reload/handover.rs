//! Moves the state of a plugin from one process to the next, while calls wait.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use orchestrator_contract::{CallError, PluginState};
use tokio::time::{Instant, timeout, timeout_at};

use super::HandedOn;
use crate::{
    RuntimeError,
    entry::{Body, Entry},
    node::StateHolder,
    settings::ReloadSettings,
};

/// What there is to be moved.
pub(super) enum Handover<'a> {
    /// Nothing, and why.
    Nothing(String),
    Of(Moving<'a>),
}

/// Two processes of a plugin, of which one takes over from the other.
pub(super) struct Moving<'a> {
    pub(super) old: &'a Arc<Entry>,
    new: &'a Entry,
    gives: StateHolder,
    takes: StateHolder,
}

/// What can be moved from the version that serves to the new one, which runs.
pub(super) fn handover<'a>(serving: Option<&'a Arc<Entry>>, new: &'a Entry) -> Handover<'a> {
    let nothing = |reason: String| Handover::Nothing(reason);
    let Some(old) = serving else {
        return nothing("nothing served before".to_owned());
    };
    let (Body::Node(from), Body::Node(to)) = (&old.body, &new.body) else {
        return nothing("only kind `node` keeps state".to_owned());
    };
    if old.life.state() != PluginState::Running {
        return nothing(format!("{} was not running", old.manifest.version));
    }
    match (from.state_holder(), to.state_holder()) {
        (Some(gives), Some(takes)) => Handover::Of(Moving {
            old,
            new,
            gives,
            takes,
        }),
        (None, _) => nothing(format!("{} hands none on", old.manifest.version)),
        (_, None) => nothing(format!("{} takes none", new.manifest.version)),
    }
}

impl Moving<'_> {
    /// Moves the state once while nobody waits. The old version goes on changing it.
    pub(super) async fn rehearse(&self, settings: &ReloadSettings) -> Result<(), RuntimeError> {
        let until = Instant::now() + settings.hold_max;
        self.carry(settings, until).await.map(drop)
    }

    /// Waits until nobody works with the old version, and moves its state. Returns
    /// how long that took. Who waits for a new version that is no more waits in vain.
    pub(super) async fn carry_out(
        &self,
        settings: &ReloadSettings,
    ) -> Result<(HandedOn, Duration), RuntimeError> {
        tokio::select! {
            biased;
            () = self.new.life.out_of_service() => Err(self.lost()),
            carried = self.settle_and_carry(settings) => carried,
        }
    }

    /// Why the new version cannot take over any more.
    fn lost(&self) -> RuntimeError {
        let life = &self.new.life;
        match (life.problem(), life.last_problem()) {
            (Some(problem), _) => RuntimeError::Refused(problem),
            (None, Some(last)) => self.not_moved(last.message.to_string()),
            (None, None) => self.not_moved(format!("it is {}", life.state().as_str())),
        }
    }

    async fn settle_and_carry(
        &self,
        settings: &ReloadSettings,
    ) -> Result<(HandedOn, Duration), RuntimeError> {
        let since = Instant::now();
        let until = since + settings.hold_max;
        // Who takes longer goes on with the old version.
        let _ = timeout(settings.settle, self.old.unused()).await;
        let idle = timeout_at(until, self.old.idle()).await;
        idle.map_err(|_| RuntimeError::StillBusy {
            id: self.old.id.to_string(),
            calls: self.old.in_flight(),
            limit: settings.hold_max,
        })?;
        let state = self.carry(settings, until).await?;
        let handed_on = HandedOn {
            kept: true,
            bytes: state.len() as u64,
            reason: String::new(),
        };
        Ok((handed_on, since.elapsed()))
    }

    async fn carry(
        &self,
        settings: &ReloadSettings,
        until: Instant,
    ) -> Result<Bytes, RuntimeError> {
        let version = self.old.manifest.version.to_string();
        let carried = timeout_at(until, async {
            let state = self.gives.state(settings.state_bytes_max).await?;
            self.takes.restore(state.clone(), version).await?;
            Ok(state)
        });
        match carried.await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(error)) => Err(self.not_moved(CallError::to_string(&error))),
            Err(_) => Err(self.not_moved(format!("it took longer than {:?}", settings.hold_max))),
        }
    }

    fn not_moved(&self, message: String) -> RuntimeError {
        RuntimeError::StateNotMoved {
            id: self.old.id.to_string(),
            version: self.new.manifest.version.clone(),
            message,
        }
    }
}
