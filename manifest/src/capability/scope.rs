//! How far a capability goes, and which scope lies inside which.

use std::fmt;

use super::{
    ScopeKind,
    host::{Destination, DestinationError},
};
use crate::text::is_printable;

/// Longest scope in bytes.
const SCOPE_MAX: usize = 4096;

/// How far a capability goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// A file, or a folder and everything beneath it: an absolute path
    /// without `.`, `..`, doubled or closing slashes.
    Folder(String),
    /// One program, by its absolute path.
    Program(String),
    /// Every program, also one that the plugin makes itself.
    AnyProgram,
    /// Hosts and ports.
    Host(Destination),
    /// A topic, or with `*` as its last word every topic beneath it.
    Topic(String),
    /// One environment variable.
    Variable(String),
    /// Not only the plugin's own.
    All,
}

/// Why a text is no scope of the kind wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// The token takes no scope.
    #[error("it takes no scope")]
    NotTaken,
    /// Only `all` is possible.
    #[error("the only scope is `all`")]
    NotAll,
    /// Nothing after the `=`.
    #[error("the scope is empty")]
    Empty,
    /// More than 4096 bytes, or control characters.
    #[error("the scope is too long or has control characters")]
    Unprintable,
    /// A path that does not start at the root.
    #[error("the path is not absolute")]
    Relative,
    /// A path with `.` or `..` parts.
    #[error("the path has `.` or `..` parts")]
    Dots,
    /// A topic with words that are empty or have other characters.
    #[error("a topic is words of A-Z a-z 0-9 _ : - joined by dots, `*` only as the last word")]
    Topic,
    /// Not the name of one environment variable.
    #[error("not the name of one environment variable")]
    Variable,
    /// Not a host and port.
    #[error(transparent)]
    Host(#[from] DestinationError),
}

impl Scope {
    pub(crate) fn parse(kind: ScopeKind, text: &str) -> Result<Self, ScopeError> {
        if kind == ScopeKind::None {
            return Err(ScopeError::NotTaken);
        }
        if text.is_empty() {
            return Err(ScopeError::Empty);
        }
        if text.len() > SCOPE_MAX || !is_printable(text) || text.contains(['\n', '\t']) {
            return Err(ScopeError::Unprintable);
        }
        match kind {
            ScopeKind::None => Err(ScopeError::NotTaken),
            ScopeKind::OptionalAll if text == "all" => Ok(Self::All),
            ScopeKind::OptionalAll => Err(ScopeError::NotAll),
            ScopeKind::Folder => absolute(text).map(Self::Folder),
            ScopeKind::Program if text == "*" => Ok(Self::AnyProgram),
            ScopeKind::Program if text.ends_with('/') => Err(ScopeError::Dots),
            ScopeKind::Program => absolute(text).map(Self::Program),
            ScopeKind::Host => Ok(Self::Host(text.parse::<Destination>()?)),
            ScopeKind::Topic => topic(text).map(Self::Topic),
            ScopeKind::Variable => variable(text).map(Self::Variable),
        }
    }

    /// Returns whether everything in `request` lies inside this scope.
    pub(crate) fn covers(&self, request: &Self) -> bool {
        match (self, request) {
            (Self::Folder(grant), Self::Folder(request)) => is_beneath(grant, request),
            (Self::Host(grant), Self::Host(request)) => grant.covers(request),
            (Self::Topic(grant), Self::Topic(request)) => topic_covers(grant, request),
            (Self::AnyProgram, Self::Program(_)) => true,
            (Self::AnyProgram | Self::Program(_) | Self::Variable(_) | Self::All, _) => {
                self == request
            }
            (Self::Folder(_) | Self::Host(_) | Self::Topic(_), _) => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(text) | Self::Program(text) | Self::Topic(text) | Self::Variable(text) => {
                f.write_str(text)
            }
            Self::Host(host) => host.fmt(f),
            Self::AnyProgram => f.write_str("*"),
            Self::All => f.write_str("all"),
        }
    }
}

/// `..` is refused rather than worked out: what it leads to depends on links
/// that only the file system knows.
fn absolute(text: &str) -> Result<String, ScopeError> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(ScopeError::Relative);
    };
    let parts: Vec<_> = rest.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| *part == "." || *part == "..") {
        return Err(ScopeError::Dots);
    }
    Ok(format!("/{}", parts.join("/")))
}

fn is_beneath(grant: &str, request: &str) -> bool {
    std::path::Path::new(request).starts_with(grant)
}

fn topic(text: &str) -> Result<String, ScopeError> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
    };
    let above = text.strip_suffix(".*").unwrap_or(text);
    if text == "*" || above.split('.').all(is_word) {
        return Ok(text.to_owned());
    }
    Err(ScopeError::Topic)
}

fn topic_covers(grant: &str, request: &str) -> bool {
    if grant == request || grant == "*" {
        return true;
    }
    let Some(above) = grant.strip_suffix(".*") else {
        return false;
    };
    request
        .strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn variable(text: &str) -> Result<String, ScopeError> {
    let is_name = !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(ScopeError::Variable)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Capability;

    fn covers(grant: &str, request: &str) -> bool {
        let grant = Capability::parse_grant(grant).unwrap();
        Capability::parse_request(request).is_ok_and(|request| grant.covers(&request))
    }

    #[test]
    fn files_are_compared_folder_by_folder() {
        for (grant, request, allowed) in [
            ("/data", "/data", true),
            ("/data", "/data/in", true),
            ("/data/", "/data/in/deep", true),
            ("/data", "/data/", true),
            ("//data", "/data//in", true),
            ("/", "/etc/passwd", true),
            ("/data", "/data-evil", false),
            ("/data", "/data-evil/f", false),
            ("/data", "/dat", false),
            ("/data", "/", false),
            ("/data/in", "/data", false),
            ("/allowed", "/allowed/../x", false),
            ("/allowed", "/allowed/./x", false),
            ("/allowed", "allowed/x", false),
            ("/allowed", "/Allowed/x", false),
            ("/tmp/plugin-sandbox-12", "/tmp/plugin-sandbox-123/x", false),
            ("/allowed", "/proc/self/root/allowed", false),
        ] {
            let (grant, request) = (format!("file:read={grant}"), format!("file:read={request}"));
            assert_eq!(covers(&grant, &request), allowed, "{grant} / {request}");
        }
        for bad in [
            "file:read=",
            "file:read=data",
            "file:read=../x",
            "file:read=/a/..",
            "file:read=/a\u{0}b",
            "file:read=~/x",
        ] {
            assert!(Capability::parse_grant(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn programs_and_variables_are_exact() {
        for (grant, request, allowed) in [
            (
                "process:spawn=/usr/bin/git",
                "process:spawn=/usr/bin/git",
                true,
            ),
            (
                "process:spawn=/usr/bin/git",
                "process:spawn=/usr/bin/git-shell",
                false,
            ),
            (
                "process:spawn=/usr/bin",
                "process:spawn=/usr/bin/git",
                false,
            ),
            ("process:spawn=/usr/bin/git", "process:spawn=git", false),
            ("process:spawn=*", "process:spawn=/usr/bin/git", true),
            ("process:spawn=*", "process:spawn=*", true),
            ("process:spawn=/usr/bin/git", "process:spawn=*", false),
            ("env:read=AWS_REGION", "env:read=AWS_REGION", true),
            ("env:read=AWS_REGION", "env:read=AWS_REGION_2", false),
            ("env:read=AWS_REGION", "env:read=aws_region", false),
        ] {
            assert_eq!(covers(grant, request), allowed, "{grant} / {request}");
        }
        for bad in [
            "env:read=*",
            "env:read=AWS_*",
            "env:read=A=B",
            "env:read=1A",
            "process:spawn=/bin/",
            "process:spawn=**",
            "process:spawn=",
        ] {
            assert!(Capability::parse_grant(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn topics_are_compared_word_by_word() {
        for (grant, request, allowed) in [
            ("orders.*", "orders.created", true),
            ("orders.*", "orders.created.eu", true),
            ("orders.*", "orders.eu.*", true),
            ("orders.*", "orders.*", true),
            ("orders.created", "orders.created", true),
            ("*", "anything.at.all", true),
            ("*", "*", true),
            ("orders.*", "orders", false),
            ("orders.*", "ordersx.created", false),
            ("orders.*", "*", false),
            ("orders.eu.*", "orders.*", false),
            ("orders.created", "orders.created.eu", false),
        ] {
            let (grant, request) = (
                format!("event:publish={grant}"),
                format!("event:publish={request}"),
            );
            assert_eq!(covers(&grant, &request), allowed, "{grant} / {request}");
        }
        for bad in ["a..b", ".a", "a.", "a*", "*.a", "a.*.b", "a b", "é"] {
            assert!(
                Capability::parse_grant(&format!("event:publish={bad}")).is_err(),
                "{bad:?}"
            );
        }
    }
}
