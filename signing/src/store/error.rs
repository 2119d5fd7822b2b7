//! Why the store refuses.

use std::{io, path::Path};

use miette::Diagnostic;

use crate::{digest::Digest, lock_file::LockFileError, package::VerifyError, trust::TrustError};

/// Why a package was not installed or removed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum InstallError {
    /// The package does not verify.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Verify(#[from] VerifyError),
    /// The trust store cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Trust(#[from] TrustError),
    /// The lock file does not have this release.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Locked(#[from] LockFileError),
    /// A newer release was installed before. An older release may have faults
    /// that the newer one mended.
    #[error(
        "release {serial} of plugin `{plugin}` is older than release {newest}, which this host has had"
    )]
    #[diagnostic(
        code("ORC-2150"),
        help("install a newer release, or go back on purpose with `--allow-downgrade`")
    )]
    Rollback {
        /// The plugin.
        plugin: String,
        /// The serial number of the package.
        serial: u64,
        /// The highest one so far.
        newest: u64,
    },
    /// The publisher wants it no longer installed. Its signature states until
    /// when it may be installed.
    #[error("this release of plugin `{plugin}` has expired")]
    #[diagnostic(
        code("ORC-2151"),
        help(
            "install a newer release; if there is none that has not expired, check this host's clock"
        )
    )]
    Expired {
        /// The plugin.
        plugin: String,
    },
    /// The same version is installed with other content. Mostly the package was
    /// signed again without a new version.
    #[error(
        "plugin `{plugin}` {version} is installed already, as release {present}, and this is release {given}"
    )]
    #[diagnostic(
        code("ORC-2152"),
        help("a version never changes: raise the version, or remove the installed one first")
    )]
    Different {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
        /// The installed release.
        present: Digest,
        /// The release that was to be installed.
        given: Digest,
    },
    /// The same version is installed and no longer verifies.
    #[error("the installed plugin `{plugin}` {version} no longer verifies")]
    #[diagnostic(
        code("ORC-2153"),
        help("find out what changed it, remove it, and install it again")
    )]
    Damaged {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
        /// What is wrong with it.
        source: VerifyError,
    },
    /// A process has loaded it, so its files stay as they are, and they are not those
    /// of the release: somebody has changed them.
    #[error(
        "the files of plugin `{plugin}` {version} were changed while a process has them loaded"
    )]
    #[diagnostic(
        code("ORC-2158"),
        help("find out what changed them, stop what has loaded them, and install it again")
    )]
    InUse {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
    },
    /// Nothing with that name and version is installed.
    #[error("`{0}` is not installed")]
    #[diagnostic(code("ORC-2154"), help("`orchestrator plugin list` shows what is"))]
    NotInstalled(String),
    /// There is no lower version to go back to: it was never installed, or it
    /// was removed.
    #[error("there is no version of `{plugin}` before {current}")]
    #[diagnostic(
        code("ORC-2157"),
        help("install an older release with `orchestrator plugin install --allow-downgrade`")
    )]
    NoPrevious {
        /// The plugin.
        plugin: String,
        /// The version that is used now.
        current: String,
    },
    /// Another process is installing or removing.
    #[error("another process is changing `{0}`")]
    #[diagnostic(code("ORC-2155"), help("wait for it and try again"))]
    Busy(String),
    /// The operating system refused.
    #[error("`{path}` cannot be changed")]
    #[diagnostic(
        code("ORC-2156"),
        help(
            "check that there is room and that the folder belongs to you; what was installed before is untouched"
        )
    )]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

pub(super) fn io_error(path: &Path, source: impl Into<io::Error>) -> InstallError {
    let path = path.display().to_string();
    let source = source.into();
    InstallError::Io { path, source }
}
