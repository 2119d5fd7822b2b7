//! One version that was released for several platforms: one of them is installed
//! here, the others are written down beside it for hosts that have another.

use super::{LockFile, LockFileError, Locked, entry::signers};
use crate::{package::Package, trust::TrustRoot, verified::Verified};

impl LockFile {
    /// Takes over what `before` has of further platforms, for every release that is
    /// there still.
    pub fn keep_platforms(&mut self, before: &Self) {
        for locked in &mut self.plugins {
            if let Some(before) = before.find(locked)
                && before.serial == locked.serial
            {
                locked.keep_platforms(before);
            }
        }
    }

    /// Adds a release of an installed version for another platform.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Platform`] when it is not a release of the same version with
    /// the same number and keys for a platform that is not there yet.
    pub fn add_platform(
        &mut self,
        package: &Verified<Package>,
        root: &TrustRoot,
    ) -> Result<(), LockFileError> {
        let manifest = package.manifest();
        let (name, version) = (&manifest.id, manifest.version.to_string());
        let refused = |why: &str| LockFileError::Platform {
            release: format!("{name} {version}"),
            why: why.to_owned(),
        };
        let release = package.release().ok_or_else(|| refused("is not signed"))?;
        let platform = release.triple.as_ref();
        let platform = platform.ok_or_else(|| refused("is for no platform of its own"))?;
        let found = self
            .plugins
            .iter_mut()
            .find(|one| one.name == *name && one.version == version);
        let locked = found.ok_or_else(|| refused("is not installed for any platform"))?;
        if locked.serial != release.serial {
            return Err(refused("has another serial than what is installed"));
        }
        let signers = signers(package, root);
        if !locked.keys.iter().all(|key| signers.contains(key)) {
            return Err(refused("is signed by other keys than what is installed"));
        }
        if !locked.insert_platform(platform, package, release.digest) {
            return Err(refused(
                "is written down for this platform with other content",
            ));
        }
        locked.check().map_err(|why| refused(&why))
    }
}

impl Locked {
    fn keep_platforms(&mut self, before: &Self) {
        // The one that `statement` was of when it was written.
        let first = before
            .trees
            .keys()
            .find(|it| !before.statements.contains_key(*it));
        let first = first.map(|platform| (platform, &before.statement));
        for (platform, statement) in before.statements.iter().chain(first) {
            if !self.trees.contains_key(platform) {
                self.statements.insert(platform.clone(), *statement);
            }
        }
        for (platform, tree) in &before.trees {
            self.trees.entry(platform.clone()).or_insert(*tree);
        }
    }
}
