//! A plugin as its callers see it.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use orchestrator_contract::{CallError, PhaseCall, PhaseName, PhaseReply, PluginId, Reconciled};
use orchestrator_manifest::{Manifest, Phase};
use semver::Version;
use tower::Service;

use crate::entry::{CallFuture, Entry};

/// A plugin as its callers see it: a `tower::Service` of phase calls. Cheap to
/// clone. Outliving the runtime is harmless; calls are refused then.
#[derive(Clone)]
pub struct PluginHandle(pub(crate) Arc<Entry>);

impl PluginHandle {
    /// The plugin's id.
    pub fn id(&self) -> &PluginId {
        &self.0.id
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.0.manifest.version
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.0.manifest
    }

    /// One of the phases that can be called, declared or implied by a role.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.0.phases.iter().find(|phase| phase.name == name)
    }

    /// Every phase that can be called.
    pub fn phases(&self) -> &[Phase] {
        &self.0.phases
    }

    /// Identifies the exact content of the package, or of a builtin's manifest:
    /// sha256 in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.0.facts.digest
    }

    /// Whether a call has a chance right now. A plugin that starts with its first
    /// call is available before it.
    pub fn is_available(&self) -> bool {
        self.0.is_available()
    }

    /// Asks what became of an earlier call whose end nobody saw. `Unknown` also when
    /// the plugin cannot be asked. Dropping the future gives the question up.
    pub async fn reconcile(&self, phase: &PhaseName, idempotency_key: &str) -> Reconciled {
        self.0.reconcile(phase, idempotency_key).await
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
        self.0.call(call)
    }
}

impl fmt::Debug for PluginHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PluginHandle")
            .field("id", &self.0.id)
            .field("version", &self.0.manifest.version)
            .field("state", &self.0.life.state())
            .finish_non_exhaustive()
    }
}
