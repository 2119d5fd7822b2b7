//! One spelling for one value, and the digest of a manifest.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::manifest::Manifest;

impl Manifest {
    /// The manifest as JSON with every alias resolved and default filled in,
    /// keys sorted by their bytes, no blanks, and no line break at the end.
    /// The same plugin gives the same bytes whether it was written in YAML,
    /// JSON or TOML.
    pub fn canonical_json(&self) -> String {
        canonical_json(&self.to_value())
    }

    /// The SHA-256 of [`Self::canonical_json`], as 64 lower-case hex digits.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.canonical_json().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The manifest as a JSON value that [`Manifest::from_value`] reads again.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a manifest has text keys and finite numbers alone")
    }
}

/// `value` as JSON with keys sorted by their bytes at every level, no blanks,
/// and no line break at the end.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// `serde_json::Value` sorts its keys or not depending on a feature that any
/// crate in the build may switch on; here they are always sorted.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level() {
        let value = serde_json::json!({"b": [{"z": 1, "a": "\n"}], "a": null, "A": 1.5});
        assert_eq!(
            canonical_json(&value),
            r#"{"A":1.5,"a":null,"b":[{"a":"\n","z":1}]}"#
        );
    }
}
