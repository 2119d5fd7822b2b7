//! Everything together: finds, loads, starts and stops plugins.

pub(crate) mod assemble;
mod limiting;
mod operate;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use orchestrator_contract::{EventSink, HostService, PluginState};
use orchestrator_manifest::Channel;
use semver::{Version, VersionReq};
use serde_json::Value;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    Builtin, DiscoveryFault, PluginHandle, PluginProblem, PluginStatus, ProblemClass, Reloaded,
    ResolveError, RuntimeError, RuntimeSettings, SearchPath,
    dependencies::Identity,
    entry::{Body, Entry},
    limits::Changes,
    load::{self, Rules},
    monitor::Monitor,
    registry::Registry,
    reload::Reload,
    settings::StartMode,
    violations::Violations,
    withdraw::{self, Papers},
};

use self::assemble::Surroundings;

/// How alike two names must be to be proposed, from 0 to 1.
const ALIKE: f64 = 0.75;

/// Where the runtime finds what it needs.
#[derive(Clone, Debug)]
pub struct RuntimePaths {
    /// Where plugins are looked for.
    pub search: SearchPath,
    /// Where package files that must have paths are put while the host lives; made
    /// when it is missing.
    pub run_dir: PathBuf,
    /// The trust store.
    pub trust_dir: PathBuf,
    /// What operators granted.
    pub grants_file: PathBuf,
    /// A lock file. Nothing is loaded unless exactly what it names would be.
    pub locked: Option<PathBuf>,
}

/// Finds, loads, starts and stops plugins. Dropping it ends every process and every
/// call at once; [`shutdown`](Self::shutdown) lets them finish.
pub struct Runtime {
    registry: Arc<Registry>,
    faults: Vec<DiscoveryFault>,
    warnings: Vec<String>,
    settings: RuntimeSettings,
    surroundings: Arc<Surroundings>,
    paths: RuntimePaths,
    monitor: AbortHandle,
    watch: AbortHandle,
    violations: Arc<Violations>,
}

impl RuntimePaths {
    pub(crate) fn papers(&self) -> Papers {
        Papers {
            trust_dir: self.trust_dir.clone(),
            grants_file: self.grants_file.clone(),
        }
    }
}

impl Runtime {
    /// [Loads](Self::load) every plugin, and [starts](Self::start_all) those that are
    /// to be started.
    ///
    /// # Errors
    ///
    /// Those of [`Self::load`].
    pub async fn start(
        settings: RuntimeSettings,
        paths: RuntimePaths,
        host_version: Version,
        plugin_config: BTreeMap<String, Value>,
        builtins: Vec<Builtin>,
        events: Arc<dyn EventSink>,
        host: Arc<dyn HostService>,
    ) -> Result<Self, RuntimeError> {
        let runtime = Self::load(
            settings,
            paths,
            host_version,
            plugin_config,
            builtins,
            events,
            host,
        );
        let runtime = runtime.await?;
        runtime.start_all().await;
        Ok(runtime)
    }

    /// Finds and loads every plugin below the search path, and starts none, so that
    /// some can be [disabled](Self::disable) before.
    ///
    /// A plugin that is refused is in state `error` with its reason, and the others go on. `plugin_config` holds configurations by plugin
    /// id. Needs a tokio runtime with I/O and time. Dropping the future takes back
    /// what it did.
    ///
    /// # Errors
    ///
    /// When trust or grants cannot be read, when two builtins are the same, and when
    /// what was found is not what the lock file names.
    pub async fn load(
        settings: RuntimeSettings,
        paths: RuntimePaths,
        host_version: Version,
        plugin_config: BTreeMap<String, Value>,
        builtins: Vec<Builtin>,
        events: Arc<dyn EventSink>,
        host: Arc<dyn HostService>,
    ) -> Result<Self, RuntimeError> {
        let warnings = paths.search.warnings.clone();
        let papers = paths.papers();
        let rules = Rules {
            host_version,
            config: plugin_config,
            unsigned_paths: settings.unsigned_paths.clone(),
            sandbox: settings.sandbox.clone(),
            policy: settings.monitor.policy.clone(),
            changes: Changes::default(),
        };
        let (of_load, paths) = (paths.clone(), paths);
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = load::load(&of_load, &rules, None);
            loaded.map(|loaded| (loaded, rules))
        });
        let loaded = loading
            .await
            .map_err(|source| RuntimeError::Interrupted { source })?;
        let (loaded, rules) = loaded?;
        let monitor = Monitor::new(settings.monitor.clone());
        let sampling = Monitor::run(Arc::downgrade(&monitor), settings.monitor.interval);
        let sampling = tokio::spawn(sampling).abort_handle();
        let violations = Violations::new(events, settings.monitor.violations_kept);
        let violations = Arc::new(violations);
        let surroundings = Surroundings {
            settings: settings.clone(),
            rules,
            events: Arc::clone(&violations) as Arc<dyn EventSink>,
            host,
            monitor,
        };
        let stamp = loaded.stamp.clone();
        let assembled = assemble::assemble(&surroundings, loaded, builtins)?;
        let registry = Arc::new(Registry::new(assembled.plugins));
        let watched = Arc::clone(&registry);
        let watching = withdraw::watch(papers, stamp, watched, settings.stop_timeout);
        Ok(Self {
            registry,
            faults: assembled.faults,
            warnings,
            settings,
            surroundings: Arc::new(surroundings),
            paths,
            monitor: sampling,
            violations,
            watch: tokio::spawn(watching).abort_handle(),
        })
    }

    /// Every plugin that was found, refused ones included, by id and version.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let plugins = self.registry.plugins();
        let entries = plugins.entries.values();
        entries.map(|entry| entry.status()).collect()
    }

    /// What could not be looked into or understood while plugins were searched.
    pub fn faults(&self) -> &[DiscoveryFault] {
        &self.faults
    }

    /// Why entries that one might expect are not in the search path.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// [`Self::resolve_in`] the channel that the settings name for the plugin, which
    /// is stable unless they do.
    ///
    /// # Errors
    ///
    /// Those of [`Self::resolve_in`].
    pub fn resolve(&self, id: &str, range: &VersionReq) -> Result<PluginHandle, ResolveError> {
        self.resolve_in(id, range, None)
    }

    /// The highest version of a plugin that matches `range` and is of a channel, from
    /// the first entry of the search path that has a match; what is compiled in comes
    /// before all of them. Pre-releases match only when the range names one.
    ///
    /// Stable are the releases that are meant for everybody; `Beta` means the newest of
    /// both. Where no match is of the channel, a deprecated one counts, and a beta one
    /// after that.
    ///
    /// The highest match of an entry decides also when it cannot run: who breaks a
    /// release must not bring an older one back. One that could not be verified is
    /// no more than a claim and decides for its own entry only, but a development
    /// entry never stands in for a broken installed plugin.
    ///
    /// # Errors
    ///
    /// When there is no such plugin or version, and with the plugin's own error when
    /// it is in state `error`.
    pub fn resolve_in(
        &self,
        id: &str,
        range: &VersionReq,
        channel: Option<Channel>,
    ) -> Result<PluginHandle, ResolveError> {
        let channel = channel.or_else(|| self.settings.channels.get(id).copied());
        let found = self.registry.with(|plugins| {
            let entry = plugins.meant(id, range, channel)?;
            Some(match entry.life.problem() {
                Some(problem) if entry.life.is_out_of_service() => {
                    Err(ResolveError::Unusable(problem))
                }
                _ => Ok(PluginHandle::new(entry)),
            })
        });
        let handle = found.unwrap_or_else(|| Err(self.not_found(id, range)))?;
        handle.tell_if_deprecated();
        Ok(handle)
    }

    /// Lets a plugin go on with what is installed now: verifies and loads it as at the
    /// start, starts it beside the version that serves, and lets it take that one's
    /// place and, where both know how, its state. No call fails for it. Calls and
    /// handles of the old version keep it until they end.
    ///
    /// While the state moves, new calls wait, at most for `reload.hold_max`. Reloads
    /// come one after the other. When the future is dropped, the reload goes on.
    ///
    /// # Errors
    ///
    /// When there is nothing to load, it is refused or does not start, its state cannot
    /// be moved, another plugin could not do with it, or the runtime is being stopped.
    /// The version that served goes on then, with its state.
    pub async fn reload(&self, id: &str) -> Result<Reloaded, RuntimeError> {
        let known = self.registry.with(|plugins| plugins.knows(id));
        let reload = Reload {
            registry: Arc::clone(&self.registry),
            surroundings: Arc::clone(&self.surroundings),
            paths: self.paths.clone(),
        };
        let reload = tokio::spawn(reload.run(id.to_owned()));
        let ended = reload
            .await
            .map_err(|source| RuntimeError::Interrupted { source })?;
        match ended {
            Err(RuntimeError::NotInstalled { id }) if !known => Err(RuntimeError::UnknownPlugin {
                nearest: self.nearest(&id),
                id,
            }),
            ended => ended,
        }
    }

    /// The usable plugins that provide `ability`, by id and version.
    pub fn providing(&self, ability: &str) -> Vec<PluginHandle> {
        self.usable(|entry| entry.manifest.provides.iter().any(|it| it.name == ability))
    }

    /// The usable plugins that are made for `domain`, by id and version.
    pub fn for_domain(&self, domain: &str) -> Vec<PluginHandle> {
        self.usable(|entry| entry.manifest.domains.iter().any(|it| it == domain))
    }

    /// Stops every plugin, dependants first, independent ones at the same time. No
    /// further calls are taken; those in flight have `grace` to end, all together.
    /// Stopped plugins stay listed. When the future is dropped, what it has not stopped
    /// yet is left to another call or to the runtime's own drop.
    ///
    /// # Errors
    ///
    /// What went wrong, for every plugin; all of them are stopped nevertheless.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), RuntimeError> {
        let until = Instant::now() + grace;
        let limit = self.settings.stop_timeout;
        let mut failures = Vec::new();
        self.registry.close();
        // Nothing depends on what was replaced.
        let aside = std::iter::once(self.registry.aside());
        for level in aside.chain(self.levels().into_iter().rev()) {
            let mut stopping = JoinSet::new();
            for entry in level {
                stopping.spawn(async move { entry.stop(until, limit).await });
            }
            while let Some(stopped) = stopping.join_next().await {
                match stopped {
                    Ok(Ok(())) => {}
                    Ok(Err(problem)) => failures.push(problem),
                    Err(error) => failures.push(PluginProblem {
                        class: ProblemClass::Failed,
                        code: "ORC-3031".to_owned(),
                        message: error.to_string(),
                        help: String::new(),
                    }),
                }
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(RuntimeError::Stop { failures }),
        }
    }

    /// Starts what is to be started with the runtime: builtins always, processes when
    /// the settings say so, and what is disabled not at all. One that does not start
    /// is in state `error` with its reason. Dropped midway, starts that have begun go
    /// on.
    pub async fn start_all(&self) {
        let eager = self.settings.start == StartMode::Eager;
        let mut starting = JoinSet::new();
        let plugins = self.registry.plugins();
        let in_order = plugins.order.iter();
        for entry in in_order.filter_map(|identity| plugins.entries.get(identity)) {
            let wanted = matches!(entry.body, Body::Builtin(_)) || (eager && entry.is_node());
            if wanted && entry.life.state() != PluginState::Disabled {
                entry.want();
                let entry = Arc::clone(entry);
                starting.spawn(async move {
                    if let Err(error) = entry.ready(None).await {
                        let plugin = &entry.id;
                        tracing::warn!(%plugin, %error, "a plugin did not start");
                    }
                });
            }
        }
        while starting.join_next().await.is_some() {}
    }

    /// Plugins that can start, in groups: each needs only plugins of groups before
    /// its own.
    fn levels(&self) -> Vec<Vec<Arc<Entry>>> {
        let plugins = self.registry.plugins();
        let mut level_of: BTreeMap<&Identity, usize> = BTreeMap::new();
        let mut levels: Vec<Vec<Arc<Entry>>> = Vec::new();
        for identity in &plugins.order {
            let Some(entry) = plugins.entries.get(identity) else {
                continue;
            };
            let needed = entry.dependencies();
            let below = needed.iter().filter_map(|needed| {
                let (identity, _) = plugins
                    .entries
                    .iter()
                    .find(|(_, it)| Arc::ptr_eq(it, needed))?;
                level_of.get(identity).copied()
            });
            let level = below.max().map_or(0, |below| below + 1);
            level_of.insert(identity, level);
            if levels.len() <= level {
                levels.resize_with(level + 1, Vec::new);
            }
            levels[level].push(Arc::clone(entry));
        }
        levels
    }

    fn usable(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<PluginHandle> {
        let is_wanted =
            |entry: &&Arc<Entry>| entry.life.state() != PluginState::Error && wanted(entry);
        self.registry.with(|plugins| {
            let usable = plugins.entries.values().filter(is_wanted);
            usable.map(PluginHandle::new).collect()
        })
    }

    fn versions(&self, id: &str) -> Result<Vec<Arc<Entry>>, RuntimeError> {
        let versions = self.registry.with(|plugins| plugins.operated(id));
        match versions.is_empty() {
            true => Err(RuntimeError::UnknownPlugin {
                id: id.to_owned(),
                nearest: self.nearest(id),
            }),
            false => Ok(versions),
        }
    }

    fn not_found(&self, id: &str, range: &VersionReq) -> ResolveError {
        let plugins = self.registry.plugins();
        let versions = plugins.versions(id);
        let available: Vec<_> = versions
            .map(|entry| entry.manifest.version.clone())
            .collect();
        if !available.is_empty() {
            let (id, range) = (id.to_owned(), range.clone());
            return ResolveError::NoVersion {
                id,
                range,
                available,
            };
        }
        // A package whose manifest cannot be read is known by its directory.
        let of_directory = self.faults.iter().find(|fault| {
            let mut names = fault.path.iter().rev().take(2);
            names.any(|name| name == id)
        });
        match of_directory {
            Some(fault) => ResolveError::Unusable(fault.problem.clone()),
            None => ResolveError::UnknownPlugin {
                id: id.to_owned(),
                nearest: self.nearest(id),
            },
        }
    }

    fn nearest(&self, id: &str) -> Option<String> {
        let plugins = self.registry.plugins();
        let ids = plugins.entries.keys();
        ids.map(|identity| (strsim::jaro_winkler(&identity.id, id), &identity.id))
            .filter(|(likeness, _)| *likeness >= ALIKE)
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, id)| id.clone())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.monitor.abort();
        self.watch.abort();
        self.registry.close();
        for entry in self.registry.all() {
            entry.close();
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plugins = self.registry.plugins();
        let entries = plugins.entries.values();
        let states = entries.map(|entry| (&entry.id, entry.life.state()));
        out.debug_map().entries(states).finish()
    }
}
