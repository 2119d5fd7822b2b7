//! A package in an archive, on this machine or just downloaded.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    Digest,
    archive::{Limits, unpack_within},
};

use super::{Fetched, Order, Source, SourceError};
use crate::{error::CliError, failure::Result};

pub(super) struct Archive {
    path: PathBuf,
}

impl Archive {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Source for Archive {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch(&self, order: &Order) -> Result<Fetched> {
        let open = || File::open(&self.path);
        let file = open().map_err(|error| CliError::file("read", &self.path, error))?;
        fetched(file, &self.location(), order)
    }
}

/// Unpacks an open archive, once it is known to be the one that was asked for.
pub(super) fn fetched(mut file: File, location: &str, order: &Order) -> Result<Fetched> {
    fs::create_dir_all(&order.downloads)
        .map_err(|error| CliError::file("write", &order.downloads, error))?;
    let digest = digest_of(&mut file, Path::new(location))?;
    if let Some(expected) = order.digest.filter(|expected| *expected != digest) {
        return Err(SourceError::Digest {
            location: location.to_owned(),
            expected,
            found: digest,
        }
        .into());
    }
    // Through the descriptor that was hashed. Somebody who changes the file
    // meanwhile changes what is unpacked, which is then verified by itself.
    io::Seek::rewind(&mut file)?;
    let unpacked = unpack_within(file, &order.downloads, order.limits)?;
    Ok(Fetched::unpacked(unpacked, digest))
}

fn digest_of(file: &mut File, path: &Path) -> Result<Digest> {
    // A device need not end; of what is too large, unpacking says so.
    let most = Limits::default().archive_bytes() + 1;
    Digest::of_reader(file.take(most)).map_err(|error| CliError::file("read", path, error).into())
}
