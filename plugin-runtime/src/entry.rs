//! One plugin in the registry: what is known of it, its state, and the kind that
//! runs it.

mod call;
mod hold;
mod needs;
mod restart;

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
    BoxFuture, DependencyStatus, PhaseStatus, PluginProblem, PluginStatus, SandboxStatus,
    builtin::BuiltinBody, dependencies::Standing, error::LifecycleError, exec::Exec,
    health::HealthRecord, lifecycle::Lifecycle, limits::Bounds, node::Node, search_path::Place,
};
pub use call::CallFuture;
use call::InFlight;
pub(crate) use hold::Held;
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
    /// Whether it asks for more than earlier versions were granted.
    pub(crate) waits_for_grant: bool,
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
            waits: self.waits_for_grant,
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
    held: AtomicBool,
    /// What answers in its place, once it was given up.
    instead: OnceLock<Arc<Entry>>,
    /// Whether it was said that it is deprecated.
    pub(crate) told_deprecated: AtomicBool,
    start_timeout: Duration,
}

impl Entry {
    pub(crate) fn new(
        manifest: Arc<Manifest>,
        facts: Facts,
        life: Arc<Lifecycle>,
        body: Body,
        start_timeout: Duration,
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
            held: AtomicBool::new(false),
            instead: OnceLock::new(),
            told_deprecated: AtomicBool::new(false),
            start_timeout,
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
            Body::Builtin(_) | Body::None => {}
        }
    }

    pub(crate) fn status(&self) -> PluginStatus {
        let (pid, restarts, waiting) = match &self.body {
            Body::Node(node) => (node.pid(), node.restarts(), node.waiting()),
            Body::Exec(exec) => (None, 0, exec.waiting()),
            Body::Builtin(_) | Body::None => (None, 0, 0),
        };
        let facts = self.facts.clone();
        let (state, started_at) = (self.life.state(), self.started_at());
        PluginStatus {
            id: self.id.to_string(),
            version: self.manifest.version.clone(),
            kind: self.manifest.kind.as_str(),
            roles: self
                .manifest
                .role
                .iter()
                .map(|role| role.as_str())
                .collect(),
            description: self.manifest.description.clone(),
            author: self.manifest.author.clone(),
            license: self.manifest.license.clone(),
            state,
            history: self.life.history(),
            trust_level: facts.trust_level,
            key_id: facts.key_id,
            unsigned: facts.unsigned,
            digest: facts.digest,
            channel: facts.channel,
            location: facts.location,
            label: facts.label,
            phases: self.phases.iter().map(PhaseStatus::of).collect(),
            dependencies: self.dependency_statuses(),
            limits: facts.limits.as_ref().map(|it| it.now()).unwrap_or_default(),
            limits_held: facts.limits.map_or_else(Vec::new, |it| it.held()),
            has_config_schema: self.manifest.config_schema.is_some(),
            sensitive_fields: self.manifest.sensitive_fields.clone(),
            warnings: facts.warnings,
            grants: facts.grants,
            enforced_by_kernel: facts.enforced_by_kernel,
            not_enforced: facts.not_enforced,
            sandbox: facts.sandbox,
            pid,
            started_at,
            last_seen: self.last_seen(),
            health: self
                .health
                .health(state, started_at, self.life.last_problem().is_some()),
            restarts,
            calls: self.calls.load(Ordering::Relaxed),
            waiting,
            error: self.life.problem(),
            last_problem: self.life.last_problem(),
            shadowed: facts.shadowed,
        }
    }

    /// Since when it runs: its process, where it has one.
    fn started_at(&self) -> Option<i64> {
        match &self.body {
            Body::Node(node) => node.pid().and(node.last_started_at()),
            _ => self.life.running_since(),
        }
    }

    /// When it was last known to be there.
    fn last_seen(&self) -> Option<i64> {
        let started = match &self.body {
            Body::Node(node) => node.last_started_at(),
            _ => self.life.running_since(),
        };
        self.health.last_seen().max(started)
    }

    fn dependency_statuses(&self) -> Vec<DependencyStatus> {
        let needed = self.manifest.dependencies.iter();
        needed
            .map(|(id, range)| {
                let chosen = self.dependencies();
                let chosen = chosen.iter().find(|entry| entry.manifest.id == *id);
                DependencyStatus {
                    id: id.to_string(),
                    range: range.clone(),
                    version: chosen.map(|entry| entry.manifest.version.clone()),
                }
            })
            .collect()
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
