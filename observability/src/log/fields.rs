//! Collects the fields of one `tracing` event.

use std::fmt;

use orchestrator_contract::harmless_within;
use serde_json::Value;
use tracing::field::{Field, Visit};

/// Values longer than this are cut, so that one line stays one write. A plugin's line of the
/// usual length, with what is said of what was left out of it, is not.
const VALUE_BYTES_MAX: usize = 17 * 1024;

/// What is called by a name that contains one of these is a secret.
const SECRET: &[&str] = &[
    "passphrase",
    "password",
    "secret",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
    "credential",
];

/// Whether the name of a field or setting says that its value is a secret, in
/// whatever case it is written.
pub fn names_a_secret(name: &str) -> bool {
    let contains = |word: &&str| {
        let mut windows = name.as_bytes().windows(word.len());
        windows.any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
    };
    SECRET.iter().any(contains)
}

#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) plugin: Option<String>,
    pub(super) others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if names_a_secret(name) {
            self.others.push((name, Value::from("[redacted]")));
            return;
        }
        match (name, value) {
            ("message", Value::String(text)) => self.message = text,
            ("plugin", Value::String(text)) => self.plugin = Some(text),
            // The line says these itself.
            ("ts" | "level" | "target" | "trace_id" | "span_id", _) => {}
            (_, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::from(cleaned(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::from(cleaned(&format!("{value:?}"))));
    }
}

fn cleaned(text: &str) -> String {
    harmless_within(text, VALUE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_at_a_character() {
        let clean = cleaned(&"ü".repeat(VALUE_BYTES_MAX));
        assert!(clean.ends_with("ü…"));
        assert!(clean.len() < VALUE_BYTES_MAX + 8);
    }

    #[test]
    fn names_of_secrets_are_known_in_any_case() {
        for name in ["apiToken", "DB_PASSWORD", "x.clientSecret.y", "API_KEY"] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in ["plugin", "key_bytes_max", "", "to_ken"] {
            assert!(!names_a_secret(name), "{name}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        assert_eq!(cleaned("naïve 日本 \"x\" \\"), "naïve 日本 \"x\" \\");
        assert_eq!(cleaned("a\tb"), "a\\tb");
        assert_eq!(cleaned("a\u{61c}b\u{2060}"), "a\\u{61c}b\\u{2060}");
    }
}
