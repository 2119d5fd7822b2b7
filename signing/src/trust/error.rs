//! Why the trust store cannot be used or changed.

use std::io;

use jiff::Timestamp;
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
            "if this host made it, restore `root.key` in the trust store from a copy; a root that others sign is changed with `--out FILE`, `orchestrator trust sign` and `orchestrator trust update`"
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
    /// Something else that was signed is shown as a trust root. Signatures say
    /// what they are for, and those of packages are for packages.
    #[error("this is no trust root: it was signed as `{0}`")]
    #[diagnostic(
        code("ORC-2091"),
        help("give the file that `orchestrator trust sign` wrote")
    )]
    NotARoot(String),
    /// A root names a key that nobody may trust: of another kind, of another
    /// length, of small order, or not the one its identity belongs to.
    #[error("the trust root names a key that cannot be used: {0}")]
    #[diagnostic(
        code("ORC-2092"),
        help("whoever makes the root has to name the key as its `.pub` file does")
    )]
    BadKey(String),
    /// Too few root keys signed a root. Each key counts once, and only for the
    /// version whose root role names it.
    #[error("{have} of {need} root keys of version {version} signed the trust root")]
    #[diagnostic(
        code("ORC-2093"),
        help(
            "have the holders of the missing keys sign the file with `orchestrator trust sign`; a new version needs enough old and enough new root keys"
        )
    )]
    TooFewSigned {
        /// Distinct keys whose signatures hold.
        have: usize,
        /// How many are wanted.
        need: usize,
        /// The version whose keys these are.
        version: u64,
    },
    /// The root says until when it may be relied upon for new installations.
    /// What is installed goes on running.
    #[error("the trust root has expired on {end}, and this host's clock says {now}")]
    #[diagnostic(
        code("ORC-2094"),
        help(
            "apply a newer root with `orchestrator trust update`; if the clock is wrong, set it. What is installed goes on running"
        )
    )]
    Expired {
        /// Until when it was good.
        end: Timestamp,
        /// What the clock says.
        now: Timestamp,
    },
    /// This host trusts nobody yet, and a first root is not taken in passing:
    /// whoever signs it decides everything from then on.
    #[error("this host has no trust root yet")]
    #[diagnostic(
        code("ORC-2095"),
        help("make one with `orchestrator trust init`, or adopt one with `--from FILE`")
    )]
    NoRoot,
    /// There is a root, and the command would begin anew.
    #[error("this host has a trust root already, version {version}")]
    #[diagnostic(
        code("ORC-2096"),
        help(
            "`orchestrator trust show` shows it; `orchestrator trust update` applies the next one"
        )
    )]
    RootThere {
        /// The version that is there.
        version: u64,
    },
    /// A signature by this key would count for nothing.
    #[error("the key `{key}` is no root key of version {version} or the one before")]
    #[diagnostic(
        code("ORC-2097"),
        help("`orchestrator trust show FILE` lists the root keys whose signatures count")
    )]
    NotARootKey {
        /// The key's name.
        key: String,
        /// The version that was to be signed.
        version: u64,
    },
    /// A root that could never be changed again, or that anybody could change.
    #[error("no root can have {0}")]
    #[diagnostic(
        code("ORC-2098"),
        help(
            "name each root key once, and a threshold of at least 1 and at most as many as there are"
        )
    )]
    BadRootRole(String),
    /// The text is neither a proposal nor a signed root.
    #[error("this cannot be a trust root: {0}")]
    #[diagnostic(
        code("ORC-2099"),
        help("make a proposal with `orchestrator trust propose`")
    )]
    BadFile(String),
    /// A reason that would not survive being written down and shown.
    #[error("a reason is one line of 1 to 500 bytes without control characters")]
    #[diagnostic(code("ORC-2102"), help("for example `--reason 'stolen laptop'`"))]
    BadReason,
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
    /// A key or release that is revoked would count again.
    #[error("{what} is revoked{reason}, and stays so")]
    #[diagnostic(
        code("ORC-2103"),
        help(
            "if that was a mistake: `orchestrator trust remove` a key and add it anew; take a \
             release out of the file that `orchestrator trust propose --out` writes, and sign that"
        )
    )]
    StaysRevoked {
        /// The key or release.
        what: String,
        /// Why, after a colon; empty where nobody said.
        reason: String,
    },
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

impl TrustError {
    pub(super) fn stays_revoked(what: String, reason: Option<String>) -> Self {
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        Self::StaysRevoked { what, reason }
    }
}
