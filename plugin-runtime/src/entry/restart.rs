//! Ending a plugin to start it again, or to take back a start.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use orchestrator_contract::{CallError, Event, PluginState};
use tokio::time::timeout;

use super::{Body, Entry};
use crate::{
    BoxFuture, PluginProblem,
    builtin::BuiltinBody,
    lifecycle::{Illegal, Lifecycle},
    moment::Moment,
};

/// Why a plugin was not started again.
#[derive(Debug)]
pub(crate) enum NotRestarted {
    /// Its state does not allow it.
    Illegal(Illegal),
    /// It was ended, and did not start.
    Start(CallError),
}

impl From<Illegal> for NotRestarted {
    fn from(illegal: Illegal) -> Self {
        Self::Illegal(illegal)
    }
}

/// Who has a plugin started again.
#[derive(Clone, Copy)]
enum By {
    Operator,
    /// It runs and is not well.
    Health,
}

impl Entry {
    /// Ends the plugin when its calls have ended, or `grace` is over, and starts it
    /// again, also after a crash loop or a failed start. Calls that come meanwhile
    /// wait for it where there is a process; what depends on it is left as it is.
    /// Dropping the future leaves a restart that has begun to itself.
    pub(crate) async fn restart(
        self: &Arc<Self>,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), NotRestarted> {
        self.to_its_end(By::Operator, grace, limit, reason).await
    }

    /// Ends a plugin that runs and is not well, and starts it again as if it had ended by
    /// itself: later each time, and not for ever. Calls that come meanwhile wait for a
    /// process, and for the end of a delay.
    /// Dropping the future leaves what has begun to itself.
    pub(crate) async fn recover(
        self: &Arc<Self>,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), NotRestarted> {
        self.to_its_end(By::Health, grace, limit, reason).await
    }

    /// Goes on when nobody waits for it any more: left in the middle, the plugin would be
    /// stopping for good.
    async fn to_its_end(
        self: &Arc<Self>,
        by: By,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), NotRestarted> {
        let (entry, reason) = (Arc::clone(self), reason.to_owned());
        let again = tokio::spawn(async move {
            match by {
                By::Operator => entry.restart_now(grace, limit, &reason).await?,
                By::Health => entry.recover_now(grace, limit, &reason).await?,
            }
            entry.ready(None).await.map_err(NotRestarted::Start)
        });
        again.await.unwrap_or_else(|panic| {
            let message = panic.to_string();
            Err(NotRestarted::Start(CallError::Panic { message }))
        })
    }

    async fn restart_now(
        &self,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), Illegal> {
        use PluginState::{CrashLoop, Error, Initialized, Loaded, Running, Starting};
        match self.life.state() {
            Error | CrashLoop if !matches!(self.body, Body::None) => {
                self.life.go(Loaded, reason)?;
            }
            Loaded | Initialized | Starting | Running => {}
            from => {
                let to = Starting;
                return Err(Illegal { from, to });
            }
        }
        match &self.body {
            Body::Node(node) => node.restart(grace, reason).await,
            Body::Builtin(builtin) => {
                builtin.recovery.begin_anew();
                self.end_builtin(builtin, grace, limit, reason).await?;
            }
            // Each call has a process of its own.
            Body::Exec(_) | Body::None => {}
        }
        Ok(())
    }

    async fn recover_now(
        &self,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), Illegal> {
        let (from, to) = (self.life.state(), PluginState::Starting);
        if from != PluginState::Running {
            return Err(Illegal { from, to });
        }
        match &self.body {
            Body::Node(node) => {
                let well_for = well_for(node.last_started_at(), self.health.last_seen());
                node.recover(grace, reason, well_for).await;
            }
            Body::Builtin(builtin) => {
                self.recover_builtin(builtin, grace, limit, reason).await?;
            }
            Body::Exec(_) | Body::None => {}
        }
        Ok(())
    }

    /// Runs the hooks that end it, so that it can be started again.
    async fn end_builtin(
        &self,
        builtin: &BuiltinBody,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), Illegal> {
        // A start that is under way is over first; it has its own limits.
        let _start_is_over = self.starting.lock().await;
        if !self.life.is_running() {
            return Ok(());
        }
        self.life.go(PluginState::Stopping, reason)?;
        self.run_last_hooks(builtin, grace, limit).await;
        self.life.go(PluginState::Stopped, "it has stopped")?;
        self.life.go(PluginState::Loaded, reason)
    }

    /// The same for one that is not well, which rests then, or is not started any more.
    async fn recover_builtin(
        &self,
        builtin: &BuiltinBody,
        grace: Duration,
        limit: Duration,
        reason: &str,
    ) -> Result<(), Illegal> {
        let well_for = well_for(self.life.running_since(), self.health.last_seen());
        let delay = match builtin.recovery.delay(well_for, reason) {
            Ok(delay) => delay,
            Err(crash_loop) => {
                let problem = PluginProblem::new(&crash_loop);
                self.life.fail(PluginState::CrashLoop, problem);
                self.run_last_hooks(builtin, grace, limit).await;
                return Ok(());
            }
        };
        self.life.note_problem(reason);
        builtin.outlet.emit(Event::PluginRestarted {
            plugin: self.id.clone(),
            reason: reason.into(),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
        // Before it can be started: whoever does that finds it resting.
        builtin.recovery.rest(delay);
        let reason = format!("{reason}; it is started again in {delay:.1?}");
        self.end_builtin(builtin, grace, limit, &reason).await
    }

    async fn run_last_hooks(&self, builtin: &BuiltinBody, grace: Duration, limit: Duration) {
        // Past the grace period it is stopped under its calls.
        let _ = timeout(grace, self.idle()).await;
        if let Err(problem) = builtin.stop(limit).await {
            tracing::warn!(plugin = %self.id, %problem, "a plugin did not stop as it should");
        }
    }

    /// Ends what was started for a plugin that did not start, last first, unless
    /// somebody else uses it by now. Dropping the future takes nothing of that back.
    pub(super) fn take_back(&self, started: Vec<Arc<Self>>) -> BoxFuture<'static, ()> {
        let (failed, id) = (Arc::clone(&self.life), self.id.clone());
        Box::pin(async move {
            // What goes wrong is in the state of each.
            let _ = tokio::spawn(async move {
                for entry in started.into_iter().rev() {
                    if !entry.is_needed_besides(&failed) {
                        entry.rest(&id).await;
                    }
                }
            })
            .await;
        })
    }

    fn is_needed_besides(&self, failed: &Arc<Lifecycle>) -> bool {
        use PluginState::{Running, Starting};
        let in_use = |dependant: &Arc<Self>| {
            !Arc::ptr_eq(&dependant.life, failed)
                && matches!(dependant.life.state(), Running | Starting)
        };
        self.is_wanted() || self.in_flight() > 0 || self.dependants().iter().any(in_use)
    }

    /// Ends it until it is called.
    async fn rest(&self, failed: &orchestrator_contract::PluginId) {
        if !self.life.is_running() {
            return;
        }
        let limit = self.start_timeout;
        let reason = format!("{failed}, for which it was started, did not start");
        match &self.body {
            Body::Node(node) => {
                if self.life.go(PluginState::Stopping, &reason).is_err() {
                    return;
                }
                node.rest(limit).await;
                // When it is stopped for good meanwhile, that is what counts.
                let _ = self.life.go(PluginState::Stopped, "it has stopped");
                let _ = self.life.go(PluginState::Loaded, &reason);
            }
            Body::Builtin(builtin) => {
                let _ = self
                    .end_builtin(builtin, Duration::ZERO, limit, &reason)
                    .await;
            }
            // Nothing of it runs between calls.
            Body::Exec(_) | Body::None => {}
        }
        let brought = std::mem::take(&mut *self.brought());
        self.take_back(brought).await;
    }

    /// What was started for it and had not run before.
    pub(super) fn brought(&self) -> MutexGuard<'_, Vec<Arc<Self>>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it was known to be well. What was seen before its start says nothing of it.
fn well_for(started_at: Option<Moment>, last_seen: Option<Moment>) -> Duration {
    let span = started_at.zip(last_seen).map(|(from, to)| to.since(from));
    span.unwrap_or_default()
}
