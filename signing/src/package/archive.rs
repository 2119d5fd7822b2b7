//! A package in one file: `NAME-VERSION.opkg`.
//!
//! It is a tar archive, compressed with gzip, so that `tar xzf` unpacks it too,
//! in the one form that [`pack`] writes: sorted, plain files alone, no times, no
//! owners, two modes. A seal at its end tells a damaged download from a forged
//! archive.
//!
//! [`unpack`] reads any bytes whatever: piece by piece, in bounded memory, into a
//! private folder that nothing leaves and that is gone unless it is kept. It
//! refuses what [`pack`] would not have written. It does not look at
//! signatures: [`verify`](crate::verify) does, on the folder, as for any other
//! package; [`open`] does both.
//!
//! From the outside in: `seal.rs`, `inflate.rs`, `entries.rs` with `head.rs` and
//! `names.rs`, then `staged.rs`.

mod entries;
mod error;
mod head;
mod inflate;
mod limits;
mod names;
mod seal;
mod staged;
mod write;

use std::{io::Read, path::Path};

use self::{
    entries::Entries,
    inflate::Inflate,
    names::Names,
    seal::{Sealed, Verdict},
    staged::Staged,
};
pub use self::{
    error::ArchiveError,
    limits::{Limits, RATIO_MAX},
    write::{PackReport, pack},
};
use crate::{
    package::{Package, shown, verify_named},
    trust::TrustRoot,
    verified::Verified,
};

/// A package that was unpacked to a private folder. The folder goes away with
/// it, unless it is [kept](Self::keep); if the process is killed before, with
/// the next [`unpack`] beside it.
#[derive(Debug)]
pub struct Unpacked {
    staged: Staged,
    files: usize,
    bytes: u64,
}

impl Unpacked {
    /// The folder of the package, to be verified there.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// How many files it has.
    pub fn files(&self) -> usize {
        self.files
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Moves the folder to `target`, which must not exist and has to lie in the
    /// file system that was unpacked to. Its bytes are on the disk before it
    /// has its name.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Exists`] and [`ArchiveError::Write`]; the folder is then
    /// gone, and what was at `target` untouched.
    pub fn keep(self, target: &Path) -> Result<(), ArchiveError> {
        self.staged.keep(target)
    }
}

/// Unpacks an archive to a private folder in `dest`, a folder that exists.
/// Nothing is verified yet.
///
/// Blocks. Reads no more than an archive within the limits has, so it ends if
/// `archive` does or is endless; a source that gives nothing has to time out by
/// itself.
///
/// # Errors
///
/// [`ArchiveError`]; nothing is then left in `dest`.
pub fn unpack(archive: impl Read, dest: &Path) -> Result<Unpacked, ArchiveError> {
    unpack_within(archive, dest, Limits::default())
}

/// As [`unpack`], with lower limits.
///
/// # Errors
///
/// As [`unpack`].
pub fn unpack_within(
    archive: impl Read,
    dest: &Path,
    limits: Limits,
) -> Result<Unpacked, ArchiveError> {
    let limits = limits.lowered();
    let staged = Staged::new(dest)?;
    let input = Sealed::new(archive, limits.archive_bytes());
    let (mut input, opened) = Inflate::open(input, limits);
    let outcome = opened.and_then(|()| {
        let counts = write_files(&mut input, &staged, limits)?;
        input.close()?;
        Ok(counts)
    });
    let (files, bytes) = judge(outcome, &mut input, &limits)?;
    Ok(Unpacked {
        staged,
        files,
        bytes,
    })
}

/// Unpacks an archive and verifies the package in it. The package can be read
/// for as long as the folder is there. `name` is what messages call it.
///
/// # Errors
///
/// As [`unpack`] and [`verify`](crate::verify).
pub fn open(
    archive: impl Read,
    name: &Path,
    dest: &Path,
    trust: &TrustRoot,
) -> Result<(Unpacked, Verified<Package>), ArchiveError> {
    let unpacked = unpack(archive, dest)?;
    let package = verify_named(unpacked.path(), shown(name), trust)?;
    Ok((unpacked, package))
}

/// Writes every file. Returns how many there are and their bytes.
fn write_files(
    input: &mut impl Read,
    staged: &Staged,
    limits: Limits,
) -> Result<(usize, u64), ArchiveError> {
    let mut entries = Entries::new(input, limits);
    let mut names = Names::default();
    let mut files = 0;
    while let Some(head) = entries.next_head()? {
        for folder in names.admit(&head.path, &limits)? {
            staged.folder(&folder)?;
        }
        let mut file = staged.file(&head.path, head.mode)?;
        let written = entries.copy_to(&head, &mut file)?;
        written.map_err(|error| staged.error(head.path.as_str(), error))?;
        files += 1;
    }
    Ok((files, entries.bytes()))
}

/// What to say of an archive, now that what came out of it is known: a damaged
/// one is damaged, whatever it looks like.
fn judge<T>(
    outcome: Result<T, ArchiveError>,
    input: &mut Inflate<impl Read>,
    limits: &Limits,
) -> Result<T, ArchiveError> {
    if let Err(ArchiveError::Read(_) | ArchiveError::Write { .. }) = &outcome {
        return outcome;
    }
    match (input.verdict()?, outcome) {
        (Verdict::Intact, outcome) => outcome,
        (Verdict::Damaged, _) => Err(ArchiveError::Damaged("its checksum is wrong")),
        (Verdict::Unsealed, Err(ArchiveError::NotAnArchive)) => Err(ArchiveError::NotAnArchive),
        (Verdict::Unsealed, _) => Err(ArchiveError::Damaged("its end is missing")),
        (Verdict::Endless, Err(error)) => Err(error),
        (Verdict::Endless, Ok(_)) => Err(ArchiveError::TooLarge {
            path: "the archive itself".to_owned(),
            what: "its size",
            max: limits.archive_bytes(),
        }),
    }
}
