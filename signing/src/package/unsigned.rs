//! Plugins that nobody signed, while they are being written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Inner, Package, Publisher, VerifyError, shown,
    tree::Tree,
    verify::{check_references, manifest_of, verify},
};
use crate::{
    trust::{TrustLevel, TrustRoot},
    verified::Verified,
};

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

/// Verifies a package or, where it has no signature and lies in one of `folders`,
/// reads it without, at level 3: who can write there decides what it does.
///
/// # Errors
///
/// As [`verify`]. [`VerifyError::Io`] when one of `folders` is not absolute or not
/// there, and it matters.
pub fn verify_or_unsigned(
    dir: &Path,
    trust: &TrustRoot,
    folders: &[PathBuf],
) -> Result<Verified<Package>, VerifyError> {
    match verify(dir, trust) {
        Err(unsigned @ VerifyError::Unsigned { .. }) if !folders.is_empty() => {
            let allowed = UnsignedPaths::new(folders, TrustLevel::Internal)?;
            match read_unsigned(dir, &allowed) {
                Err(VerifyError::NotListed { .. }) => Err(unsigned),
                read => read,
            }
        }
        verified => verified,
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
    let files = tree.hash_all()?;
    let (_, manifest) = manifest_of(&files, &plugin)?;
    check_references(&manifest, &files)?;
    Ok(Verified::new(Package(Arc::new(Inner {
        manifest,
        files,
        publisher: Publisher::Nobody,
        publishers: Vec::new(),
        signers: Vec::new(),
        vouchers: Vec::new(),
        trust_level: allowed.trust_level,
        release: None,
        warnings: vec![
            "unsigned: anybody who can write to its folder decides what it does".to_owned(),
        ],
        origin: plugin,
        envelope: Vec::new(),
    }))))
}
