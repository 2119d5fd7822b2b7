//! Finds packages below the search path. Nothing is trusted yet: a manifest that
//! was found says what a directory claims to be.

use std::{
    collections::HashMap,
    fs::{self, DirEntry, FileType},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::Diagnostic;
use orchestrator_manifest::{FILE_NAMES, Manifest, ManifestError};
use orchestrator_signing::stored;
use semver::Version;
use thiserror::Error;

use crate::{PluginProblem, SearchPath, search_path::Place};

/// How far below a search entry a package may lie; `name/version` is two.
const DEPTH_MAX: usize = 4;
/// How many directories are looked into below all entries together. A plugin
/// takes two, `name` and `name/version`, and more with further versions.
const DIRECTORIES_MAX: usize = 50_000;

/// What was found below a search path.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The packages, in the order of the search path and by path within an entry.
    pub found: Vec<Found>,
    /// What could not be looked into or understood. None of it stops the search.
    pub faults: Vec<DiscoveryFault>,
}

/// A package that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its directory.
    pub dir: PathBuf,
    /// The label of the search entry.
    pub label: Arc<str>,
    /// What it claims to be.
    pub manifest: Arc<Manifest>,
    /// The directory of the same plugin in the same version that comes first.
    pub shadowed_by: Option<PathBuf>,
    pub(crate) place: Place,
}

/// Something that discovery could not use.
#[derive(Clone, Debug)]
pub struct DiscoveryFault {
    /// The file or directory.
    pub path: PathBuf,
    /// The label of the search entry.
    pub label: Arc<str>,
    /// What is wrong with it.
    pub problem: PluginProblem,
}

#[derive(Debug, Error, Diagnostic)]
enum DiscoveryError {
    /// This user may not read it, or it vanished while it was looked into.
    #[error("{} cannot be looked into", path.display())]
    #[diagnostic(
        code("ORC-3060"),
        help("plugins in it are not found; check who may read it")
    )]
    Unreadable { path: PathBuf, source: io::Error },
    /// The search does not go deeper, so that a wrong path does not mean the
    /// whole disk.
    #[error("{} lies deeper than {DEPTH_MAX} directories", path.display())]
    #[diagnostic(
        code("ORC-3061"),
        help("put packages at most {DEPTH_MAX} levels below a search directory")
    )]
    TooDeep { path: PathBuf },
    /// The search path has too many directories, so that a wrong path does not
    /// mean the whole disk.
    #[error("there are more than {DIRECTORIES_MAX} directories, {} and what follows is not looked into", path.display())]
    #[diagnostic(
        code("ORC-3062"),
        help("point the search path at directories that hold plugins only")
    )]
    TooMany { path: PathBuf },
    /// A link could lead to files that the operator did not mean.
    #[error("{} is a symbolic link, which discovery does not follow", path.display())]
    #[diagnostic(code("ORC-3063"), help("add the link's target to the search path"))]
    Link { path: PathBuf },
}

impl Discovery {
    /// The packages that are made for `domain`, shadowed copies left out.
    pub fn for_domain<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a Found> {
        self.found.iter().filter(move |found| {
            found.shadowed_by.is_none() && found.manifest.domains.iter().any(|name| name == domain)
        })
    }
}

/// Looks for packages below `path`. A directory with a manifest is a package and is
/// not searched further; names starting with a dot are skipped; links are not
/// followed. Entries that do not exist are no fault. Blocks on the file system.
pub fn discover(path: &SearchPath) -> Discovery {
    let mut walk = Walk::default();
    for (index, entry) in path.entries.iter().enumerate() {
        walk.place = Place {
            development: entry.development,
            position: index + 1,
        };
        walk.entry(&entry.path, &entry.label);
    }
    walk.discovery
}

#[derive(Default)]
struct Walk {
    discovery: Discovery,
    first: HashMap<(String, Version), PathBuf>,
    directories: usize,
    full: bool,
    /// Of the entry that is being searched.
    place: Place,
}

impl Walk {
    fn entry(&mut self, root: &Path, label: &Arc<str>) {
        // Depth first, children in reverse so that they are taken in order.
        let mut open = vec![(root.to_owned(), 0)];
        while let Some((directory, depth)) = open.pop() {
            if self.directories == DIRECTORIES_MAX {
                if !std::mem::replace(&mut self.full, true) {
                    self.fault(
                        label,
                        DiscoveryError::TooMany {
                            path: directory.clone(),
                        },
                        directory,
                    );
                }
                return;
            }
            self.directories += 1;
            let entries = match sorted_entries(&directory) {
                Ok(entries) => entries,
                // Search entries need not exist.
                Err(error) if depth == 0 && error.kind() == io::ErrorKind::NotFound => return,
                Err(source) => {
                    let path = directory.clone();
                    self.fault(
                        label,
                        DiscoveryError::Unreadable { path, source },
                        directory,
                    );
                    continue;
                }
            };
            if entries
                .iter()
                .any(|(_, name, _)| FILE_NAMES.contains(&&**name))
            {
                self.package(directory, label);
                continue;
            }
            for (path, _, kind) in entries.into_iter().rev() {
                self.descend(&mut open, path, kind, depth + 1, label);
            }
        }
    }

    fn descend(
        &mut self,
        open: &mut Vec<(PathBuf, usize)>,
        path: PathBuf,
        kind: FileType,
        depth: usize,
        label: &Arc<str>,
    ) {
        // A version in the store is a link; no other is followed.
        let is_stored = kind.is_symlink() && stored(&path).is_some();
        if kind.is_symlink() && !is_stored && path.is_dir() {
            self.fault(label, DiscoveryError::Link { path: path.clone() }, path);
        } else if kind.is_dir() && depth > DEPTH_MAX {
            self.fault(label, DiscoveryError::TooDeep { path: path.clone() }, path);
        } else if kind.is_dir() || is_stored {
            open.push((path, depth));
        }
    }

    fn package(&mut self, dir: PathBuf, label: &Arc<str>) {
        match Manifest::load(&dir) {
            Ok(manifest) => {
                let identity = (manifest.id.to_string(), manifest.version.clone());
                let shadowed_by = self.first.get(&identity).cloned();
                self.first.entry(identity).or_insert_with(|| dir.clone());
                self.discovery.found.push(Found {
                    dir,
                    label: Arc::clone(label),
                    manifest: Arc::new(manifest),
                    shadowed_by,
                    place: self.place,
                });
            }
            Err(error) => self.bad_manifest(label, &error, dir),
        }
    }

    fn bad_manifest(&mut self, label: &Arc<str>, error: &ManifestError, path: PathBuf) {
        self.discovery.faults.push(DiscoveryFault {
            path,
            label: Arc::clone(label),
            problem: PluginProblem::of(error),
        });
    }

    fn fault(&mut self, label: &Arc<str>, error: DiscoveryError, path: PathBuf) {
        self.discovery.faults.push(DiscoveryFault {
            path,
            label: Arc::clone(label),
            problem: PluginProblem::new(&error),
        });
    }
}

/// The entries that matter, by name, so that the outcome does not depend on the
/// order in which a file system lists them.
fn sorted_entries(directory: &Path) -> io::Result<Vec<(PathBuf, String, FileType)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry: DirEntry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // An entry that vanishes meanwhile is not there.
        if let Ok(kind) = entry.file_type()
            && !name.starts_with('.')
        {
            entries.push((entry.path(), name, kind));
        }
    }
    entries.sort_by(|one, other| one.1.cmp(&other.1));
    Ok(entries)
}
