//! Why a plugin does not run, in the form people and programs read.

use std::{error::Error, fmt};

use miette::Diagnostic;
use orchestrator_contract::CallError;
use serde::Serialize;

/// Why a plugin does not run: a coded error whose cause may come from any crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginProblem {
    /// `ORC-nnnn`.
    pub code: String,
    /// What is wrong, with its causes.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub help: String,
}

impl PluginProblem {
    /// Takes code, message with all causes, and help of an error.
    pub fn new(error: &(impl Diagnostic + ?Sized)) -> Self {
        Self::at_stage("", error)
    }

    /// The same, with what was being done in front of the message.
    pub(crate) fn at_stage(stage: &str, error: &(impl Diagnostic + ?Sized)) -> Self {
        let mut message = match stage {
            "" => error.to_string(),
            stage => format!("{stage}: {error}"),
        };
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Errors that show their cause themselves are not repeated.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        let text = |shown: Option<Box<dyn fmt::Display + '_>>| {
            shown.map_or_else(String::new, |shown| shown.to_string())
        };
        Self {
            code: text(error.code()),
            message,
            help: text(error.help()),
        }
    }

    /// What a call to the plugin gets. Not tried again: nothing changes until a
    /// person does something.
    pub(crate) fn to_call_error(&self) -> CallError {
        CallError::permanent(format!("{} ({})", self.message, self.code))
    }
}

impl fmt::Display for PluginProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl Error for PluginProblem {}

impl Diagnostic for PluginProblem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }
}
