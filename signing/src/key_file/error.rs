//! Why a key file was not read or written.

use std::{io, path::Path};

use jiff::Timestamp;
use miette::Diagnostic;

use super::Kdf;
use crate::{key::KeyError, minisign::MinisignError};

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read or written. The operating system says why: it is
    /// not there, it is there already, or this user may not.
    #[error("key file `{path}` cannot be used")]
    #[diagnostic(
        code("ORC-2010"),
        help(
            "check the path and who may use it, `orchestrator key list` shows the keys of this home; an existing file is never overwritten"
        )
    )]
    Io {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else can read the file. Group or others have a right to it, or
    /// it belongs to another user.
    #[error("key file `{path}`: {reason}")]
    #[diagnostic(
        code("ORC-2011"),
        help(
            "make it yours alone with `chown` and `chmod 600 {path}`, and think about whether the key has been copied"
        )
    )]
    Exposed {
        /// The file.
        path: String,
        /// Who can read it.
        reason: String,
    },
    /// The file is no key file, or was cut off or altered.
    #[error("`{path}` is no key file, or a damaged one: {reason}")]
    #[diagnostic(
        code("ORC-2012"),
        help("give the right file; if this one was damaged, restore it from a copy")
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The passphrase is wrong or the file was altered; the two cannot be
    /// told apart.
    #[error("wrong passphrase for the key file `{path}`, or the file was altered")]
    #[diagnostic(
        code("ORC-2013"),
        help("try again; if you are sure, restore the file from a copy")
    )]
    WrongPassphrase {
        /// The file.
        path: String,
    },
    /// The file is encrypted and no passphrase was given.
    #[error("the key file is encrypted")]
    #[diagnostic(
        code("ORC-2014"),
        help("give its passphrase on a terminal, by descriptor or by agent command")
    )]
    PassphraseNeeded,
    /// The cost of trying a passphrase is too low or too high.
    #[error(
        "key file `{path}`: key derivation with {} KiB, {} passes, {} lanes is out of bounds",
        .kdf.memory_kib, .kdf.passes, .kdf.lanes
    )]
    #[diagnostic(
        code("ORC-2015"),
        help(
            "8 MiB to 1 GiB, at most 16 passes and 16 lanes, and no cheaper than 8 MiB with 4 passes"
        )
    )]
    Cost {
        /// The file.
        path: String,
        /// What it would cost.
        kdf: Kdf,
    },
    /// The public half in the file does not belong to the secret half.
    #[error("the public key in the key file `{path}` is not the one of its secret key")]
    #[diagnostic(
        code("ORC-2016"),
        help("the file was altered; do not sign with it, restore it from a copy")
    )]
    HalvesDiffer {
        /// The file.
        path: String,
    },
    /// The passphrase is empty.
    #[error("the passphrase is empty")]
    #[diagnostic(
        code("ORC-2017"),
        help("choose one, or ask for a key file without a passphrase")
    )]
    EmptyPassphrase,
    /// Its owner has noted in the file that the key is no longer used.
    #[error("the key in `{path}` was revoked at {at}: {reason}")]
    #[diagnostic(
        code("ORC-2018"),
        help("sign with another key; `orchestrator key list` shows those of this home")
    )]
    Revoked {
        /// The file.
        path: String,
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// A key file of minisign that is not taken.
    #[error("key file `{path}`")]
    #[diagnostic(forward(source))]
    Foreign {
        /// The file.
        path: String,
        /// Why.
        source: MinisignError,
    },
    /// The key in the file is unusable.
    #[error("key file `{path}` holds no usable key")]
    #[diagnostic(forward(source))]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with the key.
        source: KeyError,
    },
    /// The key itself is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
}

impl KeyFileError {
    /// Names the file, where the fault was found in its text alone.
    pub(super) fn in_file(self, path: &Path) -> Self {
        let path = path.display().to_string();
        match self {
            Self::Damaged { reason, .. } => Self::Damaged { path, reason },
            Self::WrongPassphrase { .. } => Self::WrongPassphrase { path },
            Self::Cost { kdf, .. } => Self::Cost { path, kdf },
            Self::HalvesDiffer { .. } => Self::HalvesDiffer { path },
            Self::Revoked { at, reason, .. } => Self::Revoked { path, at, reason },
            Self::Key(source) => Self::Unusable { path, source },
            other => other,
        }
    }
}
