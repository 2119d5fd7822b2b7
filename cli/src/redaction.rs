//! Hides secrets in settings that are shown.

use orchestrator_engine::config::Origin;
use orchestrator_observability::log::names_a_secret;
use orchestrator_plugin_runtime::{SearchPath, discover};
use serde_json::Value;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// Knows which settings hold secrets: those whose names say so, and those that
/// a plugin calls sensitive.
#[derive(Debug, Default)]
pub(crate) struct Redaction {
    /// Dotted keys of the whole configuration, in lower case.
    sensitive: Vec<String>,
}

impl Redaction {
    /// Asks every manifest below the search path. None is verified for this: a
    /// wrong one hides more than it need, and never less.
    pub(crate) fn of(search: &SearchPath) -> Self {
        let mut sensitive = Vec::new();
        for found in discover(search).found {
            let manifest = found.manifest;
            for plugin in [&manifest.id, &manifest.name] {
                let fields = manifest.sensitive_fields.iter();
                let keys = fields.map(|field| format!("plugins.{plugin}.config.{field}"));
                sensitive.extend(keys.map(|key| key.to_ascii_lowercase()));
            }
        }
        Self { sensitive }
    }

    /// The setting without its secrets.
    pub(crate) fn apply(&self, mut origin: Origin) -> Origin {
        let mut value = serde_json::from_str(&origin.value).unwrap_or(Value::Null);
        if self.hide(&origin.key, &mut value) {
            origin.value = value.to_string();
        }
        origin
    }

    /// Returns whether it hid anything.
    fn hide(&self, key: &str, value: &mut Value) -> bool {
        if names_a_secret(key) || self.is_sensitive(key) {
            *value = REDACTED.into();
            return true;
        }
        let mut hid = false;
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    hid |= self.hide(&format!("{key}.{name}"), value);
                }
            }
            Value::Array(items) => {
                for item in items {
                    hid |= self.hide(key, item);
                }
            }
            _ => {}
        }
        hid
    }

    /// Whether `key` is a sensitive field or stands below one.
    fn is_sensitive(&self, key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        self.sensitive.iter().any(|field| {
            let rest = key.strip_prefix(field.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(key: &str, value: &str) -> String {
        let redaction = Redaction {
            sensitive: vec!["plugins.p.config.database.pin".to_owned()],
        };
        let origin = Origin {
            key: key.to_owned(),
            value: value.to_owned(),
            source: "default".to_owned(),
        };
        redaction.apply(origin).value
    }

    #[test]
    fn secrets_are_named_and_not_shown() {
        let hidden = "\"[redacted]\"";
        assert_eq!(shown("plugins.p.config.apiToken", "\"hunter2\""), hidden);
        assert_eq!(shown("plugins.p.config.database.pin", "1234"), hidden);
        assert_eq!(shown("plugins.p.config.database.PIN.old", "1234"), hidden);
        assert_eq!(shown("plugins.p.config.database.pins", "1234"), "1234");
        assert_eq!(shown("plugins.q.config.database.pin", "1234"), "1234");
    }

    #[test]
    fn secrets_in_lists_are_not_shown() {
        let list = r#"[{"host":"a","password":"hunter2"}]"#;
        let hidden = r#"[{"host":"a","password":"[redacted]"}]"#;
        assert_eq!(shown("plugins.p.config.hosts", list), hidden);
        let list = r#"[{"pin":1},{"pin":{"old":2}}]"#;
        let hidden = r#"[{"pin":"[redacted]"},{"pin":"[redacted]"}]"#;
        assert_eq!(shown("plugins.p.config.database", list), hidden);
    }
}
