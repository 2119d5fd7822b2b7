//! Why a file of minisign is not taken.

use miette::Diagnostic;

use super::MinisignId;
use crate::key::KeyError;

/// Why a key or a signature of minisign is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum MinisignError {
    /// Not what minisign writes: another file, or one that was cut off.
    #[error("not a file of minisign, or a damaged one: {0}")]
    #[diagnostic(
        code("ORC-2030"),
        help("give the file as `minisign` wrote it, with all its lines")
    )]
    Format(&'static str),
    /// A signature of the file itself, not of its hash. Such a signature could
    /// have been meant for something else.
    #[error("a legacy signature, which does not hash the file first, is never accepted")]
    #[diagnostic(
        code("ORC-2031"),
        help("sign again without `-l`; every minisign since 0.10 hashes first")
    )]
    Legacy,
    /// The signature is not that of this key over this file. Whatever was
    /// altered, file or signature, it is not as the holder of the key left it.
    #[error("the signature is not that of the key {key} over this file")]
    #[diagnostic(
        code("ORC-2032"),
        help("the file was altered, or damaged on its way; get it again")
    )]
    BadSignature {
        /// The key.
        key: MinisignId,
    },
    /// The trusted comment is not the one that was signed.
    #[error("the trusted comment is not what the key {key} signed")]
    #[diagnostic(
        code("ORC-2033"),
        help("somebody edited the signature file; get it again")
    )]
    BadComment {
        /// The key.
        key: MinisignId,
    },
    /// The signature names another key.
    #[error("signed by the key {found}, not by the key {wanted}")]
    #[diagnostic(
        code("ORC-2034"),
        help("get the public key that belongs to the signature, from somebody you know")
    )]
    OtherKey {
        /// The key that was expected.
        wanted: MinisignId,
        /// The key that the signature names.
        found: MinisignId,
    },
    /// The passphrase is wrong or the file was altered; the two cannot be told
    /// apart.
    #[error("wrong passphrase for a secret key of minisign, or the file was altered")]
    #[diagnostic(
        code("ORC-2035"),
        help("try the passphrase that `minisign -S` asks for")
    )]
    WrongPassphrase,
    /// The file is encrypted and no passphrase was given.
    #[error("the secret key of minisign is encrypted")]
    #[diagnostic(
        code("ORC-2039"),
        help("give its passphrase on a terminal, by descriptor or by agent command")
    )]
    PassphraseNeeded,
    /// Reading the key would take more memory or time than this program gives.
    #[error("its key derivation would take more than 1 GiB, or longer than minisign's own")]
    #[diagnostic(
        code("ORC-2036"),
        help("choose the passphrase again with `minisign -C`, which writes usual costs")
    )]
    Cost,
    /// The key itself is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(KeyError),
}
