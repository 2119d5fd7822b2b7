//! One plugin in the registry: what is known of it, its state, and the kind that
//! runs it.

mod call;
mod gate;
mod needs;
mod restart;
mod status;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, PhaseCall, PhaseName, PluginId, PluginState, Reconciled};
use orchestrator_manifest::{Channel, Kind, Manifest, Phase};
use orchestrator_signing::{InUse, Package, TrustLevel, Verified};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    BoxFuture, PluginProblem, SandboxStatus,
    builtin::BuiltinBody,
    dependencies::Standing,
    error::LifecycleError,
    exec::Exec,
    health::HealthRecord,
    lifecycle::Lifecycle,
    limits::Bounds,
    node::Node,
    search_path::Place,
    validator::{Operation, Validator, Veto},
};
pub use call::CallFuture;
use call::InFlight;
pub(crate) use gate::Gate;
pub(crate) use restart::NotRestarted;

/// What is known of a plugin from its package and its operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Who answers for it; absent for what is compiled in or was refused.
    pub(crate) package: Option<Verified<Package>>,
    /// Keeps the store from collecting it for as long as it is known.
    pub(crate) _in_use: Option<Arc<InUse>>,
    pub(crate) label: String,
    pub(crate) place: Place,
    /// Whether manifest and facts are more than a claim.
    pub(crate) verified: bool,
    /// Whether it waits for an operator: it asks for more than earlier versions were
    /// granted, or may not come to this host yet.
    pub(crate) waits: bool,
    pub(crate) location: Option<PathBuf>,
    pub(crate) shadowed: Vec<PathBuf>,
    pub(crate) digest: String,
    /// Whom its publisher means it for.
    pub(crate) channel: Channel,
    pub(crate) trust_level: Option<u8>,
    pub(crate) key_id: Option<String>,
    pub(crate) grants: Vec<String>,
    pub(crate) enforced_by_kernel: Vec<String>,
    pub(crate) not_enforced: Vec<String>,
    pub(crate) sandbox: Option<SandboxStatus>,
    /// The lowest trust level that it is confined enough for.
    pub(crate) enough_for: Option<TrustLevel>,
    pub(crate) unsigned: bool,
    /// Absent for builtins and for what was refused.
    pub(crate) limits: Option<Arc<Bounds>>,
    pub(crate) warnings: Vec<String>,
}

impl Facts {
    /// What counts when several versions match.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            place: self.place,
            verified: self.verified,
            waits: self.waits,
            channel: self.channel,
        }
    }
}

/// The kind that runs a plugin.
pub(crate) enum Body {
    Builtin(BuiltinBody),
    Exec(Arc<Exec>),
    Node(Arc<Node>),
    /// It was refused; its state says why.
    None,
}

/// One plugin in the registry.
pub(crate) struct Entry {
    pub(crate) id: PluginId,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) facts: Facts,
    pub(crate) life: Arc<Lifecycle>,
    pub(crate) body: Body,
    pub(crate) health: HealthRecord,
    dependencies: RwLock<Vec<Arc<Entry>>>,
    dependants: RwLock<Vec<Weak<Entry>>>,
    /// Whether it is to run for itself, and not only for those that need it.
    wanted: AtomicBool,
    /// What was started for it and had not run before.
    brought: std::sync::Mutex<Vec<Arc<Entry>>>,
    calls: AtomicU64,
    /// Handles that a reload waits for.
    users: AtomicU64,
    /// Told when there is no call, or no user, any more.
    idle: Notify,
    /// Held while the plugin is started, so that it is started once.
    starting: Arc<Mutex<()>>,
    /// Whether it runs and lets no call in yet.
    gated: AtomicBool,
    /// What answers in its place, once it was given up.
    instead: OnceLock<Arc<Entry>>,
    /// Whether it was said that it is deprecated.
    pub(crate) told_deprecated: AtomicBool,
    start_timeout: Duration,
    validator: Option<Validator>,
}

impl Entry {
    pub(crate) fn new(
        manifest: Arc<Manifest>,
        facts: Facts,
        life: Arc<Lifecycle>,
        body: Body,
        start_timeout: Duration,
        validator: Option<Validator>,
    ) -> Self {
        Self {
            id: PluginId::new(manifest.id.as_str()),
            phases: manifest.callable_phases(),
            manifest,
            facts,
            life,
            body,
            health: HealthRecord::default(),
            dependencies: RwLock::default(),
            dependants: RwLock::default(),
            wanted: AtomicBool::new(false),
            brought: std::sync::Mutex::default(),
            calls: AtomicU64::new(0),
            users: AtomicU64::new(0),
            idle: Notify::new(),
            starting: Arc::default(),
            gated: AtomicBool::new(false),
            instead: OnceLock::new(),
            told_deprecated: AtomicBool::new(false),
            start_timeout,
            validator,
        }
    }

    /// Calls that have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    pub(crate) fn call(self: &Arc<Self>, call: PhaseCall) -> CallFuture {
        let in_flight = InFlight::enter(self);
        if !self
            .phases
            .iter()
            .any(|phase| phase.name == call.phase.as_str())
        {
            let message = format!("plugin {} has no phase `{}`", self.id, call.phase);
            return CallFuture::refused(CallError::InvalidInput { message }, in_flight);
        }
        if let Err(error) = self.validate(&call) {
            return CallFuture::refused(error, in_flight);
        }
        if self.lets_in() {
            match &self.body {
                Body::Builtin(builtin) => return CallFuture::new(builtin.call(call), in_flight),
                Body::Node(node) => {
                    let node = Arc::clone(node);
                    return CallFuture::new(
                        Box::pin(async move { node.call(call).await }),
                        in_flight,
                    );
                }
                Body::Exec(_) | Body::None => {}
            }
        }
        let entry = Arc::clone(self);
        let answer = Box::pin(async move {
            let ready = entry.ready(call.deadline.map(Instant::from_std)).await;
            if let Some(instead) = entry.instead.get() {
                return instead.call(call).await;
            }
            ready?;
            match &entry.body {
                Body::Builtin(builtin) => builtin.call(call).await,
                Body::Exec(exec) => exec.call(call).await,
                Body::Node(node) => node.call(call).await,
                Body::None => Err(entry.unavailable("it was not loaded")),
            }
        });
        CallFuture::new(answer, in_flight)
    }

    /// Whether the embedding program lets the call through.
    fn validate(&self, call: &PhaseCall) -> Result<(), CallError> {
        let Some(validator) = &self.validator else {
            return Ok(());
        };
        let validated = validator.operation(&self.id, Operation::Call(call));
        validated.map_err(|Veto(reason)| {
            let resource = format!("phase {}", call.phase);
            self.life.denied(&resource);
            let message = format!("{resource} of plugin {} is not allowed: {reason}", self.id);
            CallError::Permission { message }
        })
    }

    pub(crate) async fn reconcile(self: &Arc<Self>, phase: &PhaseName, key: &str) -> Reconciled {
        let _in_flight = InFlight::enter(self);
        let ready = self.ready(None).await;
        if let Some(instead) = self.instead.get() {
            return Box::pin(instead.reconcile(phase, key)).await;
        }
        if ready.is_err() {
            return Reconciled::Unknown;
        }
        match &self.body {
            Body::Builtin(builtin) => builtin.reconcile(phase, key).await,
            Body::Node(node) => node.reconcile(phase, key).await,
            // The protocol of one process for each call has no such question.
            Body::Exec(_) | Body::None => Reconciled::Unknown,
        }
    }

    /// Whether a call has a chance.
    pub(crate) fn is_available(&self) -> bool {
        use PluginState::{Initialized, Loaded, Running, Starting};
        match self.life.state() {
            Running | Loaded | Initialized => true,
            Starting => match &self.body {
                Body::Node(node) => node.is_available(),
                _ => true,
            },
            _ => false,
        }
    }

    /// Starts the plugin, its dependencies first, unless it runs. Waits at most until
    /// `deadline`; the start goes on when nobody waits for it any more, so that no
    /// hook is cut off in the middle, and has limits of its own.
    pub(crate) async fn ready(
        self: &Arc<Self>,
        deadline: Option<Instant>,
    ) -> Result<(), CallError> {
        if self.lets_in() {
            return Ok(());
        }
        self.startable()?;
        let entry = Arc::clone(self);
        let start = tokio::spawn(async move { entry.start().await });
        let ended = match deadline {
            Some(deadline) => timeout_at(deadline, start).await,
            None => Ok(start.await),
        };
        match ended {
            Ok(Ok(started)) => started,
            Ok(Err(panic)) => {
                let message = panic.to_string();
                let (stage, id) = ("starting", self.id.to_string());
                let error = LifecycleError::Hook { stage, id, message };
                self.life
                    .fail(PluginState::Error, PluginProblem::new(&error));
                Err(CallError::Panic {
                    message: error.to_string(),
                })
            }
            Err(_) => Err(self.unavailable("it did not start in time")),
        }
    }

    /// Whether the plugin is in a state that a start can follow.
    fn startable(&self) -> Result<(), CallError> {
        use PluginState::{Disabled, Initialized, Loaded, Running, Starting};
        match self.life.state() {
            Loaded | Initialized | Starting | Running => Ok(()),
            Disabled => Err(CallError::Disabled),
            state => Err(match self.life.problem() {
                Some(problem) => problem.to_call_error(),
                None => self.unavailable(&format!("it is {}", state.as_str())),
            }),
        }
    }

    fn start(&self) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let _one_at_a_time = self.starting.lock().await;
            if self.life.is_running() {
                return Ok(());
            }
            self.start_now().await
        })
    }

    /// Starts the plugin, its dependencies first. Only for who keeps others from
    /// doing the same.
    pub(crate) fn start_now(&self) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            if let Body::Builtin(builtin) = &self.body {
                builtin.recovery.rested().await;
            }
            // The start that was waited for may have failed.
            self.startable()?;
            let mut started = Vec::new();
            for dependency in self.dependencies() {
                let ran = dependency.life.is_running();
                if let Err(cause) = dependency.ready(None).await {
                    self.take_back(started).await;
                    return Err(self.dependency_failed(&dependency, &cause));
                }
                if !ran {
                    started.push(dependency);
                }
            }
            let outcome = match &self.body {
                Body::Builtin(builtin) => {
                    let started = builtin.start(&self.life).await;
                    started.map_err(|problem| problem.to_call_error())
                }
                Body::Exec(exec) => timeout(self.start_timeout, exec.start(&self.life))
                    .await
                    .unwrap_or_else(|_| Err(self.unavailable("it did not start in time"))),
                Body::Node(node) => node.start().await,
                Body::None => Err(self.unavailable("it was not loaded")),
            };
            match outcome.is_err() {
                true => self.take_back(started).await,
                false => self.brought().extend(started),
            }
            outcome
        })
    }

    /// Takes no more calls, waits until those in flight have ended or `until` has
    /// come, and stops.
    pub(crate) async fn stop(&self, until: Instant, limit: Duration) -> Result<(), PluginProblem> {
        if self
            .life
            .go(PluginState::Stopping, "it is shut down")
            .is_err()
        {
            return Ok(());
        }
        if let Body::Builtin(builtin) = &self.body {
            builtin.recovery.give_up();
        }
        // Past the grace period calls are cut off.
        let _ = timeout_at(until, self.idle()).await;
        let grace = until.saturating_duration_since(Instant::now());
        let stopped = match &self.body {
            Body::Builtin(builtin) => {
                // A start that is under way is over first; it has its own limits.
                let _start_is_over = self.starting.lock().await;
                builtin.stop(limit).await
            }
            Body::Exec(exec) => {
                exec.close();
                Ok(())
            }
            Body::Node(node) => {
                let stopped = self.within(limit, node.stop(grace)).await;
                // Whatever it waits for, nothing of it is to stay.
                node.close();
                stopped
            }
            Body::None => Ok(()),
        };
        let _ = self.life.go(PluginState::Stopped, "it has stopped");
        let _ = self
            .life
            .go(PluginState::Unloaded, "it is out of the registry");
        stopped
    }

    /// Ends everything at once, without waiting.
    pub(crate) fn close(&self) {
        let _ = self.life.go(PluginState::Stopping, "the runtime is gone");
        self.idle.notify_waiters();
        match &self.body {
            Body::Exec(exec) => exec.close(),
            Body::Node(node) => node.close(),
            Body::Builtin(builtin) => builtin.recovery.give_up(),
            Body::None => {}
        }
    }

    /// Whether the plugin has a process that lives from call to call.
    pub(crate) fn is_node(&self) -> bool {
        self.manifest.kind == Kind::Node
    }

    async fn within(
        &self,
        limit: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<(), PluginProblem> {
        timeout(limit, stop).await.map_err(|_| {
            PluginProblem::new(&LifecycleError::TimedOut {
                id: self.id.to_string(),
                action: "stop",
                limit,
                setting: "stop_timeout",
            })
        })
    }

    fn dependency_failed(&self, dependency: &Self, cause: &CallError) -> CallError {
        let error = LifecycleError::DependencyNotRunning {
            dependency: dependency.id.to_string(),
            id: self.id.to_string(),
        };
        let message = format!("{error}: {cause}");
        match cause {
            CallError::Unavailable { .. } => CallError::Unavailable { message },
            _ => CallError::permanent(message),
        }
    }

    fn unavailable(&self, why: &str) -> CallError {
        CallError::Unavailable {
            message: format!("plugin {}: {why}", self.id),
        }
    }
}
