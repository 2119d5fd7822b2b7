//! Removes contents that nothing needs any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    InstallError, content,
    error::io_error,
    lock_store,
    pointer::{self, Installed, STORE, installed, rolled_back},
    receipt::receipt,
};
use crate::{digest::Digest, durable};

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct CollectOptions {
    /// Only look, remove nothing.
    pub dry_run: bool,
    /// Remove installed versions too, except this many of the highest of each
    /// plugin, and versions that were rolled back. `None` removes no version.
    pub keep: Option<usize>,
    /// Contents that something outside the store refers to: a lock file.
    pub wanted: BTreeSet<Digest>,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Collected {
    /// The contents that are gone, sorted by plugin and version where those are known.
    pub removed: Vec<Removed>,
    /// Contents that stay because a process has loaded them.
    pub in_use: usize,
}

/// One content that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Removed {
    /// The plugin and its version, as `name version`; empty when an
    /// installation did not get so far as to write it down.
    pub what: String,
    /// The digest of its files.
    pub tree: Digest,
    /// How many bytes its files have.
    pub bytes: u64,
}

/// Removes contents that no version and no lock file refers to and no process
/// has loaded, and what interrupted work left.
///
/// # Errors
///
/// [`InstallError::Busy`] when another process goes on changing the store,
/// [`InstallError::Io`] when something cannot be removed. What is gone then was
/// not needed either.
pub fn collect(plugins_dir: &Path, options: &CollectOptions) -> Result<Collected, InstallError> {
    if plugins_dir.symlink_metadata().is_err() {
        return Ok(Collected::default());
    }
    let _lock = lock_store(plugins_dir, super::PATIENCE)?;
    let store = plugins_dir.join(STORE);
    if !options.dry_run {
        content::sweep(plugins_dir);
        durable::sweep(&store).map_err(|error| io_error(&store, error))?;
    }
    let (kept, surplus) = sort_out(plugins_dir, options)?;
    let mut collected = Collected::default();
    let mut staying = kept;
    for version in surplus {
        let Some(tree) = version.tree else { continue };
        if content::is_in_use(&content::path_of(plugins_dir, tree)) {
            // The version keeps its name, so that what is running stays listed.
            staying.insert(tree);
            collected.in_use += 1;
        } else if !options.dry_run {
            fs::remove_file(&version.path).map_err(|error| io_error(&version.path, error))?;
            if let Some(folder) = version.path.parent() {
                content::sync_dir(folder)?;
                // Only succeeds when that was the last version.
                let _ = fs::remove_dir(folder);
            }
        }
    }
    for tree in contents(&store)?.difference(&staying).copied() {
        let path = content::path_of(plugins_dir, tree);
        let what = receipt(plugins_dir, tree)
            .map(|receipt| format!("{} {}", receipt.plugin, receipt.version));
        let removed = Removed {
            what: what.unwrap_or_default(),
            tree,
            bytes: bytes_in(&path),
        };
        let is_gone = match options.dry_run {
            true => !content::is_in_use(&path),
            false => content::discard_content(plugins_dir, tree)?,
        };
        match is_gone {
            true => collected.removed.push(removed),
            false => collected.in_use += 1,
        }
    }
    collected.removed.sort();
    Ok(collected)
}

/// The contents that stay, and the versions that need not.
fn sort_out(
    plugins_dir: &Path,
    options: &CollectOptions,
) -> Result<(BTreeSet<Digest>, Vec<Installed>), InstallError> {
    let mut kept = options.wanted.clone();
    let mut surplus = Vec::new();
    let mut by_plugin: BTreeMap<String, Vec<Installed>> = BTreeMap::new();
    for version in installed(plugins_dir)? {
        by_plugin
            .entry(version.name.clone())
            .or_default()
            .push(version);
    }
    let held = rolled_back(plugins_dir)?;
    let Some(keep) = options.keep else {
        kept.extend(held.iter().filter_map(|version| version.tree));
        let active = by_plugin.values().flatten();
        kept.extend(active.filter_map(|version| version.tree));
        return Ok((kept, surplus));
    };
    surplus.extend(held);
    for mut versions in by_plugin.into_values() {
        let newest = versions.split_off(versions.len().saturating_sub(keep.max(1)));
        kept.extend(newest.iter().filter_map(|version| version.tree));
        surplus.extend(versions);
    }
    surplus.retain(|version| version.tree.is_some_and(|tree| !kept.contains(&tree)));
    Ok((kept, surplus))
}

/// The digests of everything in the store, receipts without a content included.
fn contents(store: &Path) -> Result<BTreeSet<Digest>, InstallError> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(|error| io_error(store, error))?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(|error| io_error(store, error))?.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".json").unwrap_or(&name);
        found.extend(pointer::parse_content_name(name));
    }
    Ok(found)
}

/// The size of all files below a folder that was verified once: no links, no
/// more than the store takes.
fn bytes_in(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
