//! What a package says of itself, for the record of what was refused.

use std::path::Path;

use orchestrator_manifest::Manifest;

use super::{layout::SIGNATURES, payload::ReleasePayload};
use crate::{
    Digest, KeyId,
    dsse::{ENVELOPE_SIZE_MAX, Envelope},
    durable::{self, Want},
};

/// What a package says of itself. Nothing of it was checked, and whoever made the
/// package wrote it.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The plugin it says it is.
    pub name: String,
    /// The version it says it has.
    pub version: String,
    /// The statement that the signatures are for, where there is one.
    pub digest: Option<Digest>,
    /// The keys that are said to have signed it.
    pub keys: Vec<KeyId>,
}

/// What the package in `dir` says of itself: in what was signed, else in its
/// manifest. `None` where it says nothing that can be read.
pub fn claimed(dir: &Path) -> Option<Claimed> {
    signed(dir).or_else(|| {
        let manifest = Manifest::load(dir).ok()?;
        Some(Claimed {
            name: manifest.id.to_string(),
            version: manifest.version.to_string(),
            digest: None,
            keys: Vec::new(),
        })
    })
}

fn signed(dir: &Path) -> Option<Claimed> {
    let want = Want {
        size_max: ENVELOPE_SIZE_MAX as u64,
        is_private: false,
    };
    let bytes = durable::read(&dir.join(SIGNATURES), want).ok()?;
    let envelope = Envelope::parse(&bytes).ok()?;
    let release = ReleasePayload::parse(envelope.unverified_payload());
    let release = release.ok()?.summary();
    Some(Claimed {
        name: release.name,
        version: release.version,
        digest: Some(release.digest),
        keys: envelope.claimed_keys().collect(),
    })
}
