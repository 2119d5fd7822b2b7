//! Plugins compiled into the host. They share its memory and its fate, so they
//! have trust level 3 and need no signature.

mod recovery;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, Payload, PhaseCall, PhaseName, PhaseReply, PluginState, Reconciled,
};
use orchestrator_manifest::{Manifest, ManifestError};
use serde_json::{Value, json};
use tokio::time::timeout;

use self::recovery::Recovery;
use crate::{
    BoxFuture, CallContext, Plugin, PluginProblem, error::LifecycleError, health::FIRST_CHECK,
    lifecycle::Lifecycle, outlet::Outlet, settings::RuntimeSettings,
};

/// A plugin compiled into the host, with its manifest.
pub struct Builtin {
    pub(crate) manifest: Manifest,
    pub(crate) plugin: Arc<dyn Plugin>,
}

impl Builtin {
    /// A plugin with a manifest of kind `builtin`.
    pub fn new(manifest: Manifest, plugin: impl Plugin) -> Self {
        let plugin = Arc::new(plugin);
        Self { manifest, plugin }
    }

    /// A plugin of one phase, answered by a function:
    ///
    /// ```
    /// use orchestrator_contract::Payload;
    /// use orchestrator_plugin_runtime::Builtin;
    ///
    /// let hello = Builtin::phase("hello", "1.0.0", "greet", async |call, context| {
    ///     context.progress(Some(50), "thinking");
    ///     Ok(call.input)
    /// })?;
    /// # Ok::<_, orchestrator_manifest::ManifestError>(())
    /// ```
    ///
    /// The phase is `at_most_once`; a manifest of its own can say otherwise.
    ///
    /// # Errors
    ///
    /// When id, version or phase are not what a manifest allows.
    pub fn phase<F, A, R>(
        id: &str,
        version: &str,
        phase: &str,
        answer: F,
    ) -> Result<Self, ManifestError>
    where
        F: Fn(PhaseCall, CallContext) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, CallError>> + Send + 'static,
        R: IntoReply,
    {
        let manifest = json!({
            "id": id,
            "version": version,
            "description": format!("Compiled into the host; answers `{phase}`."),
            "kind": "builtin",
            "entry_point": id,
            "phases": [{ "name": phase }],
        });
        let manifest = Manifest::from_value(&manifest, id)?;
        let answer = move |call, context| -> Answer {
            let answer = answer(call, context);
            Box::pin(async move { answer.await.map(IntoReply::into_reply) })
        };
        Ok(Self::new(manifest, OnePhase(Box::new(answer))))
    }
}

impl fmt::Debug for Builtin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Builtin")
            .field("id", &self.manifest.id)
            .field("version", &self.manifest.version)
            .finish_non_exhaustive()
    }
}

/// What a function of one phase may answer with.
pub trait IntoReply {
    /// The reply.
    fn into_reply(self) -> PhaseReply;
}

impl IntoReply for PhaseReply {
    fn into_reply(self) -> PhaseReply {
        self
    }
}

impl IntoReply for Payload {
    fn into_reply(self) -> PhaseReply {
        PhaseReply::new(self)
    }
}

type Answer = BoxFuture<'static, Result<PhaseReply, CallError>>;

struct OnePhase(Box<dyn Fn(PhaseCall, CallContext) -> Answer + Send + Sync>);

impl Plugin for OnePhase {
    fn call(self: Arc<Self>, call: PhaseCall, context: CallContext) -> Answer {
        (self.0)(call, context)
    }
}

/// A builtin in the registry.
pub(crate) struct BuiltinBody {
    plugin: Arc<dyn Plugin>,
    pub(crate) outlet: Arc<Outlet>,
    config: Arc<Value>,
    start_timeout: Duration,
    /// Whether there is something to stop.
    started: AtomicBool,
    /// What becomes of it when it is not well, which no call looks at.
    pub(crate) recovery: Box<Recovery>,
}

impl BuiltinBody {
    pub(crate) fn new(
        plugin: Arc<dyn Plugin>,
        outlet: Arc<Outlet>,
        config: Arc<Value>,
        settings: &RuntimeSettings,
    ) -> Self {
        Self {
            plugin,
            outlet,
            config,
            start_timeout: settings.start_timeout,
            started: AtomicBool::new(false),
            recovery: Box::new(Recovery::new(settings.restart.clone())),
        }
    }

    /// The call's own future is the only thing that is allocated.
    pub(crate) fn call(&self, call: PhaseCall) -> Answer {
        let context = CallContext::new(Arc::clone(&self.outlet), Arc::clone(&self.config), &call);
        Arc::clone(&self.plugin).call(call, context)
    }

    pub(crate) async fn reconcile(&self, phase: &PhaseName, key: &str) -> Reconciled {
        self.plugin.reconcile(phase, key).await
    }

    /// Runs `init`, `start` and `health`. After a failure, what had been done is
    /// undone and the plugin is in state `Error`.
    pub(crate) async fn start(&self, life: &Lifecycle) -> Result<(), PluginProblem> {
        if let Err(error) = self
            .hook("initializing", self.plugin.init(&self.config))
            .await
        {
            return Err(self.failed(life, &error));
        }
        let _ = life.go(PluginState::Initialized, "it has its configuration");
        let _ = life.go(PluginState::Starting, "its start hook runs");
        if let Err(error) = self.hook("starting", self.plugin.start()).await {
            self.undo("destroying", self.plugin.destroy()).await;
            return Err(self.failed(life, &error));
        }
        if let Err(error) = self.health().await {
            self.undo("stopping", self.plugin.stop()).await;
            self.undo("destroying", self.plugin.destroy()).await;
            return Err(self.failed(life, &error));
        }
        self.started.store(true, Ordering::Release);
        let _ = life.go(PluginState::Running, "it takes calls");
        Ok(())
    }

    /// Runs `stop` and `destroy`, the second one whatever the first says, unless the
    /// plugin never started.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<(), PluginProblem> {
        if !self.started.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let stopped = timeout(limit, self.plugin.stop()).await;
        let destroyed = timeout(limit, self.plugin.destroy()).await;
        self.checked("stopping", "stop", "stop_timeout", limit, stopped)
            .and(self.checked("destroying", "stop", "stop_timeout", limit, destroyed))
            .map_err(|error| PluginProblem::new(&error))
    }

    /// Asks it whether it is well, without a limit.
    pub(crate) async fn is_well(&self) -> Result<(), String> {
        self.plugin.health().await
    }

    async fn health(&self) -> Result<(), LifecycleError> {
        let id = self.outlet.plugin().to_string();
        let message = match timeout(FIRST_CHECK, self.is_well()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(message)) => message,
            Err(_) => format!("timeout after {FIRST_CHECK:?}"),
        };
        Err(LifecycleError::Health { id, message })
    }

    async fn hook(
        &self,
        stage: &'static str,
        hook: BoxFuture<'_, Result<(), String>>,
    ) -> Result<(), LifecycleError> {
        let limit = self.start_timeout;
        let ended = timeout(limit, hook).await;
        self.checked(stage, "start", "start_timeout", limit, ended)
    }

    fn checked(
        &self,
        stage: &'static str,
        action: &'static str,
        setting: &'static str,
        limit: Duration,
        ended: Result<Result<(), String>, tokio::time::error::Elapsed>,
    ) -> Result<(), LifecycleError> {
        let id = self.outlet.plugin().to_string();
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(LifecycleError::Hook { stage, id, message }),
            Err(_) => Err(LifecycleError::TimedOut {
                id,
                action,
                limit,
                setting,
            }),
        }
    }

    /// Takes a step back; the failure that led here is the one to report.
    async fn undo(&self, stage: &'static str, hook: BoxFuture<'_, Result<(), String>>) {
        if let Err(error) = self.hook(stage, hook).await {
            tracing::warn!(plugin = %self.outlet.plugin(), %error, "a hook failed while a start was undone");
        }
    }

    fn failed(&self, life: &Lifecycle, error: &LifecycleError) -> PluginProblem {
        let problem = PluginProblem::new(error);
        life.fail(PluginState::Error, problem.clone());
        problem
    }
}
