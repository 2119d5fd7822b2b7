//! Why the engine did not do what it was asked.

use miette::Diagnostic;
use orchestrator_contract::RunId;
use orchestrator_manifest::ManifestError;
use orchestrator_plugin_runtime::{ProblemClass, ResolveError, RuntimeError};
use thiserror::Error;

use crate::{
    config::ConfigError,
    home::HomeError,
    journal::{AppendError, JournalError},
    pipeline::{PipelineErrors, words::quoted},
};

/// Why the engine did not do what it was asked. A run that *failed* is not an
/// error: its [`RunReport`](crate::RunReport) says so.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum EngineError {
    /// See [`HomeError`].
    #[error(transparent)]
    #[diagnostic(transparent)]
    Home(#[from] HomeError),

    /// See [`ConfigError`].
    #[error(transparent)]
    #[diagnostic(transparent)]
    Config(#[from] ConfigError),

    /// A plugin that is compiled in has a manifest that does not fit.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Manifest(#[from] ManifestError),

    /// The plugins could not be looked at.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Runtime(#[from] RuntimeError),

    /// The journal could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),

    /// The pipeline cannot be run.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pipeline(#[from] PipelineErrors),

    /// A plugin that the pipeline needs cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plugin(#[from] ResolveError),

    /// The pipeline has no such step. The step was misspelt, or the run is of
    /// an older pipeline.
    #[error("the pipeline of run {run} has no step {}", quoted(step))]
    #[diagnostic(
        code("ORC-4002"),
        help("`orchestrator run show {run}` lists its steps")
    )]
    UnknownStep {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
    },

    /// A driver of this engine works on the run. It cannot be resumed or
    /// retried as long as it goes on.
    #[error("run {run} is being driven by this engine")]
    #[diagnostic(code("ORC-4003"), help("watch it with `orchestrator run watch {run}`"))]
    AlreadyDriven {
        /// The run.
        run: RunId,
    },

    /// The input cannot be written as JSON.
    #[error("the input cannot be used: {message}")]
    #[diagnostic(code("ORC-4004"), help("the input is a JSON object"))]
    Input {
        /// What is wrong.
        message: String,
    },

    /// A text of a request is too long, empty, or has characters that a
    /// plugin's environment, a label or a log line cannot have.
    #[error("the {what} cannot be used: {problem}")]
    #[diagnostic(
        code("ORC-4012"),
        help("a {what} has 1 to {limit} bytes and no control characters, line breaks included")
    )]
    Text {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
        /// The most bytes it may have.
        limit: usize,
    },

    /// A directory of the home cannot be used. It belongs to another user, or
    /// its file system is full or read-only.
    #[error("cannot use `{}`: {error}", .path.display())]
    #[diagnostic(
        code("ORC-4005"),
        help("the engine needs to create and write this directory")
    )]
    HomeUnusable {
        /// The directory.
        path: std::path::PathBuf,
        /// What failed.
        error: std::io::Error,
    },

    /// As many runs are in flight as may be. Runs arrive faster than they end.
    #[error("{limit} runs are in flight already")]
    #[diagnostic(
        code("ORC-4006"),
        help("try again later, or raise `run.in_flight_max`")
    )]
    Busy {
        /// How many may be in flight.
        limit: usize,
    },

    /// The engine is being stopped and takes nothing new.
    #[error("the engine is draining and takes no new runs")]
    #[diagnostic(code("ORC-4007"), help("try again once it has been started again"))]
    Draining,

    /// The engine stopped before the run ended. The run can be resumed.
    #[error("the engine stopped before run {run} ended")]
    #[diagnostic(
        code("ORC-4008"),
        help("continue it with `orchestrator run resume {run}`")
    )]
    Interrupted {
        /// The run.
        run: RunId,
    },

    /// A step's policy overrides do not fit. An unknown key or policy, or a
    /// value that cannot work.
    #[error("the policy of step `{step}` does not fit: {message}")]
    #[diagnostic(
        code("ORC-4009"),
        help(
            "a step may override `deadline` and, of `retry`, `max_attempts`, `base_delay`, `max_delay` and `jitter`"
        )
    )]
    StepPolicy {
        /// The step.
        step: String,
        /// What is wrong.
        message: String,
    },

    /// What a step falls back to cannot be used. The operator has left
    /// `fallback` out of the policies of the step's plugin, or the phase that it
    /// falls back to may happen only once.
    #[error("step `{step}` cannot fall back: {message}")]
    #[diagnostic(
        code("ORC-4016"),
        help(
            "a step falls back to a value, to a phase that is pure or idempotent, or to its last good result; `orchestrator config show policy.stack` tells whether it may"
        )
    )]
    StepFallback {
        /// The step.
        step: String,
        /// What is wrong.
        message: String,
    },

    /// The journal does not encrypt outputs yet, so it must not have this one.
    #[error("phase `{phase}` of `{plugin}` marks its output as sensitive")]
    #[diagnostic(
        code("ORC-4011"),
        help(
            "this build does not encrypt outputs at rest and refuses what asks for it; let the phase return a reference to a secret store instead"
        )
    )]
    SensitiveOutput {
        /// The plugin.
        plugin: String,
        /// The phase.
        phase: String,
    },

    /// Nobody knows whether the step happened, and it may happen only once. An
    /// engine stopped while it ran, its run was cancelled meanwhile, or its
    /// plugin gave no answer that says so: it crashed, or was too late.
    #[error("step {} of run {run} may have happened already", quoted(step))]
    #[diagnostic(
        code("ORC-4013"),
        help(
            "find out, then say so with `orchestrator run resolve {run} {step} --done` or `--not-done`; to repeat it whatever happened, name it with `orchestrator run retry {run} --from {step}`"
        )
    )]
    InDoubt {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
    },

    /// There is nothing to decide about the step. It has a result, failed, or
    /// was not run.
    #[error("what became of step {} of run {run} is not in doubt", quoted(step))]
    #[diagnostic(
        code("ORC-4014"),
        help("`orchestrator run show {run}` tells what became of each step")
    )]
    NotInDoubt {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
    },

    /// Every step of the run succeeded or was skipped.
    #[error("run {run} has no step that did not succeed")]
    #[diagnostic(
        code("ORC-4015"),
        help("name the step to begin with: `orchestrator run retry {run} --from STEP`")
    )]
    NothingToRetry {
        /// The run.
        run: RunId,
    },

    /// The section `plugins.<name>` of the configuration says `disabled = true`, and
    /// would disable it again with the next start.
    #[error("plugin {id} is disabled by the configuration")]
    #[diagnostic(
        code("ORC-4017"),
        help("take `disabled` out of `plugins.{id}`, then start the engine again")
    )]
    DisabledByConfig {
        /// The plugin.
        id: String,
    },

    /// Each file in the directory `disabled` of the home keeps the plugin of its name from
    /// taking calls. What is no file does so too, and was not put there by a command.
    #[error("`{}` is {what}, which keeps plugin {id} disabled", .path.display())]
    #[diagnostic(
        code("ORC-4018"),
        help("look what it is and remove it; then `orchestrator plugin enable {id}`")
    )]
    StrangeRecord {
        /// The plugin.
        id: String,
        /// Where it lies.
        path: std::path::PathBuf,
        /// What lies there.
        what: &'static str,
    },

    /// A run that is resumed was started with a plugin that has changed since.
    #[error(
        "run {run} was started with `{plugin}` {version}, which is no longer installed as it was"
    )]
    #[diagnostic(
        code("ORC-4010"),
        help("install that version again, or cancel the run and start a new one")
    )]
    PluginChanged {
        /// The run.
        run: RunId,
        /// The plugin.
        plugin: String,
        /// The version the run is bound to.
        version: String,
    },
}

/// What sort of failure it is, for exit statuses and HTTP statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Configuration, manifest, pipeline or input is wrong.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// Something was not granted.
    Denied,
    /// A signature or a trust rule failed.
    Trust,
    /// The state does not allow it.
    Conflict,
    /// Too much to do, or nothing can be written now; try again later.
    Busy,
    /// It failed.
    Failed,
}

impl From<ProblemClass> for ErrorClass {
    fn from(class: ProblemClass) -> Self {
        match class {
            ProblemClass::Invalid => Self::Invalid,
            ProblemClass::Denied => Self::Denied,
            ProblemClass::Trust => Self::Trust,
            ProblemClass::NotFound => Self::NotFound,
            _ => Self::Failed,
        }
    }
}

impl EngineError {
    /// What sort of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Home(_)
            | Self::Config(_)
            | Self::Manifest(_)
            | Self::Pipeline(_)
            | Self::StepPolicy { .. }
            | Self::StepFallback { .. }
            | Self::SensitiveOutput { .. }
            | Self::Text { .. }
            | Self::Input { .. } => ErrorClass::Invalid,
            Self::UnknownStep { .. }
            | Self::Runtime(
                RuntimeError::UnknownPlugin { .. } | RuntimeError::NotInstalled { .. },
            ) => ErrorClass::NotFound,
            Self::AlreadyDriven { .. }
            | Self::DisabledByConfig { .. }
            | Self::StrangeRecord { .. }
            | Self::Runtime(
                RuntimeError::IllegalTransition { .. }
                | RuntimeError::CompiledIn { .. }
                | RuntimeError::Needed { .. },
            )
            | Self::PluginChanged { .. }
            | Self::InDoubt { .. }
            | Self::NothingToRetry { .. }
            | Self::NotInDoubt { .. } => ErrorClass::Conflict,
            Self::Busy { .. }
            | Self::Draining
            | Self::Runtime(
                RuntimeError::StillBusy { .. }
                | RuntimeError::TooManyInUse { .. }
                | RuntimeError::Closing { .. },
            ) => ErrorClass::Busy,
            Self::Plugin(ResolveError::Unusable(problem))
            | Self::Runtime(RuntimeError::Refused(problem)) => problem.class.into(),
            Self::Plugin(_) => ErrorClass::NotFound,
            Self::Journal(error) => of_journal(error),
            Self::Runtime(RuntimeError::Trust { .. } | RuntimeError::Locked(_)) => {
                ErrorClass::Trust
            }
            Self::Runtime(RuntimeError::Grants { .. } | RuntimeError::Limit(_)) => {
                ErrorClass::Invalid
            }
            Self::Runtime(_) | Self::Interrupted { .. } | Self::HomeUnusable { .. } => {
                ErrorClass::Failed
            }
        }
    }
}

/// Whether the journal refused something for its size.
pub(crate) const fn is_too_large(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Journal(JournalError::Append(AppendError::TooLarge { .. }))
    )
}

fn of_journal(error: &JournalError) -> ErrorClass {
    match error {
        JournalError::NoSuchRun { .. } => ErrorClass::NotFound,
        JournalError::Owned { .. }
        | JournalError::Ended { .. }
        | JournalError::NotEnded { .. }
        | JournalError::KeyReused { .. }
        | JournalError::RunExists { .. } => ErrorClass::Conflict,
        JournalError::Append(AppendError::Unavailable { .. }) => ErrorClass::Busy,
        JournalError::Append(AppendError::TooLarge { .. }) => ErrorClass::Invalid,
        _ => ErrorClass::Failed,
    }
}
