//! What the operator decided about a plugin.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// What the operator decided about a plugin: its configuration and its grants.
#[derive(Clone, Default, PartialEq)]
pub struct Setup {
    config: Value,
    grants: Vec<String>,
}

impl Setup {
    /// Made up, as a test of a plugin does. A configuration of `null` is an
    /// empty one; each grant is written `resource:action[=scope]`.
    pub fn new(config: Value, grants: Vec<String>) -> Self {
        Self { config, grants }
    }

    /// Decodes the configuration.
    ///
    /// # Errors
    ///
    /// When it is not a `T`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let decoded = match &self.config {
            Value::Null => T::deserialize(Value::Object(serde_json::Map::new())),
            config => T::deserialize(config),
        };
        decoded.map_err(|error| Error::permanent(format_args!("configuration: {error}")))
    }

    /// Everything that was granted, each as `resource:action[=scope]`.
    pub fn grants(&self) -> &[String] {
        &self.grants
    }

    /// The scopes of what was granted of `capability` (`process:spawn`), in the
    /// operator's order; an empty scope where a grant has none.
    ///
    /// ```
    /// # use orchestrator_sdk::Setup;
    /// let grants = vec!["process:spawn=/usr/bin/git".into(), "system:info".into()];
    /// let setup = Setup::new(serde_json::Value::Null, grants);
    /// assert_eq!(setup.granted("process:spawn").next(), Some("/usr/bin/git"));
    /// assert_eq!(setup.granted("system:info").next(), Some(""));
    /// assert_eq!(setup.granted("process").next(), None);
    /// ```
    pub fn granted(&self, capability: &str) -> impl Iterator<Item = &str> {
        self.grants.iter().filter_map(move |grant| {
            let (granted, scope) = grant.split_once('=').unwrap_or((grant, ""));
            (granted == capability).then_some(scope)
        })
    }
}

impl fmt::Debug for Setup {
    /// Leaves the configuration out, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        greeting: String,
    }

    #[test]
    fn no_configuration_is_an_empty_one() {
        assert_eq!(Setup::default().config::<Config>(), Ok(Config::default()));
    }

    #[test]
    fn a_wrong_configuration_says_what_is_wrong() {
        let setup = Setup::new(serde_json::json!({ "greetin": "hi" }), Vec::new());
        let error = setup.config::<Config>().unwrap_err().to_string();
        assert!(error.contains("unknown field `greetin`"), "{error}");
    }

    #[test]
    fn debug_output_never_shows_the_configuration() {
        let setup = Setup::new(serde_json::json!({ "token": "planted" }), Vec::new());
        assert!(!format!("{setup:?}").contains("planted"));
    }

    #[test]
    fn a_scope_may_hold_an_equals_sign() {
        let setup = Setup::new(Value::Null, vec!["file:read=/data/a=b".into()]);
        assert_eq!(
            setup.granted("file:read").collect::<Vec<_>>(),
            ["/data/a=b"]
        );
    }
}
