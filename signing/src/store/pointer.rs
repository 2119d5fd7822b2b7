//! The name of an installed version: a link from `<name>/<version>` to what
//! lies in the store under its digest.
//!
//! The links are the index of the store. Each is put in place, hidden and
//! removed by one rename, so there is no second file that could say otherwise
//! after a crash.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use orchestrator_manifest::{PluginName, Version};

use super::error::{InstallError, io_error};
use crate::digest::Digest;

/// Where the contents lie, below the folder of the plugins.
pub(super) const STORE: &str = ".store";
const CONTENT: &str = "sha256-";
/// How the link of a version begins that was rolled back. Nothing looks at
/// names that start with a dot.
const HELD: &str = ".held-";

/// A version in the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Installed {
    /// The plugin's identity.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The digest of its files; `None` where an older release of this program
    /// installed it.
    pub tree: Option<Digest>,
}

/// The name of the content with this digest.
pub(super) fn content_name(tree: Digest) -> String {
    format!("{CONTENT}{tree}")
}

/// The digest in the name of a content.
pub(super) fn parse_content_name(name: &str) -> Option<Digest> {
    Digest::parse(name.strip_prefix(CONTENT)?).ok()
}

/// What the link of a version says.
pub(super) fn link_text(tree: Digest) -> String {
    format!("../{STORE}/{}", content_name(tree))
}

/// The content that a link points to, if it is a link of the store. No other
/// link is followed.
pub(crate) fn linked_tree(link: &Path) -> Option<Digest> {
    let text = fs::read_link(link).ok()?;
    let name = text.to_str()?.strip_prefix("../")?.strip_prefix(STORE)?;
    parse_content_name(name.strip_prefix('/')?)
}

/// Where the package lies that the store knows as `link`, which is
/// `<plugins>/<name>/<version>`. `None` for everything that is no link of the
/// store.
pub fn stored(link: &Path) -> Option<PathBuf> {
    let tree = linked_tree(link)?;
    Some(link.parent()?.join(link_text(tree)))
}

/// The two names that a version can have, of which it has one at most.
pub(super) struct Spot {
    /// In use.
    pub(super) active: PathBuf,
    /// Rolled back.
    pub(super) held: PathBuf,
}

impl Spot {
    pub(super) fn of(plugins_dir: &Path, name: &str, version: &str) -> Self {
        let folder = plugins_dir.join(name);
        Self {
            active: folder.join(version),
            held: folder.join(format!("{HELD}{version}")),
        }
    }
}

/// Every version that is in use, sorted by name and version; not verified, and
/// nothing but names is read.
///
/// # Errors
///
/// [`InstallError::Io`] when the folder cannot be listed. One that does not
/// exist is empty.
pub fn installed(plugins_dir: &Path) -> Result<Vec<Installed>, InstallError> {
    list(plugins_dir, |name| {
        (!name.starts_with('.')).then(|| name.to_owned())
    })
}

/// Every version that was rolled back and not installed again, likewise.
///
/// # Errors
///
/// As [`installed`].
pub fn rolled_back(plugins_dir: &Path) -> Result<Vec<Installed>, InstallError> {
    list(plugins_dir, |name| {
        name.strip_prefix(HELD).map(str::to_owned)
    })
}

fn list(
    plugins_dir: &Path,
    version_of: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Installed>, InstallError> {
    let mut found = Vec::new();
    for (name, folder, _) in entries(plugins_dir)? {
        if PluginName::parse(&name).is_ok() {
            found.extend(versions(&name, &folder, &version_of)?);
        }
    }
    found.sort_by_cached_key(|one| (one.name.clone(), order(&one.version)));
    Ok(found)
}

/// The versions of one plugin that are in use, the lowest first.
pub(super) fn versions_of(
    plugins_dir: &Path,
    name: &PluginName,
) -> Result<Vec<Installed>, InstallError> {
    let folder = plugins_dir.join(name.as_str());
    let mut found = versions(name.as_str(), &folder, &|entry| {
        (!entry.starts_with('.')).then(|| entry.to_owned())
    })?;
    found.sort_by_cached_key(|one| order(&one.version));
    Ok(found)
}

/// As pipelines rank versions; what is none comes first.
fn order(version: &str) -> (Option<Version>, String) {
    (Version::parse(version).ok(), version.to_owned())
}

fn versions(
    name: &str,
    folder: &Path,
    version_of: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<Installed>, InstallError> {
    let mut found = Vec::new();
    for (entry, path, tree) in entries(folder)? {
        if let Some(version) = version_of(&entry) {
            let name = name.to_owned();
            found.push(Installed {
                name,
                version,
                path,
                tree,
            });
        }
    }
    Ok(found)
}

/// The folders and links of the store in `dir`, and where links lead.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf, Option<Digest>)>, InstallError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(dir, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error(dir, error))?;
        let kind = entry.file_type().map_err(|error| io_error(dir, error))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        let tree = kind.is_symlink().then(|| linked_tree(&path)).flatten();
        if kind.is_dir() || tree.is_some() {
            found.push((name, path, tree));
        }
    }
    Ok(found)
}
