//! Plugin names and identifiers.

use std::{borrow::Borrow, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest plugin name in bytes.
pub const NAME_MAX: usize = 128;

/// The rule as a regular expression, for the JSON Schema.
const PATTERN: &str = "^[a-z0-9]+([.-][a-z0-9]+)*$";

/// Names that Windows gives to devices, whatever the extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A plugin's name: `[a-z0-9]+([.-][a-z0-9]+)*`, at most 128 bytes.
///
/// Lower-case ASCII only, so two names that look alike are alike: there are
/// no Cyrillic twins, no hidden characters and no second spelling. The name
/// is also a folder name on every platform.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = PATTERN, "maxLength" = NAME_MAX))]
pub struct PluginName(#[schemars(with = "String")] String);

/// Why a text is no [`PluginName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing at all.
    #[error("a name needs at least one character")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("a name has at most {NAME_MAX} characters")]
    TooLong,
    /// A character, or an order of characters, that names do not have.
    #[error("a name is made of a-z and 0-9, in parts joined by single `.` or `-`")]
    Shape,
    /// A name that Windows keeps for a device.
    #[error("`{0}` is the name of a device on Windows")]
    Device(String),
}

impl PluginName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// [`NameError`] tells which part of the rule is broken.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
        };
        if !text.split(['.', '-']).all(is_part) {
            return Err(NameError::Shape);
        }
        match text.split('.').find(|label| is_device(label)) {
            Some(device) => Err(NameError::Device(device.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last dot: `plugin` for `com.example.plugin`.
    pub fn last_label(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or(&self.0)
    }
}

/// Returns whether Windows would open a device under this name.
pub(crate) fn is_device(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    let port = |prefix| {
        label
            .strip_prefix(prefix)
            .is_some_and(|digit: &str| digit.len() == 1 && digit.as_bytes()[0].is_ascii_digit())
    };
    DEVICES.contains(&label.as_str()) || port("com") || port("lpt")
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PluginName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PluginName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<PluginName> for String {
    fn from(name: PluginName) -> Self {
        name.0
    }
}

impl AsRef<str> for PluginName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PluginName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in [
            "a",
            "my-plugin",
            "com.example.plugin",
            "0",
            "a-1.b-2",
            "communication",
        ] {
            assert_eq!(PluginName::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(
            PluginName::parse("com.acme.ocr").unwrap().last_label(),
            "ocr"
        );
    }

    #[test]
    fn look_alikes_and_traps_are_refused() {
        let long = "a".repeat(NAME_MAX + 1);
        for name in [
            "",
            "../x",
            "a b",
            "a ",
            "a.",
            ".a",
            "-a",
            "a-",
            "a..b",
            "a.-b",
            "Com.Acme",
            "my_plugin",
            "com.\u{430}cme",
            "\u{ff43}om.acme",
            "a\u{200d}b",
            "a\u{202e}b",
            "..",
            ".",
            "/",
            "con",
            "nul.txt",
            "x.com1",
            "a\nb",
            "a\0",
            long.as_str(),
        ] {
            assert!(
                PluginName::parse(name).is_err(),
                "{name:?} should be refused"
            );
        }
    }
}
