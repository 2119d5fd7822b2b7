//! Why a lock file refuses, or is refused.

use std::{io, path::Path};

use miette::Diagnostic;

use crate::{package::VerifyError, store::InstallError};

/// Why a lock file refuses, or is refused.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum LockFileError {
    /// It was edited, cut off, merged badly, or written by a newer release of
    /// this program.
    #[error("the lock file `{path}` cannot be used: {reason}")]
    #[diagnostic(
        code("ORC-2160"),
        help("restore it, or write it anew with `orchestrator plugin lock`")
    )]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `--locked` was given, and something is not as it is written down.
    #[error("the lock file does not allow this: {}", changes.join("; "))]
    #[diagnostic(
        code("ORC-2161"),
        help("if it is meant, write the lock file anew with `orchestrator plugin lock`")
    )]
    Changed {
        /// A sentence for each difference, up to a bound.
        changes: Vec<String>,
    },
    /// What is written down beside an installed release is the same version for
    /// another platform.
    #[error("{release} {why}, so it is not written down as a release for another platform")]
    #[diagnostic(
        code("ORC-2165"),
        help(
            "give a release that `orchestrator plugin sign --platform` made of the same version, with the same `--serial`"
        )
    )]
    Platform {
        /// The plugin and its version.
        release: String,
        /// What is wrong with it.
        why: String,
    },
    /// `--locked` was given, and nothing is written down.
    #[error("there is no lock file `{path}`")]
    #[diagnostic(code("ORC-2162"), help("write it with `orchestrator plugin lock`"))]
    Missing {
        /// The file.
        path: String,
    },
    /// What is installed does not verify, so it is not worth writing down.
    #[error("the installed plugin `{plugin}` {version} does not verify")]
    #[diagnostic(
        code("ORC-2163"),
        help("find out what changed it, remove it, and install it again")
    )]
    Damaged {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
        /// What is wrong with it.
        source: Box<VerifyError>,
    },
    /// The operating system refused.
    #[error("the lock file `{path}` cannot be read or written")]
    #[diagnostic(
        code("ORC-2164"),
        help("check that there is room and that its folder belongs to you")
    )]
    Io {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is installed cannot be listed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(Box<InstallError>),
}

impl LockFileError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        Self::Io { path, source }
    }
}

impl From<InstallError> for LockFileError {
    fn from(error: InstallError) -> Self {
        Self::Store(Box::new(error))
    }
}
