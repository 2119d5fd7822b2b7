//! What a host has loaded, beside what is written down.

use std::collections::BTreeSet;

use orchestrator_manifest::Manifest;

use super::{LockFile, LockFileError, Locked, refuse};
use crate::{
    grants::GrantStore, package::Package, store::Source, trust::TrustRoot, verified::Verified,
};

/// Compares the packages that a host loads, wherever it found them, with a lock file:
/// one after the other, and at the end what is missing.
#[derive(Debug)]
pub struct Comparison {
    locked: LockFile,
    /// The positions of what was found.
    found: BTreeSet<usize>,
    changes: Vec<String>,
}

impl Comparison {
    /// With this lock file.
    pub fn with(locked: LockFile) -> Self {
        Self {
            locked,
            found: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// A package that the host has verified by `root` and may run with `grants`.
    pub fn loaded(&mut self, package: &Verified<Package>, root: &TrustRoot, grants: &GrantStore) {
        let manifest = package.manifest();
        let name = format!("{} {}", manifest.id, manifest.version);
        // Where it was found and where it came from are two things.
        let source = Source {
            location: String::new(),
            archive: None,
        };
        let Some(now) = Locked::of(package, &source, root, grants.list()) else {
            self.changes.push(format!("{name} is not signed"));
            return;
        };
        match self.position(manifest) {
            Some(position) => {
                self.found.insert(position);
                let changes = self.locked.plugins[position].changes(&now);
                self.changes.extend(changes);
            }
            None => self.changes.push(format!("{name} is not in the lock file")),
        }
    }

    /// A package that claims to be what `manifest` says and does not verify. It runs
    /// nowhere, so it is in the way only of what is written down.
    pub fn refused(&mut self, manifest: &Manifest, why: &str) {
        if let Some(position) = self.position(manifest) {
            self.found.insert(position);
            let locked = &self.locked.plugins[position];
            self.changes.push(format!("{locked} is refused: {why}"));
        }
    }

    /// Refuses what is not exactly as it is written down.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Changed`] with every difference, up to a bound.
    pub fn finish(mut self) -> Result<(), LockFileError> {
        for (position, locked) in self.locked.plugins.iter().enumerate() {
            if !self.found.contains(&position) {
                self.changes.push(format!("{locked} is not installed"));
            }
        }
        refuse(self.changes)
    }

    fn position(&self, manifest: &Manifest) -> Option<usize> {
        let version = manifest.version.to_string();
        let plugins = &self.locked.plugins;
        let found = plugins.binary_search_by(|one| one.identity().cmp(&(&manifest.id, &version)));
        found.ok()
    }
}
