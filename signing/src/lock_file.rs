//! `orchestrator.lock`: exactly which releases a home has, as text that is kept
//! beside pipelines and compared.
//!
//! TOML, sorted by name and version, the same bytes for the same content. What
//! is written down comes from verified packages alone.

mod entry;
mod error;
mod loaded;
mod number;
mod platforms;

use std::{collections::BTreeSet, io, path::Path};

use serde::{Deserialize, Serialize};

pub use self::{entry::Locked, error::LockFileError, loaded::Comparison};
use crate::{
    digest::Digest,
    durable::{self, ReadError, Want},
    grants::GrantStore,
    package::{Package, verify},
    store::{Source, installed, receipt, tree_digest},
    toml_fault::on_one_line,
    trust::TrustRoot,
    verified::Verified,
};

/// Most bytes of a lock file.
pub const LOCK_FILE_SIZE_MAX: u64 = 16 * 1024 * 1024;
/// Most versions in it.
const PLUGINS_MAX: usize = 20_000;
/// How many differences are told at once.
const CHANGES_MAX: usize = 20;
const VERSION: u32 = 1;
const HEADER: &str = "# Written by `orchestrator plugin lock`; do not edit.\n";

/// Which releases a home has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFile {
    /// Sorted by name and version, each there once.
    plugins: Vec<Locked>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: u32,
    #[serde(default, rename = "plugin", skip_serializing_if = "Vec::is_empty")]
    plugins: Vec<Locked>,
}

impl LockFile {
    /// What is installed in `plugins_dir` now, verified.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Store`] when the store cannot be listed,
    /// [`LockFileError::Damaged`] when something in it does not verify: such a
    /// home is not worth writing down.
    pub fn of_store(
        plugins_dir: &Path,
        root: &TrustRoot,
        grants: &GrantStore,
    ) -> Result<Self, LockFileError> {
        let mut plugins = Vec::new();
        for version in installed(plugins_dir)? {
            let package = verify(&version.path, root).map_err(|source| LockFileError::Damaged {
                plugin: version.name.clone(),
                version: version.version.clone(),
                source: Box::new(source),
            })?;
            let tree = tree_digest(&package);
            let source = match receipt(plugins_dir, tree) {
                Some(receipt) => receipt.source(),
                None => Source::folder(&version.path),
            };
            plugins.extend(Locked::of(&package, &source, root, grants.list()));
        }
        plugins.sort_by(|one, other| one.identity().cmp(&other.identity()));
        Ok(Self { plugins })
    }

    /// Reads the file at `path`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Unusable`] for everything that [`Self::parse`] refuses.
    pub fn read(path: &Path) -> Result<Option<Self>, LockFileError> {
        let want = Want {
            size_max: LOCK_FILE_SIZE_MAX,
            is_private: false,
        };
        let unusable = |reason: String| LockFileError::Unusable {
            path: path.display().to_string(),
            reason,
        };
        let bytes = match durable::read(path, want) {
            Ok(bytes) => bytes,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(ReadError::Io(error)) => return Err(LockFileError::io(path, error)),
            Err(other) => return Err(unusable(other.to_string())),
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| unusable(error.to_string()))?;
        Self::parse(text).map(Some).map_err(unusable)
    }

    /// Reads the file at `path`, which has to be there.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Missing`], and those of [`Self::read`].
    pub fn need(path: &Path) -> Result<Self, LockFileError> {
        let missing = || LockFileError::Missing {
            path: path.display().to_string(),
        };
        Self::read(path)?.ok_or_else(missing)
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    ///
    /// A sentence for people: it is no TOML, has a key that nobody knows, a
    /// value that is out of bounds, or the same version twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() as u64 > LOCK_FILE_SIZE_MAX {
            return Err(format!("larger than {LOCK_FILE_SIZE_MAX} bytes"));
        }
        let file: FileText = toml::from_str(text).map_err(|error| on_one_line(text, &error))?;
        if file.version != VERSION {
            return Err(format!("version {}, not {VERSION}", file.version));
        }
        if file.plugins.len() > PLUGINS_MAX {
            return Err(format!("more than {PLUGINS_MAX} plugins"));
        }
        let mut plugins = file.plugins;
        for plugin in &plugins {
            plugin.check()?;
        }
        plugins.sort_by(|one, other| one.identity().cmp(&other.identity()));
        for pair in plugins.windows(2) {
            if pair[0].identity() == pair[1].identity() {
                return Err(format!("{} is there twice", pair[0]));
            }
        }
        Ok(Self { plugins })
    }

    /// Its text: the same for the same content.
    ///
    /// # Errors
    ///
    /// When it cannot be written as TOML, which no number in it is too large for.
    pub fn to_text(&self) -> Result<String, String> {
        let file = FileText {
            version: VERSION,
            plugins: self.plugins.clone(),
        };
        let body = toml::to_string(&file).map_err(|error| error.to_string())?;
        Ok(format!("{HEADER}{body}"))
    }

    /// Puts it in place of the file at `path`: afterwards there is the old one or
    /// the new one, whatever happens in between. Writes nothing when it is the same.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Io`] when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LockFileError> {
        let text = self.to_text().map_err(|reason| LockFileError::Unusable {
            path: path.display().to_string(),
            reason,
        })?;
        if std::fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(());
        }
        durable::replace(path, text.as_bytes(), 0o644)
            .map_err(|error| LockFileError::io(path, error))
    }

    /// Every version, sorted by name and version.
    pub fn plugins(&self) -> &[Locked] {
        &self.plugins
    }

    /// The digests of the files of every version, on every platform.
    pub fn trees(&self) -> BTreeSet<Digest> {
        let trees = self.plugins.iter().flat_map(Locked::trees);
        trees.collect()
    }

    /// Refuses a package that is not the very release written down here.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Changed`].
    pub fn admit(
        &self,
        package: &Verified<Package>,
        root: &TrustRoot,
    ) -> Result<(), LockFileError> {
        let (name, version) = (
            &package.manifest().id,
            package.manifest().version.to_string(),
        );
        let locked = self
            .plugins
            .iter()
            .find(|locked| locked.name == *name && locked.version == version);
        let changes = match locked {
            Some(locked) => locked.changes_of_package(package, root),
            None => vec![format!("{name} {version} is not in the lock file")],
        };
        refuse(changes)
    }

    /// Refuses a home that has become other than what is written down here.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Changed`] with every difference, up to a bound.
    pub fn require(&self, now: &Self) -> Result<(), LockFileError> {
        let mut changes = Vec::new();
        for locked in &self.plugins {
            match now.find(locked) {
                Some(present) => changes.extend(locked.changes(present)),
                None => changes.push(format!("{locked} is not installed")),
            }
        }
        let unknown = now
            .plugins
            .iter()
            .filter(|present| self.find(present).is_none());
        changes.extend(unknown.map(|present| format!("{present} is not in the lock file")));
        refuse(changes)
    }

    fn find(&self, wanted: &Locked) -> Option<&Locked> {
        let found = self
            .plugins
            .binary_search_by(|one| one.identity().cmp(&wanted.identity()));
        self.plugins.get(found.ok()?)
    }
}

fn refuse(mut changes: Vec<String>) -> Result<(), LockFileError> {
    if changes.is_empty() {
        return Ok(());
    }
    let more = changes.len().saturating_sub(CHANGES_MAX);
    changes.truncate(CHANGES_MAX);
    if more > 0 {
        changes.push(format!("and {more} more"));
    }
    Err(LockFileError::Changed { changes })
}
