//! Why the trust store cannot be used or changed.

use std::io;

use miette::Diagnostic;

#[cfg(doc)]
use super::Delegation;
use crate::{key::KeyError, key_file::KeyFileError};

/// Why the trust store cannot be used or changed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum TrustError {
    /// A file of the store cannot be read or written.
    #[error("`{path}` in the trust store cannot be used")]
    #[diagnostic(
        code("ORC-2080"),
        help("check that the folder exists and belongs to you")
    )]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// There was a root, and it is gone, damaged or older than it was.
    #[error("the trust root in `{path}` cannot be used: {reason}")]
    #[diagnostic(
        code("ORC-2081"),
        help(
            "nothing is trusted until it is restored from a copy; to start over, remove the whole folder"
        )
    )]
    Damaged {
        /// The folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Others could change whom this host trusts. Who can write there decides
    /// which plugins run.
    #[error("`{path}` can be changed by others")]
    #[diagnostic(
        code("ORC-2082"),
        help("`chmod go-w {path}`, and make it belong to you")
    )]
    Exposed {
        /// The folder.
        path: String,
    },
    /// Another process is changing the store.
    #[error("another process is changing the trust store `{path}`")]
    #[diagnostic(code("ORC-2083"), help("wait for it and try again"))]
    Busy {
        /// The folder.
        path: String,
    },
    /// The root is signed by keys that this host does not have.
    #[error("the trust root is not signed by this host")]
    #[diagnostic(
        code("ORC-2084"),
        help(
            "if this host made it, restore `root.key` in the trust store from a copy; a root that others sign is changed by them alone"
        )
    )]
    ForeignRoot,
    /// A new root that does not follow the present one.
    #[error("the new trust root is refused: {0}")]
    #[diagnostic(
        code("ORC-2085"),
        help("versions are applied one by one, each signed by enough old and new root keys")
    )]
    BadUpdate(String),
    /// No key with that name or identity.
    #[error("no trusted key `{0}`")]
    #[diagnostic(
        code("ORC-2086"),
        help("`orchestrator trust list` shows the names and identities")
    )]
    NoSuchKey(String),
    /// Several keys have that name. The name is what its owner called it; the
    /// identity is the key itself.
    #[error("several trusted keys are called `{0}`")]
    #[diagnostic(
        code("ORC-2087"),
        help("use the identity that `orchestrator trust list` shows")
    )]
    Ambiguous(String),
    /// A delegation that can never be satisfied or matches nothing.
    #[error("{0}")]
    #[diagnostic(
        code("ORC-2088"),
        help("give at least one name pattern and a threshold of at least 1")
    )]
    BadDelegation(String),
    /// The key is trusted already, and not on these terms. Adding it again would
    /// quietly take names away from it or raise its level.
    #[error("the key `{key}` is trusted already, on other terms: {}", changes.join("; "))]
    #[diagnostic(
        code("ORC-2090"),
        help(
            "name everything it shall sign from now on and add `--replace`, or leave it as it is"
        )
    )]
    OtherTerms {
        /// The key's name.
        key: String,
        /// What would change; see [`Delegation::changes`].
        changes: Vec<String>,
    },
    /// This host's own root key cannot be read or written.
    #[error("this host's root key cannot be used")]
    #[diagnostic(
        code("ORC-2089"),
        help("restore `root.key` in the trust store from a copy")
    )]
    RootKey(#[from] KeyFileError),
    /// This host's own root key cannot be made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
}
