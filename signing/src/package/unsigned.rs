//! Plugins that nobody signed, while they are being written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Inner, Package, PackageFile, Publisher, VerifyError, layout::is_signature, shown, tree::Tree,
    verify::manifest_of,
};
use crate::{trust::TrustLevel, verified::Verified};

/// The folders that unsigned plugins may run from, and how far they are then
/// trusted. Comes from the operator's configuration alone.
#[derive(Clone, Debug)]
pub struct UnsignedPaths {
    folders: Vec<PathBuf>,
    trust_level: TrustLevel,
}

impl UnsignedPaths {
    /// Lists folders. Each stands for itself and everything beneath it, where
    /// it is now: links are resolved once, here.
    ///
    /// # Errors
    ///
    /// The folder that is not there, or is not absolute, and why.
    pub fn new(folders: &[PathBuf], trust_level: TrustLevel) -> Result<Self, VerifyError> {
        let resolve = |folder: &PathBuf| {
            let resolved = if folder.is_absolute() {
                folder.canonicalize()
            } else {
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not an absolute path",
                ))
            };
            resolved.map_err(|source| VerifyError::Io {
                path: shown(folder),
                source,
            })
        };
        Ok(Self {
            folders: folders.iter().map(resolve).collect::<Result<_, _>>()?,
            trust_level,
        })
    }

    fn contains(&self, dir: &Path) -> bool {
        self.folders.iter().any(|folder| dir.starts_with(folder))
    }
}

/// Reads a package without looking at signatures, if its folder is listed.
///
/// Everything else is checked as for a signed one: plain files alone, bounds,
/// the manifest. The result says [`Package::is_unsigned`] wherever it goes.
///
/// # Errors
///
/// [`VerifyError::NotListed`], or what is wrong with the package.
pub fn read_unsigned(
    dir: &Path,
    allowed: &UnsignedPaths,
) -> Result<Verified<Package>, VerifyError> {
    let plugin = shown(dir);
    let real = dir.canonicalize().map_err(|source| VerifyError::Io {
        path: plugin.clone(),
        source,
    })?;
    if !allowed.contains(&real) {
        return Err(VerifyError::NotListed { plugin });
    }
    let tree = Tree::open_listed(&real)?;
    let mut files = Vec::with_capacity(tree.files.len());
    for (path, facts) in &tree.files {
        if !is_signature(path.as_str()) {
            let bytes = tree.read(path, facts.size)?.into();
            files.push(PackageFile {
                path: path.clone(),
                mode: facts.mode,
                bytes,
            });
        }
    }
    let (_, manifest) = manifest_of(&files, &plugin)?;
    for (_, path) in manifest.referenced_files() {
        if !files.iter().any(|file| file.path == path) {
            return Err(VerifyError::MissingFile {
                path: path.to_string(),
            });
        }
    }
    Ok(Verified::new(Package(Arc::new(Inner {
        manifest,
        files,
        publisher: Publisher::Nobody,
        trust_level: allowed.trust_level,
        release: None,
        warnings: vec![
            "unsigned: anybody who can write to its folder decides what it does".to_owned(),
        ],
        origin: plugin,
        envelope: Vec::new(),
    }))))
}
