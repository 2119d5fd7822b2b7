//! From a description to a running engine.

use std::{
    collections::BTreeMap,
    mem,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use orchestrator_contract::{EventSink, HostService, NoHost};
use orchestrator_observability::{Build, Telemetry};
use orchestrator_plugin_runtime::{
    Builtin, Runtime, RuntimePaths, SearchPath, SecurityValidator, Validator,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Engine, Shared, plugins, private_dir, strays::strays};
use crate::{
    builtin,
    bus::Bus,
    config::{Config, Sources},
    disabled::Disabled,
    error::EngineError,
    health::HealthWatch,
    history::RunHistory,
    home::Home,
    session::Sessions,
    stack::Stacks,
};

/// Describes an engine; [`EngineBuilder::start`] makes it.
#[derive(Default)]
pub struct EngineBuilder {
    home: Option<Home>,
    config: Option<Config>,
    builtins: Vec<Builtin>,
    sinks: Vec<Arc<dyn EventSink>>,
    telemetry: Option<Arc<Telemetry>>,
    plugin_dirs: Vec<PathBuf>,
    locked: Option<PathBuf>,
    service: bool,
    validator: Option<Validator>,
}

impl EngineBuilder {
    /// Keeps everything below one directory.
    ///
    /// # Errors
    ///
    /// When the path is not absolute.
    pub fn home(self, root: impl Into<PathBuf>) -> Result<Self, EngineError> {
        Ok(self.at(Home::at(root)?))
    }

    /// Keeps everything where `home` says.
    #[must_use]
    pub fn at(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// Uses this configuration instead of reading the home's file and the
    /// environment.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Adds a plugin that is compiled in.
    #[must_use]
    pub fn builtin(mut self, builtin: Builtin) -> Self {
        self.builtins.push(builtin);
        self
    }

    /// Tells `sink` of every event, before anybody else.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Asks `validator` before a plugin gets what it was granted: rules of the embedding
    /// program, that can only take away.
    #[must_use]
    pub fn validator(mut self, validator: Arc<dyn SecurityValidator>) -> Self {
        self.validator = Some(Validator::new(validator));
        self
    }

    /// Uses these metrics instead of its own.
    #[must_use]
    pub fn telemetry(mut self, telemetry: Arc<Telemetry>) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// Looks for plugins here before anywhere else.
    #[must_use]
    pub fn plugin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.plugin_dirs.push(dir.into());
        self
    }

    /// Starts only if exactly the packages that this lock file names are found,
    /// wherever that is, and they may do what they might when it was written.
    #[must_use]
    pub fn locked(mut self, lock_file: impl Into<PathBuf>) -> Self {
        self.locked = Some(lock_file.into());
        self
    }

    /// Is a long-running service: plugins below the working directory are not
    /// looked for.
    #[must_use]
    pub fn service(mut self) -> Self {
        self.service = true;
        self
    }

    /// Opens the journal, verifies the plugins and takes runs. Does not resume
    /// open runs; see [`Engine::resume_all`].
    ///
    /// # Errors
    ///
    /// When home, configuration or journal cannot be used, it is unknown whom to
    /// trust, or the plugins are not those that are [locked](Self::locked). A single plugin that cannot be used is no error; it is
    /// listed by [`Engine::plugins`].
    pub async fn start(mut self) -> Result<Engine, EngineError> {
        let (home, config) = self.settled()?;
        let telemetry = self.telemetry.take().unwrap_or_else(|| {
            Arc::new(Telemetry::new(Build {
                version: env!("CARGO_PKG_VERSION"),
            }))
        });
        let mut sinks = mem::take(&mut self.sinks);
        sinks.push(Arc::new(telemetry.recorder()));
        let bus = Bus::new(sinks);
        let history = RunHistory::open_with(&home, &config.journal, Arc::new(bus.clone())).await?;
        let sessions = Sessions::new(history.sqlite(), config.session.clone());
        let health = HealthWatch::new(config.health.clone(), bus.clone())?;
        let (events, host) = (health.tap(bus.clone()), Arc::new(sessions.clone()));
        let (runtime, warnings) = self.runtime(&home, &config, events, host).await?;
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            journal: history.journal(),
            stacks: Stacks::new(bus.clone(), Arc::clone(&config), Arc::clone(&telemetry)),
            places: Arc::new(Semaphore::new(config.run.in_flight_max.get())),
            config,
            runtime,
            disabled: Mutex::new(Disabled::of(&home)),
            health,
            bus,
            telemetry,
            active: history.active().clone(),
            history,
            warnings,
            accepting: AtomicBool::new(true),
            drivers: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        Ok(Engine::alive(shared, sessions))
    }

    /// Finds and verifies the plugins as [`Self::start`] does, to be looked at:
    /// no journal is opened, so none can be called. Also returns what
    /// [`Engine::warnings`] would say.
    ///
    /// # Errors
    ///
    /// Those of [`Self::start`], but for the journal's.
    pub async fn plugins(mut self) -> Result<(Runtime, Vec<String>), EngineError> {
        let (home, config) = self.settled()?;
        let events = Arc::new(Bus::new(mem::take(&mut self.sinks)));
        self.runtime(&home, &config, events, Arc::new(NoHost)).await
    }

    /// Where everything lies, and what an operator has set.
    fn settled(&mut self) -> Result<(Home, Config), EngineError> {
        let home = match self.home.take() {
            Some(home) => home,
            None => Home::resolve(None, &|name: &str| std::env::var_os(name))?,
        };
        let mut config = match self.config.take() {
            Some(config) => {
                config.validate()?;
                config
            }
            None => Config::load(&Sources {
                user_file: Some(home.config_file().to_owned()),
                ..Sources::default()
            })?,
        };
        if let Some(validator) = self.validator.take() {
            config.runtime.sandbox.validator = Some(validator);
        }
        Ok((home, config))
    }

    /// Starts what runs plugins. Also returns what an operator should know: sections of
    /// the configuration that name none of them, and what disables one in an odd way.
    async fn runtime(
        mut self,
        home: &Home,
        config: &Config,
        events: Arc<dyn EventSink>,
        host: Arc<dyn HostService>,
    ) -> Result<(Runtime, Vec<String>), EngineError> {
        self.builtins.push(builtin::template()?);
        let extra = config.discovery.extra.iter().cloned();
        let extra = extra.chain(self.plugin_dirs).collect();
        let runtime = Runtime::load(
            config.runtime.clone(),
            paths(home, extra, self.locked, self.service)?,
            host_version(),
            plugin_configs(config),
            self.builtins,
            events,
            host,
        )
        .await?;
        let of_config = config.plugins.iter();
        for (name, _) in of_config.filter(|(_, plugin)| plugin.disabled) {
            runtime.keep_disabled(name);
        }
        let disabled = Disabled::of(home);
        plugins::disable(&runtime, &disabled)?;
        // What is disabled must not run, not even to start.
        runtime.start_all().await;
        let mut warnings = strays(&config.plugins, &runtime.plugins());
        warnings.extend(disabled.strange()?.iter().map(ToString::to_string));
        for warning in &warnings {
            // A target of their own, for whoever tells them in other words.
            tracing::warn!(target: "warnings", "{warning}");
        }
        Ok((runtime, warnings))
    }
}

impl Engine {
    /// Starts the background tasks, which end with the last clone.
    fn alive(shared: Arc<Shared>, sessions: Sessions) -> Self {
        let alive = CancellationToken::new();
        tokio::spawn(Arc::clone(&shared).watch_inbox(alive.clone()));
        tokio::spawn(Arc::clone(&shared).sweep_journal(alive.clone()));
        tokio::spawn(Arc::clone(&shared).revive_runs(alive.clone()));
        tokio::spawn(HealthWatch::run(Arc::clone(&shared), alive.clone()));
        let ended = alive.clone();
        tokio::spawn(async move { ended.run_until_cancelled(sessions.keep_swept()).await });
        let stop = shared.stop.clone();
        let ended = alive.clone();
        tokio::spawn(async move {
            ended.cancelled().await;
            stop.cancel();
        });
        Self {
            shared,
            _alive: Arc::new(alive.drop_guard()),
        }
    }
}

/// Where the runtime looks and keeps things.
fn paths(
    home: &Home,
    extra: Vec<PathBuf>,
    locked: Option<PathBuf>,
    service: bool,
) -> Result<RuntimePaths, EngineError> {
    // With a home of its own nothing of the user's other plugins is mixed in.
    let explicit = home.is_explicit();
    let env = move |name: &str| match name {
        "HOME" | "XDG_DATA_HOME" | "XDG_CONFIG_HOME" if explicit => None,
        name => std::env::var_os(name),
    };
    let mut search = SearchPath::documented(&home.plugins(), service, extra, &env);
    if explicit {
        search.warnings.clear();
    }
    for warning in &search.warnings {
        tracing::warn!(%warning, "a plugin directory is left out");
    }
    private_dir(&home.run_dir()).map_err(|error| EngineError::HomeUnusable {
        path: home.run_dir(),
        error,
    })?;
    Ok(RuntimePaths {
        search,
        run_dir: home.run_dir(),
        trust_dir: home.trust(),
        grants_file: home.grants_file(),
        locked,
    })
}

fn plugin_configs(config: &Config) -> BTreeMap<String, serde_json::Value> {
    let of = |(name, plugin): (&String, &crate::config::PluginConfig)| {
        (name.clone(), plugin.config.clone())
    };
    config
        .plugins
        .iter()
        .filter(|(_, plugin)| !plugin.config.is_null())
        .map(of)
        .collect()
}

/// The version that plugins may ask for.
fn host_version() -> semver::Version {
    semver::Version::new(
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    )
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}
