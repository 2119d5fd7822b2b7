//! Which plugin names a key may sign.

use std::{fmt, str::FromStr};

use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

/// The plugin names that a key may sign: one name, `com.acme.*` for every
/// name beneath a label, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// A sentence for people when the text is neither a name, nor a name
    /// followed by `.*`, nor `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if text != "*" {
            PluginName::parse(name).map_err(|error| {
                format!("`{}` is no name pattern: {error}", text.escape_debug())
            })?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns whether `name` may be signed. `com.acme.*` does not match
    /// `com.acme` itself, nor `com.acme-evil.x`.
    pub fn matches(&self, name: &PluginName) -> bool {
        match self.0.strip_suffix(".*") {
            Some(above) => name
                .as_str()
                .strip_prefix(above)
                .is_some_and(|rest| rest.starts_with('.')),
            None => self.0 == "*" || self.0 == name.as_str(),
        }
    }

    /// Whether it matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_suffix(".*") {
            Some(above) => other
                .0
                .strip_prefix(above)
                .is_some_and(|rest| rest.starts_with('.')),
            None => self.0 == "*" || self.0 == other.0,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}
