//! The names in an archive: sorted, each once, and none that is another's twin.

use std::collections::HashMap;

use orchestrator_manifest::PackagePath;

use super::{ArchiveError, Limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

/// Every name so far, files and the folders that follow from them.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the name in lower case.
    known: HashMap<String, (String, Kind)>,
    last: Option<PackagePath>,
}

impl Names {
    /// Takes in the next file. Returns the folders that are new with it, the
    /// topmost first.
    pub(super) fn admit(
        &mut self,
        path: &PackagePath,
        limits: &Limits,
    ) -> Result<Vec<String>, ArchiveError> {
        let text = path.as_str();
        let slashes = text.match_indices('/');
        let folders: Vec<_> = slashes.map(|(end, _)| &text[..end]).collect();
        if text.len() > limits.path_bytes {
            return Err(too_large(path, "the length of a path", limits.path_bytes));
        }
        if folders.len() > limits.depth {
            return Err(too_large(path, "the depth of folders", limits.depth));
        }
        let mut new = Vec::new();
        for folder in folders {
            if self.add(folder, Kind::Folder)? {
                new.push(folder.to_owned());
            }
        }
        self.add(text, Kind::File)?;
        if self.known.len() > limits.entries {
            let what = "the number of files and folders";
            return Err(too_large(path, what, limits.entries));
        }
        if let Some(last) = self.last.replace(path.clone())
            && last > *path
        {
            return Err(ArchiveError::Order {
                path: path.to_string(),
                after: last.to_string(),
            });
        }
        Ok(new)
    }

    /// Returns whether the name is new.
    fn add(&mut self, name: &str, kind: Kind) -> Result<bool, ArchiveError> {
        let path = name.to_owned();
        let folded = name.to_ascii_lowercase();
        let Some((known, known_kind)) = self.known.get(&folded) else {
            self.known.insert(folded, (path, kind));
            return Ok(true);
        };
        match (*known_kind, kind) {
            _ if known != name => Err(ArchiveError::Twins {
                path,
                twin: known.clone(),
            }),
            (Kind::Folder, Kind::Folder) => Ok(false),
            (Kind::File, Kind::File) => Err(ArchiveError::Duplicate { path }),
            _ => Err(ArchiveError::FileAndFolder { path }),
        }
    }
}

fn too_large(path: &PackagePath, what: &'static str, max: usize) -> ArchiveError {
    ArchiveError::TooLarge {
        path: path.to_string(),
        what,
        max: max as u64,
    }
}

#[cfg(test)]
mod tests {
    use miette::Diagnostic;

    use super::*;

    fn outcome(paths: &[&str], limits: &Limits) -> String {
        let mut names = Names::default();
        for path in paths {
            let path = PackagePath::parse(path).unwrap();
            if let Err(error) = names.admit(&path, limits) {
                return error.code().unwrap().to_string();
            }
        }
        format!("{} names", names.known.len())
    }

    #[test]
    fn names_are_sorted_and_each_is_one_on_every_platform() {
        let all = Limits::default();
        for (paths, expected) in [
            (&["META/a", "a", "b/c", "b/d", "b/e/f"][..], "8 names"),
            (&["a", "a"], "ORC-2179"),
            (&["a", "b", "a"], "ORC-2179"),
            (&["A", "a"], "ORC-2180"),
            (&["A/x", "a/y"], "ORC-2180"),
            (&["A", "a/y"], "ORC-2180"),
            (&["a", "a/b"], "ORC-2181"),
            (&["a/b", "a"], "ORC-2181"),
            (&["b", "a"], "ORC-2182"),
        ] {
            assert_eq!(outcome(paths, &all), expected, "{paths:?}");
        }
    }

    #[test]
    fn names_are_limited() {
        let few = Limits {
            entries: 3,
            depth: 1,
            path_bytes: 4,
            ..Limits::default()
        };
        assert_eq!(outcome(&["a/b", "a/c"], &few), "3 names");
        for paths in [&["a/b", "a/c", "d"][..], &["a/b/c"], &["abcde"]] {
            assert_eq!(outcome(paths, &few), "ORC-2187", "{paths:?}");
        }
    }
}
