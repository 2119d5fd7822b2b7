//! Why the configuration was refused.

use std::{path::PathBuf, time::Duration};

use figment::Figment;
use miette::Diagnostic;
use orchestrator_policies::{OrderError, PolicyKind};
use thiserror::Error;

use super::sources::source;

/// Why the configuration was refused.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file named on the command line is not there. `--config` was
    /// misspelt, or the file was moved.
    #[error("there is no configuration file `{}`", .path.display())]
    #[diagnostic(
        code("ORC-1210"),
        help("write one to start from with `orchestrator config show > {}`", .path.display())
    )]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },

    /// What bears the name of a configuration file cannot be read. It is a
    /// directory, too large or no text, or it belongs to somebody else. It is
    /// not passed over, because then its settings would be missing in silence.
    #[error("cannot read the configuration file `{}`: {reason}", .path.display())]
    #[diagnostic(
        code("ORC-1215"),
        help("move it away, or put a readable text file in its place")
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A key is unknown or misspelt, or has a value of the wrong kind. The
    /// message names the key and the file, variable or option that set it.
    #[error("{}", misfit_message(.place.as_deref(), .error))]
    #[diagnostic(
        code("ORC-1211"),
        help("`orchestrator config show` prints every key with its meaning and unit")
    )]
    Misfit {
        /// The section, where the values come from several.
        place: Option<String>,
        /// What does not fit, and where it comes from.
        error: Box<figment::Error>,
    },

    /// A policy's value cannot work.
    ///
    /// The help line says what the policy takes.
    #[error("`{section}`: {error}")]
    #[diagnostic(code("ORC-1212"), help("{}", .error.help))]
    Policy {
        /// The section.
        section: String,
        /// What is wrong.
        error: orchestrator_policies::ConfigError,
    },

    /// The policies are in an order that does not do what one expects, or one
    /// is named twice.
    #[error("{}: {error}", at(.key, .source_name.as_deref()))]
    #[diagnostic(forward(error))]
    StackOrder {
        /// The key.
        key: String,
        /// What set it, where that is known.
        source_name: Option<String>,
        /// What is wrong with the order, and what it would do.
        error: OrderError,
    },

    /// A policy is left out that the engine cannot do without.
    #[error("{}: `{kind}` is left out: {consequence}", at(.key, .source_name.as_deref()))]
    #[diagnostic(
        code("ORC-1230"),
        help(
            "add `{kind}`; the defaults show where it goes: `orchestrator config show policy.stack`"
        )
    )]
    StackLacks {
        /// The key.
        key: String,
        /// What set it, where that is known.
        source_name: Option<String>,
        /// The policy.
        kind: PolicyKind,
        /// What would happen without it.
        consequence: &'static str,
    },

    /// An attempt may take longer than the call it is a part of. Such an
    /// attempt could never use all of its time.
    #[error("`{section}`: one attempt may take {attempt:?}, but the whole call only {total:?}")]
    #[diagnostic(code("ORC-1213"), help("set `attempt` to at most `total`"))]
    AttemptOutlastsTotal {
        /// The section.
        section: String,
        /// The attempt's limit.
        attempt: Duration,
        /// The call's limit.
        total: Duration,
    },

    /// A limit of zero would refuse every call. `total` or `attempt` of a
    /// deadline is set to `0s`.
    #[error("`{section}`: a time limit of zero leaves no time for any call")]
    #[diagnostic(code("ORC-1214"), help("leave the key out for the manifest's limit"))]
    NoTime {
        /// The section.
        section: String,
    },

    /// The value is zero, with which nothing would work. Where a limit may be
    /// absent, its comment in the defaults says how.
    #[error("`{key}` is zero")]
    #[diagnostic(
        code("ORC-1220"),
        help("give it a value above zero, or leave it out for the default")
    )]
    Zero {
        /// The key.
        key: &'static str,
    },

    /// `log.level` says nothing that can be understood, and nothing would be
    /// logged.
    #[error("`log.level`: {reason}")]
    #[diagnostic(
        code("ORC-1221"),
        help("write a level such as `info`, or a list such as `info,orchestrator_engine=debug`")
    )]
    LogLevel {
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    pub(super) fn misfit(error: figment::Error) -> Self {
        Self::Misfit {
            place: None,
            error: Box::new(error),
        }
    }

    pub(super) fn misfit_in(place: &str, error: figment::Error) -> Self {
        Self::Misfit {
            place: Some(place.to_owned()),
            error: Box::new(error),
        }
    }

    /// The same, and where the value comes from that is at fault, as far as
    /// `figment` knows and it is not said already.
    pub(super) fn located(mut self, figment: &Figment) -> Self {
        match &mut self {
            Self::StackOrder {
                key, source_name, ..
            }
            | Self::StackLacks {
                key, source_name, ..
            } => {
                *source_name = figment.find_metadata(key).map(|data| source(data, key));
            }
            Self::Misfit {
                place: Some(place),
                error,
            } => {
                let key = format!("{place}.{}", error.path.join("."));
                error.metadata = figment.find_metadata(&key).cloned();
            }
            _ => (),
        }
        self
    }
}

/// A key, and where its value comes from.
fn at(key: &str, source: Option<&str>) -> String {
    match source {
        Some(source) => format!("`{key}` (from {source})"),
        None => format!("`{key}`"),
    }
}

/// Figment names the key and the source; a merged section needs its place too.
fn misfit_message(place: Option<&str>, error: &figment::Error) -> String {
    match place {
        None => format!("the configuration does not fit: {error}"),
        Some(place) => {
            let key = format!("{place}.{}", error.path.join("."));
            let source = error.metadata.as_ref().map(|data| source(data, &key));
            let at = at(&key, source.as_deref());
            format!("the configuration does not fit: {} at {at}", error.kind)
        }
    }
}
