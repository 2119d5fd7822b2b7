//! Why a plugin that is loaded does not run.

use miette::Diagnostic;
use thiserror::Error;

/// Why one loaded plugin did not start, or did not stop.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub(crate) enum LifecycleError {
    /// The plugin itself reported a failure, or ended, while it was
    /// initialised, started or stopped.
    #[error("{stage} plugin {id}: {message}")]
    #[diagnostic(
        code("ORC-3032"),
        help("the message is the plugin's own; `orchestrator plugin info {id}` shows its history")
    )]
    Hook {
        stage: &'static str,
        id: String,
        message: String,
    },

    /// The plugin says that it is not healthy, or does not say anything in
    /// time.
    #[error("plugin {id} health check failed: {message}")]
    #[diagnostic(code("ORC-3033"), help("the message is the plugin's own"))]
    Health { id: String, message: String },

    /// It hangs, or it waits for something slow.
    #[error("plugin {id} did not {action} within {limit:?}: timeout")]
    #[diagnostic(
        code("ORC-3034"),
        help("raise `runtime.{setting}`, or find out what the plugin waits for")
    )]
    TimedOut {
        id: String,
        action: &'static str,
        limit: std::time::Duration,
        setting: &'static str,
    },

    /// A plugin is started after those that it depends on, and one of them did
    /// not start.
    #[error("dependency {dependency} not running for plugin {id}")]
    #[diagnostic(
        code("ORC-3035"),
        help("{dependency} has its own error; mend that first")
    )]
    DependencyNotRunning { dependency: String, id: String },

    /// Before its first call an exec plugin is asked whether it can work here,
    /// and it said no.
    #[error("`validate` refused: {message}")]
    #[diagnostic(
        code("ORC-3040"),
        help("the message is what the plugin wrote to stderr")
    )]
    Validate { message: String },

    /// Before its first call an exec plugin is asked what it is. Mostly the
    /// program is older or newer than the manifest.
    #[error("`info` says something else than the manifest: {message}")]
    #[diagnostic(
        code("ORC-3041"),
        help(
            "manifest and program must state the same id, version and phases; build and sign the package again"
        )
    )]
    Info { message: String },

    /// The first frames of a node plugin state what it is. Mostly the program
    /// is older or newer than the manifest.
    #[error("the handshake says something else than the manifest: {message}")]
    #[diagnostic(
        code("ORC-3042"),
        help(
            "manifest and program must state the same id, version, phases and protocol; build and sign the package again"
        )
    )]
    Handshake { message: String },

    /// A node plugin that ends again and again is not started any more. The
    /// last end is told; `orchestrator plugin info` and the log tell of the
    /// others.
    #[error("it ended more than {limit} times within {window:?} of running, last: {last}")]
    #[diagnostic(
        code("ORC-3043"),
        help("mend the plugin, then have it tried again with `orchestrator plugin restart`")
    )]
    CrashLoop {
        limit: u32,
        window: std::time::Duration,
        last: String,
    },
}
