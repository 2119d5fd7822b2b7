//! The signatures of a content. They are the one file in it that may change: it is
//! not among the files that are signed, and whoever has the content loaded has read
//! it before.

use std::path::Path;

use orchestrator_manifest::PluginName;

use super::{
    content::{self, make_movable, seal, sync_dir},
    error::{InstallError, io_error},
};
use crate::{
    dsse::{ENVELOPE_SIZE_MAX, Envelope},
    durable::{self, Want},
    key::PublicKey,
    package::{META, Package, SIGNATURES, VerifyError},
    statement::PAYLOAD_TYPE,
    trust::{KeyStatus, TrustRoot},
    verified::Verified,
};

/// Adds those signatures of `package` that a content of the same release has not
/// and that count today. Where the content is damaged nothing is done:
/// verifying it says so.
pub(super) fn add(
    plugins_dir: &Path,
    content: &Path,
    package: &Verified<Package>,
    root: &TrustRoot,
) -> Result<(), InstallError> {
    let want = Want {
        size_max: ENVELOPE_SIZE_MAX as u64,
        is_private: false,
    };
    let there = durable::read(&content.join(SIGNATURES), want).ok();
    let there = there.and_then(|bytes| Envelope::parse(&bytes).ok());
    let (Some(mut there), Ok(given)) = (there, Envelope::parse(package.envelope())) else {
        return Ok(());
    };
    if there.unverified_payload() != given.unverified_payload() {
        return Ok(());
    }
    let keys = keys_that_count(&package.manifest().id, root);
    let Some((_, signers)) = given.verified_by(PAYLOAD_TYPE, keys) else {
        return Ok(());
    };
    let before = there.clone();
    for key in signers {
        if there.signature_of(key).is_none()
            && let Some(signature) = given.signature_of(key)
        {
            there.add(key, &signature).map_err(VerifyError::Envelope)?;
        }
    }
    match there == before {
        true => Ok(()),
        false => put(plugins_dir, content, there.to_json().as_bytes()),
    }
}

/// What a retired key signs later is not worth keeping.
fn keys_that_count<'a>(
    name: &'a PluginName,
    root: &'a TrustRoot,
) -> impl Iterator<Item = &'a PublicKey> {
    let counts = root.delegations().iter().filter(|delegation| {
        delegation.status == KeyStatus::Active
            && delegation.not_after.is_none_or(|end| root.now() < end)
            && delegation.names.iter().any(|names| names.matches(name))
    });
    counts.map(|delegation| &delegation.key)
}

/// Puts signatures in place of those that are there, in one step. A process that is
/// killed may leave their folder writable by its owner.
pub(super) fn put(plugins_dir: &Path, content: &Path, bytes: &[u8]) -> Result<(), InstallError> {
    let staged = content::incoming(plugins_dir)?;
    content::write_file(staged.path(), SIGNATURES, bytes, 0o444)?;
    let (new, target) = (staged.path().join(SIGNATURES), content.join(SIGNATURES));
    let folder = content.join(META);
    make_movable(&folder)?;
    std::fs::rename(&new, &target).map_err(|error| io_error(&target, error))?;
    sync_dir(&folder)?;
    seal(&folder)
}
