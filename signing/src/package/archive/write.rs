//! Makes an archive of a signed package. The same package gives the same bytes.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use orchestrator_manifest::PackagePath;

use super::{
    ArchiveError, Limits,
    head::{BLOCK, Head},
    names::Names,
    seal::Sealing,
    staged::write_error,
};
use crate::{
    digest::Digest,
    dsse::{ENVELOPE_SIZE_MAX, Envelope},
    package::{
        PackageFile, VerifyError,
        file::read_error,
        layout::SIGNATURES,
        shown,
        tree::{FileFacts, Tree},
        verify::{claims, compare_lists, parse_statement, read_files},
    },
    statement::FileMode,
};

/// What was packed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PackReport {
    /// The plugin's identity.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many files are in the archive, signatures included.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many bytes the archive has.
    pub archive_bytes: u64,
    /// The SHA-256 of the archive.
    pub digest: Digest,
}

/// Packs the signed package in `dir` into `out`.
///
/// The files have to be what was signed; by whom, and whether anybody trusts
/// the key, only [`verify`](crate::verify) says. Empty folders are left out: no
/// signature knows of them.
///
/// Blocks: it reads the package twice, piece by piece.
///
/// # Errors
///
/// [`ArchiveError`]; what was written to `out` until then is no archive.
pub fn pack(dir: &Path, out: impl Write) -> Result<PackReport, ArchiveError> {
    let tree = Tree::open_listed(dir)?;
    let envelope = tree.read_small(SIGNATURES, ENVELOPE_SIZE_MAX as u64)?;
    let envelope = envelope.ok_or_else(|| VerifyError::Unsigned { plugin: shown(dir) })?;
    let envelope = Envelope::parse(&envelope).map_err(VerifyError::Envelope)?;
    let statement = parse_statement(envelope.unverified_payload())?;
    let claims = claims(&statement)?;
    compare_lists(&tree, &claims)?;
    let files = read_files(&tree, &claims)?;
    let mut writer = Writer::new(out);
    for (path, facts) in &tree.files {
        let position = files.binary_search_by(|file| file.path().cmp(path));
        let file = position.ok().and_then(|position| files.get(position));
        writer.add(&tree, path, *facts, file)?;
    }
    let (files, bytes) = (writer.files, writer.bytes);
    let (archive_bytes, digest) = writer.finish()?;
    Ok(PackReport {
        name: statement.predicate.name.to_string(),
        version: statement.predicate.version.clone(),
        files,
        bytes,
        archive_bytes,
        digest,
    })
}

struct Writer<W: Write> {
    out: GzEncoder<Sealing<W>>,
    names: Names,
    files: usize,
    bytes: u64,
    /// Before compression.
    unpacked: u64,
}

impl<W: Write> Writer<W> {
    fn new(out: W) -> Self {
        let header = GzBuilder::new().mtime(0).operating_system(255);
        Self {
            out: header.write(Sealing::new(out), Compression::default()),
            names: Names::default(),
            files: 0,
            bytes: 0,
            unpacked: 0,
        }
    }

    /// Adds a file: one that was read before, or a signature.
    fn add(
        &mut self,
        tree: &Tree,
        path: &PackagePath,
        facts: FileFacts,
        file: Option<&PackageFile>,
    ) -> Result<(), ArchiveError> {
        // What a reader would refuse is not written.
        self.names.admit(path, &Limits::default())?;
        let gone = || VerifyError::MissingFile {
            path: path.to_string(),
        };
        match file {
            Some(file) => self.entry(path, facts.mode, file.size(), file.open()?),
            None => {
                let bytes = tree.read_small(path.as_str(), ENVELOPE_SIZE_MAX as u64)?;
                let bytes = bytes.ok_or_else(gone)?;
                self.entry(path, facts.mode, bytes.len() as u64, &bytes[..])
            }
        }
    }

    fn entry(
        &mut self,
        path: &PackagePath,
        mode: FileMode,
        size: u64,
        mut bytes: impl Read,
    ) -> Result<(), ArchiveError> {
        let head = Head {
            path: path.clone(),
            mode,
            size,
        };
        self.block(&head.to_bytes())?;
        let mut piece = vec![0; 64 * 1024];
        loop {
            let count = bytes
                .read(&mut piece)
                .map_err(|error| read_error(path.as_str(), error))?;
            if count == 0 {
                break;
            }
            self.block(&piece[..count])?;
        }
        // Less than a block, so it fits any integer.
        let used = (size % BLOCK as u64) as usize;
        self.block(&[0; BLOCK][..(BLOCK - used) % BLOCK])?;
        self.files += 1;
        self.bytes += size;
        Ok(())
    }

    fn block(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.unpacked += bytes.len() as u64;
        self.out.write_all(bytes).map_err(write_failed)
    }

    /// Writes the end. Returns size and digest of the archive.
    fn finish(mut self) -> Result<(u64, Digest), ArchiveError> {
        self.block(&[0; 2 * BLOCK])?;
        let sealing = self.out.finish().map_err(write_failed)?;
        let limits = Limits::default();
        if !limits.allows_ratio(sealing.written(), self.unpacked) {
            let max = limits.ratio;
            return Err(ArchiveError::Ratio { max });
        }
        sealing.finish().map_err(write_failed)
    }
}

fn write_failed(error: io::Error) -> ArchiveError {
    write_error(Path::new("the archive"), error)
}
