//! How a command fails: an exit status, and a report for people or programs.

mod class;
mod render;

use std::io::{self, IsTerminal as _};

use miette::{Diagnostic, Report};
use orchestrator_engine::EngineError;
use orchestrator_plugin_runtime::RuntimeError;
use serde_json::json;

pub(crate) use self::render::as_json;
use crate::{error::CliError, exit::Exit, output::Output, progress};

/// Why the command ends, and with which status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    report: Option<Report>,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self {
            exit,
            report: Some(Report::new(error)),
        }
    }

    /// Ends the command without another word; everything was said already.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, report: None }
    }

    /// What it says, if it says anything.
    pub(crate) fn report(&self) -> Option<&dyn Diagnostic> {
        self.report.as_ref().map(|report| report.as_ref())
    }

    /// Says on standard error why the command ends: drawn on a terminal, plain
    /// in a file, a JSON object for programs.
    pub(crate) fn tell(&self, out: Output) {
        let Some(report) = &self.report else { return };
        let text = if out.is_json() {
            let error = as_json(report.as_ref(), None);
            let document = json!({ "error": error, "exit": self.exit.code() });
            format!("{document}\n")
        } else if io::stderr().is_terminal() {
            render::drawn(report.as_ref(), out.colors_errors())
        } else {
            render::plain(report.as_ref())
        };
        progress::write_to_stderr(text.as_bytes()).ok();
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, CliError::Io(error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Runtime(RuntimeError::Locked(error)) => error.into(),
            error => Self::new(error.class().into(), error),
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::new(error.exit(), error)
    }
}
