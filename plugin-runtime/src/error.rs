//! What operators and authors can do wrong, each with a code and a way out.

mod lifecycle;

use std::path::PathBuf;

use miette::Diagnostic;
use orchestrator_contract::PluginState;
use orchestrator_signing::LockFileError;
use semver::{Version, VersionReq};
use thiserror::Error;

pub(crate) use self::lifecycle::LifecycleError;
use crate::{LimitRefusal, PluginProblem, ProblemClass, lifecycle::Illegal};

/// Why the runtime does not start, or does not do what an operator asked.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The keys that plugins are verified with cannot be read.
    #[error("the trust store {} cannot be used", path.display())]
    #[diagnostic(
        code("ORC-3001"),
        help(
            "no plugin is loaded while it is unknown whom to trust: restore the directory, or move it away and trust your keys again with `orchestrator trust add`"
        )
    )]
    Trust {
        /// The trust directory.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Diagnostic + Send + Sync>,
    },
    /// What operators granted cannot be read.
    #[error("the grants in {} cannot be used", path.display())]
    #[diagnostic(
        code("ORC-3002"),
        help(
            "no plugin is loaded while it is unknown what it may do: restore the file, or remove it and grant again"
        )
    )]
    Grants {
        /// The grants file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Diagnostic + Send + Sync>,
    },
    /// See [`LockFileError`].
    #[error(transparent)]
    #[diagnostic(transparent)]
    Locked(#[from] LockFileError),
    /// Two plugins compiled into the host have the same id and version.
    #[error("plugin {id} {version} already registered")]
    #[diagnostic(
        code("ORC-3003"),
        help("a builtin's id and version are unique: change one of them, or register it once")
    )]
    AlreadyRegistered {
        /// The plugin.
        id: String,
        /// Its version.
        version: Version,
    },
    /// The manifest of a builtin is of another kind.
    #[error("plugin {id} is compiled in but its manifest says kind {kind}")]
    #[diagnostic(code("ORC-3004"), help("write `kind: builtin` in its manifest"))]
    NotBuiltin {
        /// The plugin.
        id: String,
        /// The kind that its manifest states.
        kind: &'static str,
    },
    /// No such plugin is registered.
    #[error("no plugin is called `{id}`{}", nearest_hint(nearest.as_deref()))]
    #[diagnostic(
        code("ORC-3050"),
        help("`orchestrator plugin list` shows every plugin")
    )]
    UnknownPlugin {
        /// What was asked for.
        id: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
    /// What was to be loaded is refused, with its own code.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(PluginProblem),
    /// There is no package of the plugin any more.
    #[error("no package of plugin {id} is found")]
    #[diagnostic(
        code("ORC-3052"),
        help("what is loaded goes on; install a release with `orchestrator plugin install`")
    )]
    NotInstalled {
        /// The plugin.
        id: String,
    },
    /// What is compiled in changes with the host.
    #[error("plugin {id} is compiled into the host and cannot be reloaded")]
    #[diagnostic(
        code("ORC-3053"),
        help(
            "another one comes with another host; `orchestrator plugin restart {id}` starts this one again"
        )
    )]
    CompiledIn {
        /// The plugin.
        id: String,
    },
    /// The new release was started beside the old one and did not come up.
    #[error("{id} {version} did not start: {message}")]
    #[diagnostic(
        code("ORC-3054"),
        help(
            "what served before goes on; the log has what the new one wrote, and `orchestrator plugin rollback {id}` takes it out of use"
        )
    )]
    NotStarted {
        /// The plugin.
        id: String,
        /// The version that was to serve.
        version: Version,
        /// What went wrong.
        message: String,
    },
    /// The old version's calls went on for too long for the others to wait.
    #[error(
        "{calls} calls of plugin {id} did not end within {limit:?}, so its state stays where it is"
    )]
    #[diagnostic(
        code("ORC-3055"),
        help(
            "what served before goes on; try when there is less to do, or raise `runtime.reload.hold_max`"
        )
    )]
    StillBusy {
        /// The plugin.
        id: String,
        /// How many calls.
        calls: u64,
        /// How long they were waited for.
        limit: std::time::Duration,
    },
    /// The old version did not give its state, or the new one did not take it.
    #[error("the state of plugin {id} was not moved to {version}: {message}")]
    #[diagnostic(
        code("ORC-3056"),
        help("what served before goes on with its state; the message is the plugin's own")
    )]
    StateNotMoved {
        /// The plugin.
        id: String,
        /// The version that was to serve.
        version: Version,
        /// What went wrong.
        message: String,
    },
    /// Another plugin needs a version that would no longer be there.
    #[error("with what is installed of {id}, plugin {dependant} could not go on: {reason}")]
    #[diagnostic(
        code("ORC-3057"),
        help(
            "install a version of {id} that {dependant} can do with, or another release of {dependant}"
        )
    )]
    Needed {
        /// The plugin.
        id: String,
        /// The one that needs it.
        dependant: String,
        /// What it would lack.
        reason: String,
    },
    /// Runs that began with earlier versions go on for long.
    #[error("{count} earlier versions of plugin {id} are still in use")]
    #[diagnostic(
        code("ORC-3058"),
        help(
            "wait until the runs have ended that began with them; `orchestrator run list --status running` shows them"
        )
    )]
    TooManyInUse {
        /// The plugin.
        id: String,
        /// How many.
        count: usize,
    },
    /// Nothing new is begun any more.
    #[error("plugin {id} is not reloaded while everything is being stopped")]
    #[diagnostic(code("ORC-3059"), help("the next start loads what is installed"))]
    Closing {
        /// The plugin.
        id: String,
    },
    /// The plugin is in a state in which this cannot be done.
    #[error("plugin {id} is {} and cannot become {}", from.as_str(), to.as_str())]
    #[diagnostic(
        code("ORC-3030"),
        help("`orchestrator plugin info` shows how it came to this state")
    )]
    IllegalTransition {
        /// The plugin.
        id: String,
        /// The state it is in.
        from: PluginState,
        /// The state it was to have.
        to: PluginState,
    },
    /// Work was handed to a thread that did not come back.
    #[error("loading plugins was interrupted")]
    #[diagnostic(
        code("ORC-3005"),
        help("the host is shutting down, or loading panicked: see its log")
    )]
    Interrupted {
        /// What became of the thread.
        source: tokio::task::JoinError,
    },
    /// A plugin was ended to be started again, and did not start.
    #[error("plugin {id} did not start again: {message}")]
    #[diagnostic(
        code("ORC-3044"),
        help(
            "`orchestrator plugin status {id}` shows what became of it, `orchestrator plugin logs {id}` what it wrote"
        )
    )]
    NotRestarted {
        /// The plugin.
        id: String,
        /// Why not.
        message: String,
    },
    /// Plugins did not stop as they should.
    #[error("{} of the plugins did not stop as they should: {}", failures.len(), listed(failures))]
    #[diagnostic(
        code("ORC-3031"),
        help("every process is gone; what a plugin left outside the host may need a look")
    )]
    Stop {
        /// What went wrong, one for each plugin.
        failures: Vec<PluginProblem>,
    },
    /// Limits of a plugin were not changed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Limit(#[from] LimitRefusal),
}

/// Why no plugin answers to an id and a range of versions.
#[derive(Clone, Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum ResolveError {
    /// No such plugin is registered.
    #[error("no plugin is called `{id}`{}", nearest_hint(nearest.as_deref()))]
    #[diagnostic(
        code("ORC-3050"),
        help(
            "`orchestrator plugin list` shows every plugin, `orchestrator plugin install` adds one"
        )
    )]
    UnknownPlugin {
        /// What was asked for.
        id: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
    /// The plugin is there, but in other versions.
    #[error(
        "no version of plugin {id} matches {range}; there is {}",
        listed(available)
    )]
    #[diagnostic(
        code("ORC-3051"),
        help(
            "install a version that matches, or ask for another range; a pre-release matches only when it is asked for"
        )
    )]
    NoVersion {
        /// The plugin.
        id: String,
        /// The versions asked for.
        range: VersionReq,
        /// The versions there are, ascending.
        available: Vec<Version>,
    },
    /// The plugin was found and cannot run.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Unusable(PluginProblem),
}

/// Why one plugin is not loaded.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub(crate) enum LoadError {
    /// The manifest states the oldest version of Orchestrator that the plugin
    /// works with.
    #[error("it needs Orchestrator {needed} or later, this is {host}")]
    #[diagnostic(
        code("ORC-3010"),
        help("update Orchestrator, or install an older version of the plugin")
    )]
    HostTooOld { needed: Version, host: Version },

    /// The manifest names a feature under its requirements that this build
    /// lacks.
    #[error("it needs the feature `{feature}`, which this build does not have")]
    #[diagnostic(code("ORC-3015"), help("this build has: {}", crate::load::FEATURES.join(", ")))]
    MissingFeature { feature: String },

    /// The kind is known, and this build has nothing that runs it.
    #[error("this build does not run kind {kind}")]
    #[diagnostic(code("ORC-3016"), help("it runs the kinds builtin, exec and node"))]
    KindNotRun { kind: &'static str },

    /// A manifest in a search directory says `kind: builtin`.
    #[error("a package cannot be of kind builtin: builtins are compiled into the host")]
    #[diagnostic(
        code("ORC-3017"),
        help("give the package another kind, or compile the plugin into the host")
    )]
    PackagedBuiltin,

    /// A package has the name of a plugin that is compiled into the host.
    #[error("a plugin of this name is compiled into the host, and no package takes its place")]
    #[diagnostic(
        code("ORC-3025"),
        help(
            "remove it with `orchestrator plugin remove`; its publisher has to give it another name"
        )
    )]
    NameOfBuiltin,

    /// The key that signed the package is trusted less than when the plugin was
    /// started. A process cannot be confined more than it is, so it was stopped.
    #[error("its key has trust level {level} now, and it runs with less confinement than that")]
    #[diagnostic(
        code("ORC-3018"),
        help("restart the host, and it is started confined as its trust level asks for")
    )]
    LessTrusted { level: u8 },

    /// It still has all that it asks for, but not all that it was started with.
    /// What it was told at its start cannot be taken back, so it was stopped.
    #[error("it was started with more than it is granted now: {capabilities}")]
    #[diagnostic(
        code("ORC-3024"),
        help("restart the host, and it is started with what is left")
    )]
    Narrowed { capabilities: String },

    /// The program that embeds the runtime has rules beside the grants.
    #[error("capability {capability} not allowed: {reason}")]
    #[diagnostic(
        code("ORC-3081"),
        help(
            "it was granted, and the program that runs the engine denies it: ask whoever runs that"
        )
    )]
    Vetoed { capability: String, reason: String },

    /// The manifest asks for a limit that nothing here could hold the plugin
    /// to, and a limit that is not held would mislead.
    #[error("`{key}` = {value} cannot be enforced: {why}")]
    #[diagnostic(
        code("ORC-3019"),
        help(
            "leave the limit out, or let the host have what holds it: `orchestrator plugin doctor` shows what that is"
        )
    )]
    LimitNotEnforceable {
        key: &'static str,
        value: u32,
        why: &'static str,
    },

    /// The manifest of a plugin that is compiled into the host asks for a limit.
    /// It shares the host's process, so nothing could hold it to that.
    #[error("`{key}` = {value} cannot be enforced for builtins")]
    #[diagnostic(
        code("ORC-3020"),
        help("leave the limit out, or make the plugin a program of kind exec or node")
    )]
    BuiltinLimit { key: &'static str, value: u32 },

    /// The section `plugins.<name>.config` does not pass the schema in the
    /// manifest.
    #[error("its configuration does not fit its schema: {faults}")]
    #[diagnostic(
        code("ORC-3021"),
        help("mend the plugin's section of the configuration")
    )]
    Config { faults: String },

    /// Somebody wrote to the package between reading the manifest and verifying
    /// the files.
    #[error("its manifest changed while it was loaded")]
    #[diagnostic(
        code("ORC-3023"),
        help("wait until the package is written, then start again")
    )]
    Changed,

    /// The manifest names a file that the package does not have.
    #[error("its entry point {entry} is not in the package")]
    #[diagnostic(code("ORC-3022"), help("name a file of the package in `entry_point`"))]
    NoEntry { entry: String },

    /// The manifest lists it under `dependencies`, and no package of that name
    /// is found.
    #[error("it depends on {dependency}, which is not there")]
    #[diagnostic(code("ORC-3011"), help("install {dependency}"))]
    MissingDependency { dependency: String },

    /// The manifest lists a range, and what is installed lies outside of it.
    #[error(
        "it depends on {dependency} {range}, and there is {}",
        listed(available)
    )]
    #[diagnostic(
        code("ORC-3012"),
        help("install a version of {dependency} that matches {range}")
    )]
    DependencyOutOfRange {
        dependency: String,
        range: VersionReq,
        available: Vec<Version>,
    },

    /// Plugins that wait for each other could never start.
    #[error("dependency cycle detected: {}", path.join(" -> "))]
    #[diagnostic(code("ORC-3013"), help("remove one of these dependencies"))]
    DependencyCycle { path: Vec<String> },

    /// The error of the dependency is the one to look at.
    #[error("it depends on {dependency}, which is not usable: {reason}")]
    #[diagnostic(code("ORC-3014"), help("mend {dependency} first; its code is {code}"))]
    DependencyUnusable {
        dependency: String,
        code: String,
        reason: String,
    },
}

impl LoadError {
    /// What sort of problem it is.
    pub(crate) fn class(&self) -> ProblemClass {
        match self {
            Self::LessTrusted { .. } | Self::Narrowed { .. } | Self::Vetoed { .. } => {
                ProblemClass::Denied
            }
            Self::Changed => ProblemClass::Trust,
            Self::MissingDependency { .. } | Self::DependencyOutOfRange { .. } => {
                ProblemClass::NotFound
            }
            Self::PackagedBuiltin
            | Self::NameOfBuiltin
            | Self::LimitNotEnforceable { .. }
            | Self::BuiltinLimit { .. }
            | Self::Config { .. }
            | Self::NoEntry { .. }
            | Self::DependencyCycle { .. } => ProblemClass::Invalid,
            Self::HostTooOld { .. }
            | Self::MissingFeature { .. }
            | Self::KindNotRun { .. }
            | Self::DependencyUnusable { .. } => ProblemClass::Failed,
        }
    }
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| {
        format!("; did you mean `{nearest}`?")
    })
}

fn listed<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

impl RuntimeError {
    pub(crate) fn illegal(id: &str, illegal: Illegal) -> Self {
        Self::IllegalTransition {
            id: id.to_owned(),
            from: illegal.from,
            to: illegal.to,
        }
    }
}
