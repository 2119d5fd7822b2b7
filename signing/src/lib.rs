//! Keys, signed packages, the trust root, grants, and [`Verified`]: the only
//! thing a runtime loads.
//!
//! A release engineer makes a key and signs a package; an operator trusts the
//! key for some names at some level and grants what the plugin asks for; the
//! runtime gets a [`Verified<Package>`], which gives out the very bytes that were
//! verified, or none.
//!
//! It must not: start a plugin, confine one, read passphrases (they are
//! given), or offer a way to a `Verified` that skips a check. Everything here
//! blocks; call it where blocking is allowed.
//!
//! Start with [`verify`], whose order of checks is the point of this crate,
//! then [`TrustStore`], then [`GrantStore`]. What is signed: `statement.rs`;
//! how: `dsse.rs`; whose signature counts: `trust.rs`.

pub mod audit;
mod digest;
mod dsse;
mod durable;
mod exposure;
mod grants;
mod key;
mod key_file;
mod lock_file;
mod minisign;
mod package;
mod rotation;
mod statement;
mod store;
mod toml_fault;
mod trust;
mod verified;

pub use digest::{BadDigest, Digest, Hasher};
pub use dsse::{ENVELOPE_SIZE_MAX, Envelope, EnvelopeError, SIGNATURES_MAX, pae};
pub use durable::{create_dir, replace as replace_file};
pub use grants::{Grant, GrantError, GrantStore, Granted, requested_set};
pub use key::{KeyError, KeyId, PublicKey, SIGNATURE_LEN, SecretKey};
pub use key_file::{
    Kdf, KeyFacts, KeyFileError, KeyFileKind, Protection, Revocation, clear_unfinished_keys,
};
pub use lock_file::{Comparison, LOCK_FILE_SIZE_MAX, LockFile, LockFileError, Locked};
pub use minisign::{MinisignError, MinisignId, MinisignSignature};
pub use package::archive;
pub use package::{
    Arrivals, Attestation, BYTES_MAX, Claimed, Draft, ENTRIES_MAX, ENTRY_BYTES_MAX, FileReader,
    Package, PackageFile, Publisher, ReleaseInfo, ReleasePayload, ReleaseSummary, SignError,
    SignOptions, UnsignedPaths, VerifyError, attach, attach_minisig, check_files, claimed, cosign,
    read_unsigned, remove_leftovers, sign, signed_payload, verify, verify_named,
    verify_or_unsigned,
};
pub use rotation::{Rotation, RotationError};
pub use statement::{API, ApiRange, FileMode, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE};
pub use store::{
    CollectOptions, Collected, InUse, InstallError, InstallOptions, Installed, Receipt, Removed,
    RolledBack, Source, collect, install, install_from, installed, migrate, receipt, remove,
    roll_back, rolled_back, stored, tree_digest,
};
pub use trust::{
    Delegation, KeyStatus, NamePattern, NextRoot, RootFile, TrustError, TrustLevel, TrustRoot,
    TrustStore,
};
pub use verified::Verified;
