//! Puts signatures that were made elsewhere, or later, on a package.

use std::{fs, io, path::Path};

use super::{
    ReleasePayload, ReleaseSummary, SignError, VerifyError,
    layout::{LISTING, MINISIG, SIGNATURES},
    shown,
    sign::{SignOptions, contents, write, write_error},
    tree::Tree,
    verify::manifest_of,
};
use crate::{
    dsse::{ENVELOPE_SIZE_MAX, Envelope},
    key::{PublicKey, SecretKey},
    minisign::MinisignSignature,
    statement::{PAYLOAD_TYPE, Statement},
};

/// What the package in `dir` is signed as, to be signed by one more key.
///
/// # Errors
///
/// [`SignError::ChangedSince`] when the package is no longer what was signed.
pub fn signed_payload(dir: &Path) -> Result<ReleasePayload, SignError> {
    let tree = Tree::open_listed(dir)?;
    let Some(envelope) = present(&tree)? else {
        return Err(VerifyError::Unsigned { plugin: shown(dir) }.into());
    };
    let payload = ReleasePayload::parse(envelope.unverified_payload())?;
    check_same(&tree, &payload, dir)?;
    Ok(payload)
}

/// Adds the signature of one more key, for releases that need several.
///
/// # Errors
///
/// [`SignError::ChangedSince`] when the package is no longer what the first
/// key signed, and whatever [`attach`] may return.
pub fn cosign(dir: &Path, key: &SecretKey) -> Result<ReleaseSummary, SignError> {
    let payload = signed_payload(dir)?;
    let signature = key.sign(&payload.message());
    let envelope = payload.envelope(key.public(), &signature)?;
    attach(dir, &envelope, &[key.public().clone()], false)
}

/// Puts those signatures of `envelope` that `keys` made on the package in `dir`,
/// beside those of other keys that are there. Those of another release are in the
/// way, unless `replace` says to drop them.
///
/// Blocks: it reads and hashes the whole package, piece by piece. Killed at any
/// moment, it leaves the old signatures or the new ones.
///
/// # Errors
///
/// [`SignError`]; nothing is written. In this order: none of `keys` signed; the
/// envelope is for other files than those in `dir`; the package is signed as
/// another release.
pub fn attach(
    dir: &Path,
    envelope: &Envelope,
    keys: &[PublicKey],
    replace: bool,
) -> Result<ReleaseSummary, SignError> {
    let Some((payload, signers)) = envelope.verified_by(PAYLOAD_TYPE, keys) else {
        let keys: Vec<_> = keys.iter().map(|key| format!("`{}`", key.name())).collect();
        let keys = match keys.is_empty() {
            true => "any known key".to_owned(),
            false => keys.join(" or "),
        };
        return Err(SignError::ForeignSignature { keys });
    };
    let payload = ReleasePayload::parse(payload)?;
    let tree = Tree::open_listed(dir)?;
    check_same(&tree, &payload, dir)?;
    let mut signed = match present(&tree) {
        Ok(Some(present)) if payload.is_same(&present) => present,
        Ok(Some(present)) if !replace => {
            let present = ReleasePayload::parse(present.unverified_payload())?;
            let serial = present.summary().serial;
            return Err(SignError::OtherRelease { serial });
        }
        Err(error) if !replace => return Err(error),
        _ => {
            drop_export(dir)?;
            let (kind, bytes) = (envelope.payload_type(), envelope.unverified_payload());
            Envelope::unsigned(kind, bytes.to_vec())
        }
    };
    for key in signers {
        if let Some(signature) = envelope.signature_of(key) {
            signed.add(key, &signature)?;
        }
    }
    write(dir, LISTING, payload.listing().as_bytes())?;
    write(dir, SIGNATURES, signed.to_json().as_bytes())?;
    Ok(payload.summary())
}

/// Writes `META/MANIFEST.minisig`, so that `minisign -V` and `sha256sum -c`
/// verify the package without this program. The package is signed already.
///
/// # Errors
///
/// [`SignError::Minisign`] when it is no signature of this key over the listing.
pub fn attach_minisig(
    dir: &Path,
    key: &PublicKey,
    signature: &MinisignSignature,
) -> Result<(), SignError> {
    let payload = signed_payload(dir)?;
    signature.verify(key, payload.listing().as_bytes())?;
    write(dir, MINISIG, signature.to_text().as_bytes())
}

/// An export for other tools that belongs to another release would mislead.
pub(super) fn drop_export(dir: &Path) -> Result<(), SignError> {
    let export = dir.join(MINISIG);
    match fs::remove_file(&export) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(&export, error)),
        _ => Ok(()),
    }
}

/// The signatures that are there.
fn present(tree: &Tree) -> Result<Option<Envelope>, SignError> {
    let bytes = tree.read_small(SIGNATURES, ENVELOPE_SIZE_MAX as u64)?;
    let envelope = bytes.map(|bytes| Envelope::parse(&bytes));
    Ok(envelope.transpose().map_err(VerifyError::Envelope)?)
}

/// Says of what is there now what the signer said, and compares.
fn check_same(tree: &Tree, payload: &ReleasePayload, dir: &Path) -> Result<(), SignError> {
    let signed = payload.statement();
    let (_, files) = contents(tree, &[])?;
    let (_, manifest) = manifest_of(&files, &shown(dir))?;
    let options = SignOptions {
        serial: signed.predicate.serial,
        created: signed.predicate.created,
        expires: signed.predicate.expires,
        channel: Some(signed.predicate.channel),
        triple: signed.predicate.entry.triple.clone(),
        attestations: Vec::new(),
    };
    let found = super::sign::statement(&manifest, &files, &options)?;
    match found == *signed {
        true => Ok(()),
        false => Err(SignError::ChangedSince {
            what: difference(&found, signed),
        }),
    }
}

/// What differs first, for people.
fn difference(found: &Statement, signed: &Statement) -> String {
    for subject in &signed.subject {
        let same = found.subject.iter().find(|it| it.name == subject.name);
        match same {
            None => return format!("`{}` is missing", subject.name),
            Some(it) if it.digest != subject.digest && it.name.as_str() != LISTING => {
                return format!("`{}` is another", subject.name);
            }
            _ => {}
        }
    }
    for subject in &found.subject {
        if !signed.subject.iter().any(|it| it.name == subject.name) {
            return format!("`{}` is new", subject.name);
        }
    }
    let (found, signed) = (&found.predicate, &signed.predicate);
    if found.name != signed.name || found.version != signed.version {
        return "it is another release".to_owned();
    }
    "the mode of a file, or what the manifest says".to_owned()
}
