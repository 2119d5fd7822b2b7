//! Where packages come from.
//!
//! To add a kind of source: one file below `source/` with a type that
//! implements [`Source`], and one line in [`of`]. A source fetches; it verifies
//! nothing. What it gives is checked like any other folder.

mod archive;
mod directory;
mod error;
mod http;

use std::path::{Path, PathBuf};

use orchestrator_signing::{
    Digest,
    archive::{Limits, Unpacked},
};

pub(crate) use self::error::SourceError;
use self::{archive::Archive, directory::Directory, http::Http};
use crate::{failure::Result, output::Output};

/// Where a package comes from.
pub(crate) trait Source {
    /// What is said and written down to ask again: an absolute path, or a URL without
    /// what it asks with.
    fn location(&self) -> String;

    /// Whether the same location can only give the same bytes. What such a
    /// source gave once need not be fetched again.
    fn gives_the_same_again(&self) -> bool {
        false
    }

    /// Gets the package into a folder. Blocks; what it leaves behind when it is
    /// interrupted is continued or swept by the next fetch.
    fn fetch(&self, order: &Order) -> Result<Fetched>;
}

/// How something is to be fetched.
pub(crate) struct Order {
    /// A folder of ours for what is not whole yet. It need not exist.
    pub(crate) downloads: PathBuf,
    /// The SHA-256 that an archive has to have.
    pub(crate) digest: Option<Digest>,
    /// How much an archive may hold.
    pub(crate) limits: Limits,
    pub(crate) out: Output,
}

/// A package that was fetched. Its folder goes away with it, unless it is the
/// user's own.
#[derive(Debug)]
pub(crate) struct Fetched {
    dir: PathBuf,
    /// The SHA-256 of the archive, where it was one.
    pub(crate) archive: Option<Digest>,
    _unpacked: Option<Unpacked>,
}

impl Fetched {
    fn folder(dir: PathBuf) -> Self {
        Self {
            dir,
            archive: None,
            _unpacked: None,
        }
    }

    fn unpacked(unpacked: Unpacked, digest: Digest) -> Self {
        Self {
            dir: unpacked.path().to_owned(),
            archive: Some(digest),
            _unpacked: Some(unpacked),
        }
    }

    /// The folder of the package, to be verified there.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The source that a text on the command line means, or one that was written
/// down.
pub(crate) fn of(text: &str) -> Result<Box<dyn Source>> {
    if let Some(http) = Http::parse(text)? {
        return Ok(Box::new(http));
    }
    let path = std::path::absolute(text)?;
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(Box::new(Directory::new(path))),
        Ok(metadata) if metadata.is_file() => Ok(Box::new(Archive::new(path))),
        _ => Err(SourceError::Unknown {
            text: text.to_owned(),
        }
        .into()),
    }
}
