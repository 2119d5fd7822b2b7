//! Paths inside a package.

use std::{fmt, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest path inside a package, in bytes.
pub const PATH_MAX: usize = 512;
/// Most folders above a file inside a package.
pub const PATH_DEPTH_MAX: usize = 16;

/// A file's path inside its package: relative, `/` between its parts, and the
/// same on every platform.
///
/// Parts are printable ASCII without `\`, `:`, `*`, `?`, `"`, `<`, `>`, `|`,
/// are neither `.` nor `..`, and do not start or end with a blank or end with
/// a dot. There is therefore one spelling for one file, apart from case;
/// whoever lists a package refuses two paths that differ in case alone.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct PackagePath(#[schemars(with = "String")] String);

/// Why a text is no [`PackagePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing at all, or a part between two slashes that is empty.
    #[error("a part of the path is empty")]
    Empty,
    /// Starts with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// Has a `.` or `..` part.
    #[error("the path leaves the package")]
    Leaves,
    /// Has a character that is not allowed.
    #[error("the path has the character {0:?}, which is not the same on every platform")]
    Character(char),
    /// Has a part that cannot be a file name on every platform.
    #[error("`{0}` cannot be a file name on every platform")]
    Part(String),
    /// Longer than [`PATH_MAX`] or deeper than [`PATH_DEPTH_MAX`].
    #[error("the path is longer than {PATH_MAX} bytes or deeper than {PATH_DEPTH_MAX} folders")]
    TooLong,
}

impl PackagePath {
    /// Reads a path as it stands in a package.
    ///
    /// # Errors
    ///
    /// [`PathError`] tells what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if text.len() > PATH_MAX || text.split('/').count() > PATH_DEPTH_MAX + 1 {
            return Err(PathError::TooLong);
        }
        for part in text.split('/') {
            check_part(part)?;
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_part(part: &str) -> Result<(), PathError> {
    let is_foreign = |c: &char| {
        !(c.is_ascii_graphic() || *c == ' ')
            || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
    };
    if part.is_empty() {
        return Err(PathError::Empty);
    }
    if part == "." || part == ".." {
        return Err(PathError::Leaves);
    }
    if let Some(c) = part.chars().find(is_foreign) {
        return Err(PathError::Character(c));
    }
    let stem = part.split('.').next().unwrap_or(part);
    let unfit = part.starts_with(' ') || part.ends_with([' ', '.']) || crate::name::is_device(stem);
    if unfit {
        return Err(PathError::Part(part.to_owned()));
    }
    Ok(())
}

impl fmt::Display for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PackagePath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<PackagePath> for String {
    fn from(path: PackagePath) -> Self {
        path.0
    }
}

impl AsRef<str> for PackagePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for PackagePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_kept() {
        for path in [
            "plugin.yaml",
            "bin/x86_64/run",
            "a b/c+d@1.txt",
            "META/MANIFEST",
            ".hidden",
        ] {
            assert_eq!(PackagePath::parse(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "a".repeat(PATH_MAX + 1);
        let deep = "a/".repeat(PATH_DEPTH_MAX + 1) + "a";
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "./a",
            "a//b",
            "a/",
            "C:\\x",
            "C:x",
            "a\\b",
            "a\0b",
            "a\nb",
            "é",
            "e\u{301}",
            "\u{202e}a",
            "a.",
            "a ",
            " a",
            "con",
            "aux.txt",
            "x/NUL",
            long.as_str(),
            deep.as_str(),
        ] {
            assert!(
                PackagePath::parse(path).is_err(),
                "{path:?} should be refused"
            );
        }
    }
}
