//! Signs a package.

mod error;

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use orchestrator_manifest::{Channel, Manifest, PackagePath};

pub use self::error::SignError;
use super::{
    PackageFile, ReleasePayload, ReleaseSummary, VerifyError,
    attach::drop_export,
    attestation::path_for,
    layout::{LISTING, META, SIGNATURES},
    shown,
    tree::Tree,
    verify::{check_references, entry_claim, listing_text, manifest_of, requested},
};
use crate::{
    digest::Digest,
    durable,
    key::{PublicKey, SIGNATURE_LEN, SecretKey},
    statement::{
        API, DigestSet, FileClaim, FileMode, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, Statement,
        Subject,
    },
};

/// Of what lies in `META`.
const MODE: u32 = 0o644;

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
    /// Attestations to carry along, as file name and bytes. Those that lie in
    /// `META` already are carried along anyway.
    pub attestations: Vec<(String, Vec<u8>)>,
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
            attestations: Vec::new(),
        }
    }
}

/// Whether every file in `dir` can be part of a package. Reads none of them.
///
/// # Errors
///
/// [`SignError::Unfit`] for names and kinds of files that no package has.
pub fn check_files(dir: &Path) -> Result<(), SignError> {
    Tree::open_listed(dir)?;
    Ok(())
}

/// A package that is ready to be signed. Nothing has been written.
#[derive(Debug)]
pub struct Draft {
    dir: PathBuf,
    payload: ReleasePayload,
    /// What lies in `META` once it is signed.
    extra: Vec<(PackagePath, Vec<u8>)>,
}

impl Draft {
    /// Reads the package in `dir`.
    ///
    /// Blocks: it reads and hashes the whole package, piece by piece.
    ///
    /// # Errors
    ///
    /// [`SignError`]. A package that would not verify cannot be signed.
    pub fn new(dir: &Path, options: &SignOptions) -> Result<Self, SignError> {
        let tree = Tree::open_listed(dir)?;
        let mut extra = Vec::new();
        for (name, bytes) in &options.attestations {
            extra.push((path_for(name, bytes)?, bytes.clone()));
        }
        let (listing, files) = contents(&tree, &extra)?;
        let (_, manifest) = manifest_of(&files, &shown(dir))?;
        check_references(&manifest, &files)?;
        extra.push((listing_path(), listing.into_bytes()));
        Ok(Self {
            dir: dir.to_owned(),
            payload: ReleasePayload::new(statement(&manifest, &files, options)?),
            extra,
        })
    }

    /// What is to be signed.
    pub fn payload(&self) -> &ReleasePayload {
        &self.payload
    }

    /// Writes `META/MANIFEST` and `META/signatures.json` with this signature, in
    /// place of any that were there. Killed at any moment, it leaves a package
    /// that verifies as the old release or as the new one; or not at all where it did
    /// not before or gets another attestation.
    ///
    /// # Errors
    ///
    /// [`SignError`]. A signature that is not this key's over
    /// [the payload](Self::payload) is not written.
    pub fn seal(
        self,
        key: &PublicKey,
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<ReleaseSummary, SignError> {
        let envelope = self.payload.envelope(key, signature);
        let envelope = envelope.map_err(VerifyError::Envelope)?.to_json();
        // Where nothing but the signatures changes, what was signed before is so until
        // they do; an export that is there a little longer is good for the same files.
        let is_signed_otherwise = self.extra.iter().any(|it| !is_there(&self.dir, it));
        if is_signed_otherwise {
            drop_export(&self.dir)?;
            for (path, bytes) in &self.extra {
                write(&self.dir, path.as_str(), bytes)?;
            }
        }
        write(&self.dir, SIGNATURES, envelope.as_bytes())?;
        drop_export(&self.dir)?;
        Ok(self.payload.summary())
    }
}

/// Signs the package in `dir` with one key; see [`Draft`].
///
/// # Errors
///
/// [`SignError`]. A package that would not verify is not signed.
pub fn sign(
    dir: &Path,
    key: &SecretKey,
    options: &SignOptions,
) -> Result<ReleaseSummary, SignError> {
    remove_leftovers(dir)?;
    let draft = Draft::new(dir, options)?;
    let signature = key.sign(&draft.payload().message());
    draft.seal(key.public(), &signature)
}

/// What an interrupted signing left in `META`.
///
/// # Errors
///
/// [`SignError::Write`] when it cannot be removed.
pub fn remove_leftovers(dir: &Path) -> Result<(), SignError> {
    let meta = dir.join(META);
    durable::sweep(&meta).map_err(|source| write_error(&meta, source))
}

/// The listing, and every file that a signature covers once `extra` lies there.
pub(super) fn contents(
    tree: &Tree,
    extra: &[(PackagePath, Vec<u8>)],
) -> Result<(String, Vec<PackageFile>), VerifyError> {
    let mut files = tree.hash_all()?;
    let is_written = |path: &PackagePath| {
        path.as_str() == LISTING || extra.iter().any(|(other, _)| other == path)
    };
    files.retain(|file| !is_written(file.path()));
    let known = |path: &PackagePath, bytes: &[u8]| {
        let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
        PackageFile::known(&tree.root, path, FileMode::Data, size, digest)
    };
    files.extend(extra.iter().map(|(path, bytes)| known(path, bytes)));
    files.sort_by(|a, b| a.path().cmp(b.path()));
    let listing = listing_text(&files);
    files.push(known(&listing_path(), listing.as_bytes()));
    files.sort_by(|a, b| a.path().cmp(b.path()));
    Ok((listing, files))
}

/// Whether a file with these bytes, and of the mode that it gets, is there.
fn is_there(dir: &Path, (path, bytes): &(PackagePath, Vec<u8>)) -> bool {
    let path = dir.join(path.as_str());
    let is_plain = path.symlink_metadata().is_ok_and(|facts| {
        facts.is_file() && facts.mode() & 0o7777 == MODE && facts.len() == bytes.len() as u64
    });
    is_plain && fs::read(&path).is_ok_and(|there| there == *bytes)
}

fn listing_path() -> PackagePath {
    PackagePath::parse(LISTING).expect("a constant path parses")
}

pub(super) fn statement(
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

pub(super) fn write(dir: &Path, file: &str, bytes: &[u8]) -> Result<(), SignError> {
    let path = dir.join(file);
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(dir.join(META))
        .and_then(|()| replace(dir, &path, bytes))
        .map_err(|source| write_error(&path, source))
}

/// Puts a file in place. Until it is whole it lies beside the package, because every
/// file in a package counts; where that cannot be, it lies in `META`.
fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    if let (Some(parent), Some(name), Some(file)) =
        (dir.parent(), dir.file_name(), path.file_name())
    {
        let names = [".staged-".as_ref(), name, "-".as_ref(), file];
        let staged = parent.join(names.into_iter().collect::<OsString>());
        if durable::replace_from(staged, path, bytes, MODE).is_ok() {
            return Ok(());
        }
    }
    durable::replace(path, bytes, MODE)
}

pub(super) fn write_error(path: &Path, source: io::Error) -> SignError {
    SignError::Write {
        path: shown(path),
        source,
    }
}
