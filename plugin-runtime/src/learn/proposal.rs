//! From what was seen to the least that has to be granted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use orchestrator_manifest::{Capability, Token};
use serde::Serialize;

use super::Record;

/// A directory with more files of one kind than this is proposed in their place.
const FILES_MAX: usize = 4;
/// Fewer paths than the kernel's rules of one plugin may be.
const PATHS_MAX: usize = 100;
/// Directories that everybody has, or that hold what nobody means to grant as a whole.
const NEVER: &[&str] = &["/tmp", "/var/tmp", "/dev/shm", "/usr/local"];

/// What the C library looks for, and does without: translations, and what is loaded first.
const OF_THE_LIBRARY: &[&str] = &[
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/usr/share/locale",
];

/// The least that would have to be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proposal {
    /// What to ask for and to grant, sorted.
    pub capabilities: Vec<Capability>,
    /// What was seen and is not proposed, with the reason.
    pub withheld: Vec<Withheld>,
}

/// Something that was seen and is not proposed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Withheld {
    /// What it is: a path, an address.
    pub resource: String,
    /// Why not.
    pub reason: &'static str,
}

impl Proposal {
    pub(super) fn of(record: &Record, given: &[Capability]) -> Self {
        let mut proposal = Self::default();
        proposal.files(record, given);
        if record.system_information {
            proposal.add(Token::SystemInfo, None);
        }
        for target in &record.reached {
            proposal.add(Token::NetworkAccess, Some(target));
        }
        for text in &record.refused {
            proposal.withhold(text, "it is no host and port");
        }
        for address in &record.around {
            let reason = "it is connected to without the proxy, which only `network:access=*:*` lets \
                          it do";
            proposal.withhold(address.to_string(), reason);
        }
        if record.unseen > 0 {
            let count = format!("{} calls", record.unseen);
            proposal.withhold(count, "they could not be looked at, or were too many");
        }
        let is_given = |it: &Capability| given.iter().any(|given| given.covers(it));
        proposal.capabilities.retain(|it| !is_given(it));
        proposal.capabilities.sort();
        proposal.capabilities.dedup();
        proposal.withheld.sort();
        proposal
    }

    fn files(&mut self, record: &Record, given: &[Capability]) {
        let programs: BTreeSet<_> = record.executed.iter().cloned().collect();
        let known = |token: Token| {
            let paths = given.iter().filter(move |it| it.token() == token);
            paths.filter_map(|it| it.path().map(Path::to_owned))
        };
        // What it made itself is in a directory that it changed, and will not be there when
        // it starts the next time.
        let is_there = |path: &&PathBuf| {
            let mut above = path.ancestors();
            path.exists() && !above.any(|above| record.made.contains(above))
        };
        let written = record.written.union(&record.changed);
        let mut written: BTreeSet<_> = written.filter(is_there).cloned().collect();
        self.withhold_what_is_too_much(
            &mut written,
            "it writes there; give it a folder of its own",
        );
        let written = least(written);
        let had: BTreeSet<_> = [&written, &programs]
            .into_iter()
            .flatten()
            .cloned()
            .chain(known(Token::ProcessSpawn))
            .chain(known(Token::FileWrite))
            .collect();
        // A directory that is only looked at is there when something in it is.
        let looked = record.looked.iter().filter(|path| !path.is_dir());
        let read = record.read.iter().chain(looked).filter(is_there);
        let is_missed = |path: &&PathBuf| !OF_THE_LIBRARY.iter().any(|it| path.starts_with(it));
        let mut read: BTreeSet<_> = read.filter(is_missed).cloned().collect();
        self.withhold_what_is_too_much(&mut read, "it lists it, which shows everything in it");
        read.retain(|path| !is_within(path, &had));
        let read = least(read);
        if record.executed_memory {
            self.add(Token::ProcessSpawn, Some("*"));
        } else {
            self.add_paths(Token::ProcessSpawn, &programs);
        }
        self.add_paths(Token::FileWrite, &written);
        self.add_paths(Token::FileRead, &read);
    }

    fn withhold_what_is_too_much(&mut self, paths: &mut BTreeSet<PathBuf>, reason: &'static str) {
        paths.retain(|path| {
            let is_fit = !path.is_dir() || may_be_proposed(path);
            if !is_fit {
                self.withhold(path.display().to_string(), reason);
            }
            is_fit
        });
    }

    fn add_paths(&mut self, token: Token, paths: &BTreeSet<PathBuf>) {
        for path in paths {
            match path.to_str() {
                Some(path) => self.add(token, Some(path)),
                None => self.withhold(path.display().to_string(), "it is not UTF-8"),
            }
        }
    }

    fn add(&mut self, token: Token, scope: Option<&str>) {
        match Capability::new(token, scope) {
            Ok(capability) => self.capabilities.push(capability),
            Err(_) => self.withhold(scope.unwrap_or_default(), "no grant can name it"),
        }
    }

    fn withhold(&mut self, resource: impl Into<String>, reason: &'static str) {
        let resource = resource.into().escape_debug().collect();
        self.withheld.push(Withheld { resource, reason });
    }
}

/// The fewest paths that hold all of `paths`: directories in place of many files, and what
/// a link leads to besides the link where it leads elsewhere.
fn least(paths: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut files_max = FILES_MAX;
    loop {
        let mut least = gathered(paths.clone(), files_max);
        // A link that is not granted by itself leads to something that has to be.
        let elsewhere = paths.iter().filter(|path| !least.contains(*path));
        let elsewhere = elsewhere.filter_map(|path| fs::canonicalize(path).ok());
        let elsewhere: BTreeSet<_> = elsewhere.filter(|real| !is_within(real, &least)).collect();
        if !elsewhere.is_empty() {
            least.extend(elsewhere);
            least = gathered(least, files_max);
        }
        if least.len() <= PATHS_MAX || files_max == 0 {
            return least;
        }
        files_max -= 1;
    }
}

/// The same with a directory in place of more than `files_max` paths in it, from the
/// deepest up.
fn gathered(mut paths: BTreeSet<PathBuf>, files_max: usize) -> BTreeSet<PathBuf> {
    loop {
        let directories: Vec<_> = paths.iter().filter(|path| path.is_dir()).cloned().collect();
        paths.retain(|path| {
            let mut above = directories.iter();
            !above.any(|above| above != path && path.starts_with(above))
        });
        let mut within: BTreeMap<&Path, usize> = BTreeMap::new();
        for parent in paths.iter().filter_map(|path| path.parent()) {
            *within.entry(parent).or_default() += 1;
        }
        let full = within
            .into_iter()
            .filter(|(directory, count)| *count > files_max && may_be_proposed(directory));
        let deepest = full.max_by_key(|(directory, _)| directory.components().count());
        let Some(directory) = deepest.map(|(directory, _)| directory.to_owned()) else {
            return paths;
        };
        paths.insert(directory);
    }
}

/// Whether the real file is within one of `granted`, links followed.
fn is_within(path: &Path, granted: &BTreeSet<PathBuf>) -> bool {
    let Ok(real) = fs::canonicalize(path) else {
        return false;
    };
    let mut granted = granted.iter();
    granted.any(|granted| fs::canonicalize(granted).is_ok_and(|granted| real.starts_with(granted)))
}

/// Not the root, what lies directly below it, a home, or what everybody shares.
fn may_be_proposed(directory: &Path) -> bool {
    let names = directory.components().count() - 1;
    let is_home = directory.parent() == Some(Path::new("/home"))
        || std::env::home_dir().is_some_and(|home| home == directory);
    names >= 2 && !is_home && !NEVER.iter().any(|never| Path::new(never) == directory)
}
