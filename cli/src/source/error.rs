//! Why nothing was fetched.

use std::{io, path::PathBuf};

use miette::Diagnostic;
use orchestrator_signing::Digest;

use crate::{exit::Exit, failure::Failure};

/// Why nothing was fetched. Each is about the way here; what is wrong with the
/// package itself has codes of its own.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum SourceError {
    /// The text is no URL, and there is neither a folder nor a file of that
    /// name.
    #[error("`{text}` is neither a package's folder, nor an archive, nor a URL")]
    #[diagnostic(
        code("ORC-5020"),
        help("give a directory, a `.opkg` file, or a URL that begins with https://")
    )]
    Unknown { text: String },

    /// A folder has no digest of its own.
    #[error("`{}` is a folder, which has no archive's digest", .path.display())]
    #[diagnostic(code("ORC-5021"), help("leave `--sha256` out, or give the archive"))]
    NoArchive { path: PathBuf },

    /// A URL with a password in it would be written down and shown; one without
    /// a host leads nowhere.
    #[error("`{url}` cannot be fetched from: {reason}")]
    #[diagnostic(
        code("ORC-5022"),
        help("give a URL like https://example.org/plugin-1.0.0.opkg")
    )]
    Url { url: String, reason: &'static str },

    /// The server sends us elsewhere, and that way is not taken: from https to
    /// http anybody could have written the answer.
    #[error("{url} leads to `{target}`: {reason}")]
    #[diagnostic(
        code("ORC-5023"),
        help("give the final URL, if you know the server it leads to")
    )]
    Redirect {
        url: String,
        target: String,
        reason: &'static str,
    },

    /// The server has no such file, or gives it to nobody or not now.
    #[error("{url} answers with status {status}")]
    #[diagnostic(
        code("ORC-5024"),
        help("check the URL; ask the publisher where the package is")
    )]
    Status { url: String, status: u16 },

    /// The connection broke, or the server took too long, several times.
    #[error("the download of {url} was interrupted: {reason}")]
    #[diagnostic(
        code("ORC-5025"),
        help("try again: what has arrived is kept and continued")
    )]
    Interrupted { url: String, reason: String },

    /// The server's certificate is for another name, out of date, or from
    /// somebody whom the operating system does not trust.
    #[error("{url} does not prove who it is: {reason}")]
    #[diagnostic(
        code("ORC-5019"),
        help("check the URL and this host's clock; `SSL_CERT_FILE` names further authorities")
    )]
    Certificate { url: String, reason: String },

    /// No package is as large.
    #[error("{url} gives more than {max} bytes")]
    #[diagnostic(code("ORC-5026"), help("check the URL: no package is that large"))]
    TooLarge { url: String, max: u64 },

    /// What arrived is not what was asked for: damaged on its way, or replaced
    /// by its publisher.
    #[error("{location} has the SHA-256 {found}, and {expected} was asked for")]
    #[diagnostic(
        code("ORC-5027"),
        help("download it again; if it stays so, ask the publisher which one is right")
    )]
    Digest {
        location: String,
        expected: Digest,
        found: Digest,
    },

    /// The downloaded bytes cannot be kept.
    #[error("`{}` cannot be written", .path.display())]
    #[diagnostic(
        code("ORC-5028"),
        help("check that there is room and that the folder belongs to you")
    )]
    Write { path: PathBuf, source: io::Error },

    /// The package was installed before it was known where from.
    #[error("nobody wrote down where `{plugin}` came from")]
    #[diagnostic(
        code("ORC-5029"),
        help("install the newer release with `orchestrator plugin install`")
    )]
    NoSource { plugin: String },

    /// The publisher has put something else there, or somebody has replaced it.
    #[error("{location} gives the plugin `{found}`, not `{plugin}`")]
    #[diagnostic(
        code("ORC-5034"),
        help("ask the publisher where the plugin is now; nothing was changed")
    )]
    OtherPlugin {
        location: String,
        plugin: String,
        found: String,
    },
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let exit = match &error {
            SourceError::Unknown { .. }
            | SourceError::Status {
                status: 404 | 410, ..
            }
            | SourceError::NoSource { .. } => Exit::NotFound,
            SourceError::NoArchive { .. } | SourceError::Url { .. } => Exit::Usage,
            SourceError::Redirect { .. } => Exit::Denied,
            SourceError::Status { .. } | SourceError::Interrupted { .. } => Exit::Unreachable,
            SourceError::TooLarge { .. } => Exit::Invalid,
            SourceError::Digest { .. }
            | SourceError::Certificate { .. }
            | SourceError::OtherPlugin { .. } => Exit::Trust,
            SourceError::Write { .. } => Exit::Failed,
        };
        Self::new(exit, error)
    }
}
