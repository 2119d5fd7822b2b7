//! Where a content of the store came from: a small file beside it.
//!
//! Nothing about trust is read from it. It says what to ask again when there
//! may be a newer release, and what a lock file writes down as the source.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

use super::{
    content,
    error::{InstallError, io_error},
};
use crate::{
    digest::Digest,
    durable::{self, Want},
};

const SIZE_MAX: u64 = 16 * 1024;

/// Where a package was fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// An absolute path, or a URL without user name and password.
    pub location: String,
    /// The SHA-256 of the archive, where it was one.
    pub archive: Option<Digest>,
}

impl Source {
    /// A package in a folder.
    pub fn folder(dir: &Path) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let location = dir.display().to_string();
        Self {
            location,
            archive: None,
        }
    }
}

/// What is remembered of an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Receipt {
    /// The plugin.
    pub plugin: PluginName,
    /// Its version.
    pub version: String,
    /// The SHA-256 of the signed statement.
    pub statement: Digest,
    /// Where it was fetched from: an absolute path or a URL.
    pub source: String,
    /// The SHA-256 of the archive, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Digest>,
    /// When.
    pub installed_at: Timestamp,
}

impl Receipt {
    /// The source as it was given when the package was installed.
    pub fn source(&self) -> Source {
        Source {
            location: self.source.clone(),
            archive: self.archive,
        }
    }
}

/// What is remembered of the content `tree`. A receipt that is not there or
/// cannot be read is none: all it tells is where to ask again.
pub fn receipt(plugins_dir: &Path, tree: Digest) -> Option<Receipt> {
    let want = Want {
        size_max: SIZE_MAX,
        is_private: false,
    };
    let bytes = durable::read(&path(plugins_dir, tree), want).ok()?;
    serde_json::from_slice(&bytes).ok()
}

pub(super) fn write(
    plugins_dir: &Path,
    tree: Digest,
    receipt: &Receipt,
) -> Result<(), InstallError> {
    let path = path(plugins_dir, tree);
    let text = serde_json::to_vec(receipt).expect("texts and digests always serialise");
    durable::replace(&path, &text, 0o644).map_err(|error| io_error(&path, error))
}

pub(super) fn remove(plugins_dir: &Path, tree: Digest) -> Result<(), InstallError> {
    let path = path(plugins_dir, tree);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
        _ => Ok(()),
    }
}

fn path(plugins_dir: &Path, tree: Digest) -> PathBuf {
    content::path_of(plugins_dir, tree).with_extension("json")
}
