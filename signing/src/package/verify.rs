//! Checks a package, in an order that gives an attacker nothing to work with:
//! bounds, then signatures, then what was signed, then the files.

use std::{collections::BTreeMap, io::Read, path::Path, sync::Arc};

use orchestrator_manifest::{FILE_SIZE_MAX, Manifest, PackagePath};

use super::{
    Inner, Package, PackageFile, Publisher, ReleaseInfo, VerifyError,
    file::read_error,
    hashing::hash_each,
    layout::{LISTING, SIGNATURES, is_signature, manifest_format},
    shown,
    tree::{ENTRY_BYTES_MAX, FileFacts, Tree, too_large},
};
use crate::{
    digest::Digest,
    dsse::{ENVELOPE_SIZE_MAX, Envelope, EnvelopeError},
    key::PublicKey,
    statement::{
        API, EntryClaim, FileClaim, PAYLOAD_TYPE, PREDICATE_TYPE, Predicate, STATEMENT_TYPE,
        Statement,
    },
    trust::{Decision, Refused, Release, TrustLevel, TrustRoot},
    verified::Verified,
};

/// Verifies the package in `dir`.
///
/// Blocks: it reads and hashes up to [`BYTES_MAX`](super::BYTES_MAX), piece by piece, on
/// several cores. Call it where blocking is allowed.
///
/// # Errors
///
/// [`VerifyError`]: the first reason found, in this order: the signature file
/// is absent or damaged; no trusted key signed; what was signed is malformed,
/// is for another name, or the key or release is retired or revoked; files
/// are of a special kind, extra, missing or changed; statement and manifest
/// disagree; others could change the folder.
pub fn verify(dir: &Path, trust: &TrustRoot) -> Result<Verified<Package>, VerifyError> {
    verify_named(dir, shown(dir), trust)
}

/// The same for a package that people know as `plugin`, wherever it lies.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_named(
    dir: &Path,
    plugin: String,
    trust: &TrustRoot,
) -> Result<Verified<Package>, VerifyError> {
    let mut tree = Tree::open(dir)?;
    let envelope_bytes = read_envelope(&tree, &plugin)?;
    let envelope = Envelope::parse(&envelope_bytes)?;
    let (payload, signers) = envelope
        .verified_by(PAYLOAD_TYPE, trust.keys())
        .ok_or_else(|| nobody_signed(&envelope, trust, &plugin))?;
    let statement = parse_statement(payload)?;
    let digest = Digest::of(payload);
    let decision = decide(&statement.predicate, digest, trust, &signers)?;
    let predicate = &statement.predicate;
    if !API.overlaps(predicate.api) {
        return Err(VerifyError::Api {
            plugin: predicate.name.to_string(),
            min: predicate.api.min,
            max: predicate.api.max,
        });
    }
    let claims = claims(&statement)?;
    tree.list(dir)?;
    compare_lists(&tree, &claims)?;
    let files = read_files(&tree, &claims)?;
    let manifest = check_predicate(&statement, &files, &plugin)?;
    let mut warnings = decision.warnings.clone();
    warnings.extend(bad_signatures(&envelope, trust, &signers));
    check_exposure(&tree, &decision, &statement.predicate, &mut warnings)?;
    if predicate.expires.is_some_and(|end| end < trust.now()) {
        warnings.push(
            "the release has expired; install a newer one, or check this host's clock".to_owned(),
        );
    }
    Ok(Verified::new(Package(Arc::new(Inner {
        manifest,
        files,
        publisher: Publisher::of(&decision),
        publishers: decision.publishers,
        signers: decision.signers,
        vouchers: decision.vouchers,
        trust_level: decision.trust_level,
        release: Some(release_info(&statement.predicate, digest)),
        warnings,
        origin: plugin,
        envelope: envelope_bytes,
    }))))
}

fn read_envelope(tree: &Tree, plugin: &str) -> Result<Vec<u8>, VerifyError> {
    match tree.read_small(SIGNATURES, ENVELOPE_SIZE_MAX as u64) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(VerifyError::Unsigned {
            plugin: plugin.to_owned(),
        }),
        Err(VerifyError::TooLarge { .. }) => Err(EnvelopeError::TooLarge.into()),
        Err(error) => Err(error),
    }
}

/// Signatures that name a trusted key and are not its own. They count for
/// nothing, and there are enough others.
fn bad_signatures<'t>(
    envelope: &Envelope,
    trust: &'t TrustRoot,
    signers: &[&PublicKey],
) -> impl Iterator<Item = String> + use<'t> {
    let claimed: Vec<_> = envelope.claimed_keys().collect();
    let signers: Vec<_> = signers.iter().map(|key| key.id()).collect();
    trust
        .keys()
        .map(|key| (key.id(), key.name()))
        .filter(move |(id, _)| claimed.contains(id) && !signers.contains(id))
        .map(|(_, name)| {
            format!("a signature names the key `{name}`, is not its own and does not count")
        })
}

/// Which of "unknown key" and "bad signature" to say.
pub(super) fn nobody_signed(envelope: &Envelope, trust: &TrustRoot, plugin: &str) -> VerifyError {
    let plugin = plugin.to_owned();
    if envelope.payload_type() != PAYLOAD_TYPE {
        let purpose = envelope.payload_type().escape_debug().to_string();
        return VerifyError::WrongPurpose { plugin, purpose };
    }
    let claimed: Vec<_> = envelope.claimed_keys().collect();
    match trust.keys().find(|key| claimed.contains(&key.id())) {
        Some(key) => VerifyError::BadSignature {
            plugin,
            key: key.name().to_owned(),
        },
        None => {
            let claimed: Vec<_> = claimed.iter().map(ToString::to_string).collect();
            let keys = if claimed.is_empty() {
                "it names none".to_owned()
            } else {
                claimed.join(", ")
            };
            VerifyError::UntrustedKey { plugin, keys }
        }
    }
}

pub(super) fn parse_statement(payload: &[u8]) -> Result<Statement, VerifyError> {
    let unusable = |reason: String| VerifyError::Statement(reason);
    let statement: Statement =
        serde_json::from_slice(payload).map_err(|error| unusable(error.to_string()))?;
    if statement.statement_type != STATEMENT_TYPE {
        return Err(unusable(format!(
            "unknown type `{}`",
            statement.statement_type.escape_debug()
        )));
    }
    if statement.predicate_type != PREDICATE_TYPE {
        return Err(unusable(format!(
            "unknown predicate `{}`",
            statement.predicate_type.escape_debug()
        )));
    }
    Ok(statement)
}

pub(super) fn decide(
    predicate: &Predicate,
    digest: Digest,
    trust: &TrustRoot,
    signers: &[&PublicKey],
) -> Result<Decision, VerifyError> {
    let release = Release {
        name: &predicate.name,
        serial: predicate.serial,
        digest,
    };
    trust.decide(&release, signers).map_err(|refused| {
        let plugin = predicate.name.to_string();
        match refused {
            Refused::NotDelegated { key } => VerifyError::WrongName { plugin, key },
            Refused::Revoked { key, reason } => VerifyError::RevokedKey {
                plugin,
                key,
                reason,
            },
            Refused::Retired { key } => VerifyError::RetiredKey { plugin, key },
            Refused::BelowMinSerial(min) => VerifyError::TooOld {
                plugin,
                serial: predicate.serial,
                min,
            },
            Refused::Threshold { have, need } => VerifyError::Threshold { plugin, have, need },
            Refused::RevokedDigest { reason } => VerifyError::RevokedRelease { plugin, reason },
        }
    })
}

/// A file as it was signed.
pub(super) struct Claim<'s> {
    digest: Digest,
    file: &'s FileClaim,
}

/// The subjects and the files of the predicate, which have to be the same.
pub(super) fn claims(
    statement: &Statement,
) -> Result<BTreeMap<&PackagePath, Claim<'_>>, VerifyError> {
    let mut files = BTreeMap::new();
    for file in &statement.predicate.files {
        if files.insert(&file.path, file).is_some() {
            return Err(VerifyError::DuplicateSubject {
                path: file.path.to_string(),
            });
        }
    }
    let mut claims = BTreeMap::new();
    for subject in &statement.subject {
        if claims.contains_key(&subject.name) {
            return Err(VerifyError::DuplicateSubject {
                path: subject.name.to_string(),
            });
        }
        let Some(file) = files.remove(&subject.name) else {
            return Err(VerifyError::PredicateMismatch { field: "files" });
        };
        claims.insert(
            &subject.name,
            Claim {
                digest: subject.digest.sha256,
                file,
            },
        );
    }
    if !files.is_empty() || claims.keys().any(|path| is_signature(path.as_str())) {
        return Err(VerifyError::PredicateMismatch { field: "files" });
    }
    Ok(claims)
}

pub(super) fn compare_lists(
    tree: &Tree,
    claims: &BTreeMap<&PackagePath, Claim<'_>>,
) -> Result<(), VerifyError> {
    for path in tree.files.keys() {
        if !is_signature(path.as_str()) && !claims.contains_key(path) {
            return Err(VerifyError::ExtraFile {
                path: path.to_string(),
            });
        }
    }
    for (path, claim) in claims {
        let Some(FileFacts { size, mode }) = tree.files.get(*path).copied() else {
            return Err(VerifyError::MissingFile {
                path: path.to_string(),
            });
        };
        if size != claim.file.size {
            return Err(VerifyError::FileSize {
                path: path.to_string(),
                found: size,
                signed: claim.file.size,
            });
        }
        if mode != claim.file.mode {
            return Err(VerifyError::FileMode {
                path: path.to_string(),
            });
        }
    }
    Ok(())
}

pub(super) fn read_files(
    tree: &Tree,
    claims: &BTreeMap<&PackagePath, Claim<'_>>,
) -> Result<Vec<PackageFile>, VerifyError> {
    let claims: Vec<_> = claims.iter().collect();
    let bytes = claims.iter().map(|(_, claim)| claim.file.size).sum();
    hash_each(claims.len(), bytes, |number| {
        let (path, claim) = claims[number];
        let file = tree.hash(path, claim.file.size, claim.file.mode)?;
        match file.digest() == claim.digest {
            true => Ok(file),
            false => Err(VerifyError::FileDigest {
                path: path.to_string(),
            }),
        }
    })
}

/// The predicate has to repeat what the manifest says.
fn check_predicate(
    statement: &Statement,
    files: &[PackageFile],
    plugin: &str,
) -> Result<Manifest, VerifyError> {
    let predicate = &statement.predicate;
    let differs = |field| Err(VerifyError::PredicateMismatch { field });
    let (manifest_file, manifest) = manifest_of(files, plugin)?;
    if manifest_file.digest() != predicate.manifest_sha256 {
        return differs("manifest_sha256");
    }
    if manifest.id != predicate.name {
        return differs("name");
    }
    if manifest.version.to_string() != predicate.version {
        return differs("version");
    }
    if entry_claim(&manifest, predicate.entry.triple.clone()) != predicate.entry {
        return differs("entry");
    }
    if requested(&manifest) != predicate.capabilities_requested {
        return differs("capabilities_requested");
    }
    let listing = files.iter().find(|file| file.path().as_str() == LISTING);
    let expected = Digest::of(listing_text(files).as_bytes());
    if listing.is_none_or(|file| file.digest() != expected) {
        return differs("META/MANIFEST");
    }
    check_references(&manifest, files)?;
    Ok(manifest)
}

/// The files that the manifest names have to be there, and what is run has to fit
/// into memory.
pub(super) fn check_references(
    manifest: &Manifest,
    files: &[PackageFile],
) -> Result<(), VerifyError> {
    let entry = manifest.entry_path();
    let entry = entry.and_then(|entry| files.iter().find(|file| *file.path() == entry));
    if entry.is_some_and(|entry| entry.size() > ENTRY_BYTES_MAX) {
        return Err(too_large("the entry point"));
    }
    for (_, path) in manifest.referenced_files() {
        if !files.iter().any(|file| *file.path() == path) {
            return Err(VerifyError::MissingFile {
                path: path.to_string(),
            });
        }
    }
    Ok(())
}

/// The one manifest among the files, parsed.
pub(super) fn manifest_of<'f>(
    files: &'f [PackageFile],
    plugin: &str,
) -> Result<(&'f PackageFile, Manifest), VerifyError> {
    let found: Vec<_> = files
        .iter()
        .filter_map(|file| manifest_format(file.path().as_str()).map(|format| (file, format)))
        .collect();
    let [(file, format)] = found[..] else {
        return Err(VerifyError::Manifests {
            plugin: plugin.to_owned(),
            count: found.len(),
        });
    };
    let path = file.path().as_str();
    let mut bytes = Vec::new();
    // One byte more than a manifest may have: the parser says that it is too large.
    file.open()?
        .take(FILE_SIZE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| read_error(path, error))?;
    let manifest = Manifest::parse(&bytes, format, path)
        .map_err(|error| VerifyError::Manifest(Box::new(error)))?;
    Ok((file, manifest))
}

pub(super) fn entry_claim(manifest: &Manifest, triple: Option<String>) -> EntryClaim {
    EntryClaim {
        path: manifest.entry_point.clone(),
        kind: manifest.kind,
        triple,
    }
}

pub(super) fn requested(manifest: &Manifest) -> Vec<String> {
    manifest
        .capabilities
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// `META/MANIFEST`: one line for every file but itself and the signatures,
/// as `sha256sum --check` reads it.
pub(super) fn listing_text(files: &[PackageFile]) -> String {
    let listed = files.iter().filter(|file| file.path().as_str() != LISTING);
    listed
        .map(|file| format!("{}  {}\n", file.digest(), file.path()))
        .collect()
}

/// Our own code may lie where others can write, with a warning; what is less
/// trusted may not.
fn check_exposure(
    tree: &Tree,
    decision: &Decision,
    predicate: &Predicate,
    warnings: &mut Vec<String>,
) -> Result<(), VerifyError> {
    if tree.exposures.is_empty() {
        return Ok(());
    }
    if decision.trust_level < TrustLevel::Internal {
        return Err(VerifyError::Exposed {
            plugin: predicate.name.to_string(),
            reasons: tree.exposures.clone(),
        });
    }
    warnings.extend(tree.exposures.iter().cloned());
    Ok(())
}

fn release_info(predicate: &Predicate, digest: Digest) -> ReleaseInfo {
    ReleaseInfo {
        serial: predicate.serial,
        digest,
        created: predicate.created,
        expires: predicate.expires,
        channel: predicate.channel,
        triple: predicate.entry.triple.clone(),
        api: predicate.api,
    }
}
