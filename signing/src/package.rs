//! Packages: a folder with a manifest, an entry, assets and a signature.
//!
//! [`sign`] writes the signature, [`verify`] checks it and keeps the digest of
//! every file. Whoever reads a file later gets the bytes that were verified or an
//! error (`file.rs`), so nothing an attacker changes in the folder can reach a
//! plugin that runs.
//!
//! Files are read piece by piece: a package of [`BYTES_MAX`] costs no more memory
//! than a small one with as many files.

pub mod archive;
mod attach;
mod attestation;
mod claimed;
mod error;
mod file;
mod hashing;
mod layout;
mod payload;
mod platform;
mod sign;
mod standing;
mod tree;
mod unsigned;
mod verify;

use std::{fmt, path::Path, sync::Arc};

use jiff::Timestamp;
use orchestrator_manifest::{Channel, Manifest};

pub(crate) use self::layout::{META, SIGNATURES};
pub use self::{
    attach::{attach, attach_minisig, cosign, signed_payload},
    attestation::Attestation,
    claimed::{Claimed, claimed},
    error::VerifyError,
    file::{FileReader, PackageFile},
    payload::{ReleasePayload, ReleaseSummary},
    sign::{Draft, SignError, SignOptions, check_files, remove_leftovers, sign},
    standing::Arrivals,
    tree::{BYTES_MAX, ENTRIES_MAX, ENTRY_BYTES_MAX},
    unsigned::{UnsignedPaths, read_unsigned, verify_or_unsigned},
    verify::{verify, verify_named},
};
use crate::{
    digest::Digest,
    key::KeyId,
    statement::ApiRange,
    trust::{Decision, Release, TrustLevel},
    verified::Verified,
};

/// Who answers for a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// The owner of a trusted key.
    Key {
        /// The key's identity.
        id: KeyId,
        /// The name the trust root has for it.
        name: String,
    },
    /// The host itself: the plugin is compiled in.
    Host,
    /// Nobody. Only from the folders that the operator listed for development.
    Nobody,
}

impl Publisher {
    fn of(decision: &Decision) -> Self {
        Self::Key {
            id: decision.publishers[0],
            name: decision.key_name.clone(),
        }
    }
}

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { id, .. } => id.fmt(f),
            Self::Host => f.write_str("host"),
            Self::Nobody => f.write_str("unsigned"),
        }
    }
}

/// A package: what it says, who answers for it, and its files. Cheap to clone;
/// holds its folder open.
#[derive(Clone)]
pub struct Package(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    manifest: Manifest,
    files: Vec<PackageFile>,
    publisher: Publisher,
    /// The keys that each give it its level; none where no key did.
    publishers: Vec<KeyId>,
    signers: Vec<String>,
    /// The keys that are remembered to have counted for it.
    vouchers: Vec<KeyId>,
    trust_level: TrustLevel,
    release: Option<ReleaseInfo>,
    warnings: Vec<String>,
    origin: String,
    envelope: Vec<u8>,
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("id", &self.0.manifest.id)
            .field("version", &self.0.manifest.version)
            .field("publisher", &self.0.publisher)
            .field("trust_level", &self.0.trust_level)
            .field("release", &self.0.release)
            .field("files", &self.0.files)
            .finish_non_exhaustive()
    }
}

/// What the signature says about a release.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleaseInfo {
    /// Rises with every release of the plugin.
    pub serial: u64,
    /// The SHA-256 of the signed statement: identifies this very release.
    pub digest: Digest,
    /// When the publisher says it was made.
    pub created: Timestamp,
    /// When the publisher wants it no longer installed.
    pub expires: Option<Timestamp>,
    /// Whom it is meant for.
    pub channel: Channel,
    /// The platform of a native entry, when the publisher named one.
    pub triple: Option<String>,
    /// The plugin API versions it speaks.
    pub api: ApiRange,
}

impl Package {
    /// The manifest, as signed.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The entry; `None` for a builtin.
    pub fn entry(&self) -> Option<&PackageFile> {
        let path = self.0.manifest.entry_path()?;
        self.file(path.as_str())
    }

    /// Every file of the package but its signatures, sorted by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &PackageFile> {
        self.0.files.iter()
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&PackageFile> {
        let files = &self.0.files;
        let position = files
            .binary_search_by(|file| file.path().as_str().cmp(path))
            .ok()?;
        files.get(position)
    }

    /// How far the plugin is trusted.
    pub fn trust_level(&self) -> TrustLevel {
        self.0.trust_level
    }

    /// Who answers for it.
    pub fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// How grants know who answers for it: the identity of every key that gives it
    /// its trust level, or what [`Publisher`] says of the others. The first is
    /// [`publisher`](Self::publisher).
    pub(crate) fn publishers(&self) -> Vec<String> {
        match self.0.publishers.as_slice() {
            [] => vec![self.0.publisher.to_string()],
            keys => keys.iter().map(KeyId::to_string).collect(),
        }
    }

    /// The names that this host has for the keys whose signatures count, sorted; none
    /// where nobody had to sign.
    pub fn signers(&self) -> &[String] {
        &self.0.signers
    }

    /// The release, and the keys that are remembered to have counted for it.
    pub(crate) fn vouched(&self) -> Option<(Release<'_>, &[KeyId])> {
        let release = self.release()?;
        let release = Release {
            name: &self.0.manifest.id,
            serial: release.serial,
            digest: release.digest,
        };
        Some((release, &self.0.vouchers))
    }

    /// Returns whether nobody signed it. Say so wherever the plugin is shown.
    pub fn is_unsigned(&self) -> bool {
        self.0.publisher == Publisher::Nobody
    }

    /// What the signature says; `None` for builtin and unsigned plugins.
    pub fn release(&self) -> Option<&ReleaseInfo> {
        self.0.release.as_ref()
    }

    /// The digest of the signed statement, if there is one.
    pub fn statement_digest(&self) -> Option<Digest> {
        self.release().map(|release| release.digest)
    }

    /// What an operator should know although the package was accepted.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Where the package came from, for messages alone: it says nothing about
    /// what is there now.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    pub(crate) fn envelope(&self) -> &[u8] {
        &self.0.envelope
    }
}

impl Verified<Package> {
    /// Vouches for a plugin that is compiled into the host. `None` when the
    /// manifest is of another kind.
    pub fn builtin(manifest: Manifest) -> Option<Self> {
        if manifest.kind != orchestrator_manifest::Kind::Builtin {
            return None;
        }
        Some(Self::new(Package(Arc::new(Inner {
            manifest,
            files: Vec::new(),
            publisher: Publisher::Host,
            publishers: Vec::new(),
            signers: Vec::new(),
            vouchers: Vec::new(),
            trust_level: TrustLevel::Internal,
            release: None,
            warnings: Vec::new(),
            origin: "compiled in".to_owned(),
            envelope: Vec::new(),
        }))))
    }
}

/// A path as it may stand in a message.
fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}
