//! Asks the plugins that run whether they are well, and does something about those
//! that are not.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use orchestrator_contract::{Event, EventSink, PluginId, PluginState};
use orchestrator_manifest::Kind;
use orchestrator_plugin_runtime::{PluginHandle, PluginStatus};
use orchestrator_policies::{Health, HealthChange, HealthMonitor, Listener, PolicyEvent};
use semver::{Comparator, Op, Version, VersionReq};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    config::{ConfigError, HealthAction, HealthSettings},
    engine::Shared,
};

/// How much longer the monitor waits than the plugin has, so that it is the plugin's
/// own limit that passes.
const MARGIN: Duration = Duration::from_secs(1);

/// Watches over the plugins of one engine.
pub(crate) struct HealthWatch {
    settings: HealthSettings,
    monitor: HealthMonitor,
    reactions: Arc<Reactions>,
    changed: Arc<Changed>,
}

/// What is done about changes of a plugin's health.
struct Reactions {
    bus: Bus,
    action: HealthAction,
    /// How long the calls of a plugin that is restarted may take to end: who says
    /// nothing for so long ends none.
    grace: Duration,
    /// Set once, when there is an engine.
    shared: OnceLock<Weak<Shared>>,
}

impl HealthWatch {
    /// Watches nothing until [`run`](Self::run).
    pub(crate) fn new(settings: HealthSettings, bus: Bus) -> Result<Self, ConfigError> {
        let reactions = Arc::new(Reactions {
            bus,
            action: settings.action,
            grace: settings.check.timeout,
            shared: OnceLock::new(),
        });
        let mut config = settings.check.clone();
        config.timeout = config.timeout.saturating_add(MARGIN);
        let listener = Arc::clone(&reactions) as Arc<dyn Listener>;
        let monitor = HealthMonitor::with_listener(config, listener);
        let monitor = monitor.map_err(|error| ConfigError::Policy {
            section: "health.check".to_owned(),
            error,
        })?;
        Ok(Self {
            settings,
            monitor,
            reactions,
            changed: Arc::default(),
        })
    }

    /// What is to hear of the plugins' states, and tells `bus` of everything.
    pub(crate) fn tap(&self, bus: Bus) -> Arc<dyn EventSink> {
        let changed = Arc::clone(&self.changed);
        Arc::new(Tap { bus, changed })
    }

    /// Watches every plugin that runs for as long as it does, until the engine stops.
    pub(crate) async fn run(shared: Arc<Shared>, alive: CancellationToken) {
        let this = &shared.health;
        // Nobody else sets it.
        let _ = this.reactions.shared.set(Arc::downgrade(&shared));
        loop {
            for (name, has_started) in this.changed.take() {
                this.follow(&shared, name, has_started);
            }
            tokio::select! {
                () = alive.cancelled() => return,
                () = this.changed.news.notified() => {}
            }
        }
    }

    /// Begins or ends the checks of one version of a plugin, as it runs or not.
    fn follow(&self, shared: &Shared, name: String, has_started: bool) {
        let handle = exactly(shared, &name);
        let running = handle.filter(|handle| handle.state() == PluginState::Running);
        match running {
            // What was found of an earlier process says nothing of this one.
            Some(handle) if has_started || self.monitor.health(&name).is_none() => {
                self.watch(shared, name, handle);
            }
            Some(_) => {}
            None => {
                self.monitor.unwatch(&name);
            }
        }
    }

    fn watch(&self, shared: &Shared, name: String, handle: PluginHandle) {
        let id = handle.id().clone();
        let breaker = match self.settings.action {
            HealthAction::Breaker => shared.stacks.breaker_of(&handle),
            HealthAction::Tell | HealthAction::Restart => None,
        };
        let limit = self.settings.check.timeout;
        let check = move || {
            let handle = handle.clone();
            // One that does not run any more has another problem.
            async move { handle.check_health(limit).await.unwrap_or(Ok(())) }
        };
        let watched = match breaker {
            Some(breaker) => self.monitor.watch_breaker(name, breaker, check),
            None => self.monitor.watch(name, check),
        };
        if let Err(error) = watched {
            tracing::warn!(plugin = %id, %error, "a plugin's health is not watched");
        }
    }

    /// Puts what the checks say in a row over what the last one said.
    pub(crate) fn put_into(&self, plugins: &mut [PluginStatus]) {
        for status in plugins {
            if let Some(health) = self.monitor.health(&name(&status.id, &status.version)) {
                status.health.healthy = match health {
                    Health::Unknown => None,
                    Health::Healthy => Some(true),
                    Health::Unhealthy => Some(false),
                };
            }
        }
    }
}

impl Listener for Reactions {
    fn on_event(&self, event: &PolicyEvent) {
        let PolicyEvent::HealthChanged(change) = event else {
            return;
        };
        let Some((id, version)) = change.name.split_once('@') else {
            return;
        };
        let healthy = change.to == Health::Healthy;
        let reason = change.reason.as_deref().unwrap_or_default();
        self.bus.emit(Event::PluginHealthChanged {
            plugin: PluginId::new(id),
            version: version.into(),
            healthy,
            reason: reason.into(),
        });
        if !healthy && self.action == HealthAction::Restart {
            self.restart(change);
        }
    }
}

impl Reactions {
    fn restart(&self, change: &HealthChange) {
        let shared = self.shared.get().and_then(Weak::upgrade);
        let Some(handle) = shared.and_then(|shared| exactly(&shared, &change.name)) else {
            return;
        };
        let why = change.reason.as_deref().unwrap_or("it said nothing");
        let grace = self.grace;
        let reason = format!("restarted because it is not well: {why}");
        tokio::spawn(async move {
            if let Err(error) = handle.restart(grace, &reason).await {
                tracing::warn!(plugin = %handle.id(), %error, "a plugin that is not well was not restarted");
            }
        });
    }
}

/// The plugin and version of this [`name`], by a handle that no reload waits for.
fn exactly(shared: &Shared, name: &str) -> Option<PluginHandle> {
    let (id, version) = name.split_once('@')?;
    let version: Version = version.parse().ok()?;
    let only = Comparator {
        op: Op::Exact,
        major: version.major,
        minor: Some(version.minor),
        patch: Some(version.patch),
        pre: version.pre,
    };
    let range = VersionReq {
        comparators: vec![only],
    };
    let handle = shared.runtime.resolve(id, &range).ok()?;
    // What has no process between calls has nothing to ask.
    let is_asked = matches!(handle.manifest().kind, Kind::Node | Kind::Builtin);
    is_asked.then(|| handle.uncounted())
}

fn name(id: &str, version: impl Display) -> String {
    format!("{id}@{version}")
}

/// Plugins whose state has changed, and whether they have come to run.
#[derive(Default)]
struct Changed {
    plugins: Mutex<BTreeMap<String, bool>>,
    news: Notify,
}

impl Changed {
    fn note(&self, name: String, has_started: bool) {
        *self.lock().entry(name).or_default() |= has_started;
        self.news.notify_one();
    }

    fn take(&self) -> BTreeMap<String, bool> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears what the runtime tells, and nothing of calls.
struct Tap {
    bus: Bus,
    changed: Arc<Changed>,
}

impl EventSink for Tap {
    fn emit(&self, event: Event) {
        let state = match &event {
            Event::PluginStateChanged {
                plugin,
                version,
                state,
                ..
            } => Some((name(plugin.as_str(), version), *state)),
            _ => None,
        };
        self.bus.emit(event);
        if let Some((name, state)) = state {
            self.changed.note(name, state == PluginState::Running);
        }
    }
}
