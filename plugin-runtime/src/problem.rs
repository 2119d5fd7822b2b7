//! Why a plugin does not run, in the form people and programs read.

use std::{error::Error, fmt};

use miette::Diagnostic;
use orchestrator_contract::CallError;
use orchestrator_manifest::ManifestError;
use orchestrator_sandbox::ConfinementError;
use orchestrator_signing::{GrantError, VerifyError};
use serde::Serialize;

use crate::{Found, error::LoadError, program::ProgramError};

/// What sort of problem it is, for whoever answers with a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemClass {
    /// Its author or its configuration has to be corrected.
    Invalid,
    /// An operator has not allowed it what it needs.
    Denied,
    /// Its origin or its content cannot be verified.
    Trust,
    /// Something that it needs is not there.
    NotFound,
    /// Everything else.
    Failed,
}

/// Errors whose class is known.
pub(crate) trait Classed: Diagnostic {
    fn class(&self) -> ProblemClass;
}

impl Classed for ManifestError {
    fn class(&self) -> ProblemClass {
        ProblemClass::Invalid
    }
}

impl Classed for VerifyError {
    fn class(&self) -> ProblemClass {
        match self {
            Self::Manifest(_) => ProblemClass::Invalid,
            Self::Io { .. } => ProblemClass::Failed,
            _ => ProblemClass::Trust,
        }
    }
}

impl Classed for GrantError {
    fn class(&self) -> ProblemClass {
        match self {
            Self::NotGranted { .. } | Self::AsksForMore { .. } | Self::OtherPublisher { .. } => {
                ProblemClass::Denied
            }
            Self::Unscoped { .. } => ProblemClass::Invalid,
            Self::NoSuchGrant { .. } => ProblemClass::NotFound,
            _ => ProblemClass::Failed,
        }
    }
}

impl Classed for LoadError {
    fn class(&self) -> ProblemClass {
        Self::class(self)
    }
}

impl Classed for ProgramError {
    fn class(&self) -> ProblemClass {
        match self {
            Self::Load(error) => error.class(),
            Self::Package(error) => error.class(),
            Self::Image(_) | Self::Tree(_) => ProblemClass::Failed,
        }
    }
}

impl Classed for ConfinementError {
    fn class(&self) -> ProblemClass {
        ProblemClass::Denied
    }
}

/// Why a plugin does not run: a coded error whose cause may come from any crate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PluginProblem {
    /// What sort of problem it is.
    pub class: ProblemClass,
    /// `ORC-nnnn`.
    pub code: String,
    /// What is wrong, with its causes.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub help: String,
}

impl PluginProblem {
    /// Takes code, message with all causes, and help of an error. The class is
    /// [`ProblemClass::Failed`].
    pub fn new(error: &(impl Diagnostic + ?Sized)) -> Self {
        let mut message = error.to_string();
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
            class: ProblemClass::Failed,
            code: text(error.code()),
            message,
            help: text(error.help()),
        }
    }

    /// The same, with the class of the error.
    pub(crate) fn of(error: &impl Classed) -> Self {
        Self {
            class: error.class(),
            ..Self::new(error)
        }
    }

    /// The same, with the plugin and its directory, which the error of a package
    /// does not know: it names files as the package does.
    pub(crate) fn of_package(error: &VerifyError, found: &Found) -> Self {
        let problem = Self::of(error);
        let (id, version) = (&found.manifest.id, &found.manifest.version);
        let dir = found.dir.display();
        Self {
            message: format!("{} (plugin {id} {version} in {dir})", problem.message),
            ..problem
        }
    }

    /// The same, with what was being done in front of the message.
    pub(crate) fn at_stage(stage: &str, error: &impl Classed) -> Self {
        let problem = Self::of(error);
        Self {
            message: format!("{stage}: {}", problem.message),
            ..problem
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
