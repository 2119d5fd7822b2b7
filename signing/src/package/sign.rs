//! Signs a package.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use jiff::Timestamp;
use miette::Diagnostic;
use orchestrator_manifest::{Channel, Manifest, PackagePath};

use super::{
    PackageFile, VerifyError,
    layout::{LISTING, META, MINISIG, SIGNATURES},
    shown,
    tree::Tree,
    verify::{
        check_references, entry_claim, listing_text, manifest_of, parse_statement, requested,
    },
};
use crate::{
    digest::Digest,
    dsse::{ENVELOPE_SIZE_MAX, Envelope, EnvelopeError},
    durable,
    key::{KeyId, SecretKey},
    statement::{
        API, DigestSet, FileClaim, FileMode, PAYLOAD_TYPE, PREDICATE_TYPE, Predicate,
        STATEMENT_TYPE, Statement, Subject,
    },
};

/// What the publisher decides about a release.
#[derive(Clone, Debug)]
pub struct SignOptions {
    /// Rises with every release of the plugin, whatever its version is.
    pub serial: u64,
    /// When the release was made.
    pub created: Timestamp,
    /// When it should no longer be installed.
    pub expires: Option<Timestamp>,
    /// Whom it is meant for; the manifest's channel when absent.
    pub channel: Option<Channel>,
    /// The platform of a native entry, such as `x86_64-unknown-linux-gnu`.
    pub triple: Option<String>,
}

impl SignOptions {
    /// A release made now, for everybody the manifest says.
    pub fn new(serial: u64) -> Self {
        Self {
            serial,
            created: Timestamp::now(),
            expires: None,
            channel: None,
            triple: None,
        }
    }
}

/// What was signed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignReport {
    /// The plugin's identity.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The serial number of the release.
    pub serial: u64,
    /// The SHA-256 of the signed statement.
    pub digest: Digest,
    /// The key that signed.
    pub key_id: KeyId,
    /// How many files are covered.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Why a package was not signed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum SignError {
    /// The package could not be verified once signed, so it is not signed. What
    /// is wrong with it follows, and the help names its code.
    #[error("the package cannot be signed")]
    #[diagnostic(code("ORC-2070"), help("nothing was written; {}", advice(.0)))]
    Unfit(#[from] VerifyError),
    /// The signature could not be written.
    #[error("`{path}` cannot be written")]
    #[diagnostic(code("ORC-2071"), help("check that the folder can be written to"))]
    Write {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The package is not what the signature to be added to says.
    #[error("the package changed since it was signed")]
    #[diagnostic(code("ORC-2072"), help("sign it anew with every key"))]
    ChangedSince,
}

/// The code and the help of what is wrong.
fn advice(fault: &VerifyError) -> String {
    let parts = [fault.code(), fault.help()];
    let parts = parts.iter().flatten().map(ToString::to_string);
    parts.collect::<Vec<_>>().join(": ")
}

/// Signs the package in `dir` with one key: writes `META/MANIFEST` and
/// `META/signatures.json`, in place of any that were there.
///
/// Blocks: it reads and hashes the whole package, piece by piece.
///
/// # Errors
///
/// [`SignError`]. A package that would not verify is not signed.
pub fn sign(dir: &Path, key: &SecretKey, options: &SignOptions) -> Result<SignReport, SignError> {
    remove_leftovers(dir)?;
    let tree = Tree::open_listed(dir)?;
    let mut files = tree.hash_all()?;
    files.retain(|file| file.path().as_str() != LISTING);
    let (_, manifest) = manifest_of(&files, &shown(dir))?;
    check_references(&manifest, &files)?;
    let listing = listing_text(&files);
    files.push(PackageFile::known(
        &tree.root,
        &PackagePath::parse(LISTING).expect("a constant path parses"),
        FileMode::Data,
        listing.len() as u64,
        Digest::of(listing.as_bytes()),
    ));
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let statement = statement(&manifest, &files, options)?;
    let payload = serde_json::to_vec(&statement).expect("texts and numbers always serialise");
    let digest = Digest::of(&payload);
    let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &[key]).to_json();
    if envelope.len() > ENVELOPE_SIZE_MAX {
        return Err(VerifyError::Envelope(EnvelopeError::TooLarge).into());
    }
    write(dir, LISTING, listing.as_bytes())?;
    write(dir, SIGNATURES, envelope.as_bytes())?;
    Ok(report(&statement, digest, key))
}

/// Adds the signature of one more key, for releases that need several.
///
/// # Errors
///
/// [`SignError::ChangedSince`] when the package is no longer what the first
/// key signed, and whatever [`sign`] may return.
pub fn cosign(dir: &Path, key: &SecretKey) -> Result<SignReport, SignError> {
    let tree = Tree::open_listed(dir)?;
    let Some(bytes) = tree.read_small(SIGNATURES, ENVELOPE_SIZE_MAX as u64)? else {
        return Err(VerifyError::Unsigned { plugin: shown(dir) }.into());
    };
    let mut envelope = Envelope::parse(&bytes).map_err(VerifyError::Envelope)?;
    let signed = parse_statement(envelope.unverified_payload())?;
    let files = tree.hash_all()?;
    let (_, manifest) = manifest_of(&files, &shown(dir))?;
    let options = SignOptions {
        serial: signed.predicate.serial,
        created: signed.predicate.created,
        expires: signed.predicate.expires,
        channel: Some(signed.predicate.channel),
        triple: signed.predicate.entry.triple.clone(),
    };
    // Signing what is there now, said in the words of the first signer.
    if statement(&manifest, &files, &options)? != signed {
        return Err(SignError::ChangedSince);
    }
    let digest = Digest::of(envelope.unverified_payload());
    envelope.countersign(key);
    write(dir, SIGNATURES, envelope.to_json().as_bytes())?;
    Ok(report(&signed, digest, key))
}

fn statement(
    manifest: &Manifest,
    files: &[PackageFile],
    options: &SignOptions,
) -> Result<Statement, VerifyError> {
    let (manifest_file, _) = manifest_of(files, "")?;
    let subject = files.iter().map(|file| Subject {
        name: file.path().clone(),
        digest: DigestSet {
            sha256: file.digest(),
        },
    });
    let claims = files.iter().map(|file| FileClaim {
        path: file.path().clone(),
        size: file.size(),
        mode: file.mode(),
    });
    Ok(Statement {
        statement_type: STATEMENT_TYPE.to_owned(),
        subject: subject.collect(),
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate: Predicate {
            name: manifest.id.clone(),
            version: manifest.version.to_string(),
            serial: options.serial,
            created: options.created,
            expires: options.expires,
            channel: options.channel.unwrap_or(manifest.channel),
            entry: entry_claim(manifest, options.triple.clone()),
            manifest_sha256: manifest_file.digest(),
            capabilities_requested: requested(manifest),
            api: API,
            files: claims.collect(),
        },
    })
}

/// What an interrupted signing, or an earlier one, left in `META`.
fn remove_leftovers(dir: &Path) -> Result<(), SignError> {
    let meta = dir.join(META);
    durable::sweep(&meta).map_err(|source| write_error(&meta, source))?;
    let export = dir.join(MINISIG);
    match fs::remove_file(&export) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(&export, error)),
        _ => Ok(()),
    }
}

fn write(dir: &Path, file: &str, bytes: &[u8]) -> Result<(), SignError> {
    let path = dir.join(file);
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(dir.join(META))
        .and_then(|()| durable::replace(&path, bytes, 0o644))
        .map_err(|source| write_error(&path, source))
}

fn write_error(path: &Path, source: io::Error) -> SignError {
    SignError::Write {
        path: shown(path),
        source,
    }
}

fn report(statement: &Statement, digest: Digest, key: &SecretKey) -> SignReport {
    let predicate = &statement.predicate;
    SignReport {
        name: predicate.name.to_string(),
        version: predicate.version.clone(),
        serial: predicate.serial,
        digest,
        key_id: key.public().id(),
        files: predicate.files.len(),
        bytes: predicate.files.iter().map(|file| file.size).sum(),
    }
}
