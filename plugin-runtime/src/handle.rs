//! A plugin as its callers see it.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use orchestrator_contract::{
    CallError, PhaseCall, PhaseName, PhaseReply, PluginId, PluginState, Reconciled,
};
use orchestrator_manifest::{Channel, Manifest, Phase};
use semver::Version;
use tower::Service;

use crate::{
    RuntimeError,
    entry::{CallFuture, Entry, NotRestarted},
};

/// A plugin as its callers see it: a `tower::Service` of phase calls. Cheap to
/// clone. Outliving the runtime is harmless; calls are refused then.
///
/// It is of one version, and a reload takes nothing from that: the old version goes
/// on for as long as there are handles of it, and moves its state only when there are
/// none or they have had `reload.settle` to go. So take one for each piece of work,
/// with [`Runtime::resolve`](crate::Runtime::resolve), or keep one that does not
/// [count](Self::uncounted).
pub struct PluginHandle {
    entry: Arc<Entry>,
    counted: bool,
}

impl PluginHandle {
    /// Only while the plugin can be found, or a reload would not know of it.
    pub(crate) fn new(entry: &Arc<Entry>) -> Self {
        entry.used();
        Self {
            entry: Arc::clone(entry),
            counted: true,
        }
    }

    /// The same plugin, by a handle that no reload waits for. For whoever keeps it
    /// beside one that counts, or for long: once nobody else uses its version after a
    /// reload, its calls are refused.
    #[must_use]
    pub fn uncounted(&self) -> Self {
        Self {
            entry: Arc::clone(&self.entry),
            counted: false,
        }
    }

    /// The plugin's id.
    pub fn id(&self) -> &PluginId {
        &self.entry.id
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.entry.manifest.version
    }

    /// Where it stands in its life.
    pub fn state(&self) -> PluginState {
        self.entry.life.state()
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.entry.manifest
    }

    /// One of the phases that can be called, declared or implied by a role.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.entry.phases.iter().find(|phase| phase.name == name)
    }

    /// Every phase that can be called.
    pub fn phases(&self) -> &[Phase] {
        &self.entry.phases
    }

    /// Whom its publisher means it for.
    pub fn channel(&self) -> Channel {
        self.entry.facts.channel
    }

    /// Says once that it should no longer be used, when its publisher says so.
    pub(crate) fn tell_if_deprecated(&self) {
        let entry = &self.entry;
        let is_told = || entry.told_deprecated.swap(true, Ordering::Relaxed);
        if self.channel() == Channel::Deprecated && !is_told() {
            let (plugin, version) = (&entry.id, self.version());
            let reason = entry.manifest.deprecated.as_deref();
            let reason = reason.unwrap_or("its publisher gives no reason");
            tracing::warn!(%plugin, %version, reason, "a deprecated release is used");
        }
    }

    /// Identifies the exact content of the package, or of a builtin's manifest:
    /// sha256 in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.entry.facts.digest
    }

    /// Whether a call has a chance right now. A plugin that starts with its first
    /// call is available before it.
    pub fn is_available(&self) -> bool {
        self.entry.is_available()
    }

    /// Asks what became of an earlier call whose end nobody saw. `Unknown` also when
    /// the plugin cannot be asked. Dropping the future gives the question up.
    pub async fn reconcile(&self, phase: &PhaseName, idempotency_key: &str) -> Reconciled {
        self.entry.reconcile(phase, idempotency_key).await
    }

    /// Asks the plugin whether it is well, at most for `limit`, and keeps what it
    /// says for [`Runtime::plugins`](crate::Runtime::plugins). Nothing for one that
    /// does not run; one that cannot be asked is well as long as it runs. Dropping the
    /// future gives the question up.
    pub async fn check_health(&self, limit: Duration) -> Option<Result<(), String>> {
        self.entry.check_health(limit).await
    }

    /// Starts a plugin again that runs and is not well, for `reason`: its calls have
    /// `grace` to end, those that come meanwhile wait. It is then started as a process is
    /// that ended by itself when it was last known to be well, after a delay and not for
    /// ever. Dropping the future leaves what has begun to itself.
    ///
    /// # Errors
    ///
    /// When it does not run, or it does not start again.
    pub async fn restart(&self, grace: Duration, reason: &str) -> Result<(), RuntimeError> {
        let id = || self.entry.id.to_string();
        let restarted = self.entry.recover(grace, grace, reason).await;
        restarted.map_err(|error| match error {
            NotRestarted::Illegal(illegal) => RuntimeError::illegal(&id(), illegal),
            NotRestarted::Start(error) => RuntimeError::NotRestarted {
                id: id(),
                message: error.to_string(),
            },
        })
    }
}

impl Clone for PluginHandle {
    fn clone(&self) -> Self {
        match self.counted {
            true => Self::new(&self.entry),
            false => self.uncounted(),
        }
    }
}

impl Drop for PluginHandle {
    fn drop(&mut self) {
        if self.counted {
            self.entry.no_longer_used();
        }
    }
}

impl Service<PhaseCall> for PluginHandle {
    type Response = PhaseReply;
    type Error = CallError;
    type Future = CallFuture;

    /// Always ready: who waits, waits in the future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    /// Calls the plugin and starts it when it does not run yet. The call's deadline
    /// bounds waits before the plugin works on it, and the plugin is told how much
    /// time it has; to stop waiting for the answer, drop the future.
    fn call(&mut self, call: PhaseCall) -> CallFuture {
        self.entry.call(call)
    }
}

impl fmt::Debug for PluginHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PluginHandle")
            .field("id", &self.entry.id)
            .field("version", &self.entry.manifest.version)
            .field("state", &self.entry.life.state())
            .finish_non_exhaustive()
    }
}
