//! Where values come from.

use std::path::{Path, PathBuf};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Map, Value},
};
use serde::Serialize;

use super::{ConfigError, DEFAULTS, file::ConfigFile};

/// Where an administrator sets values for every user.
const SYSTEM_FILE: &str = "/etc/orchestrator/config.toml";

/// Where values come from besides the defaults and the system's file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The user's file; need not exist.
    pub user_file: Option<PathBuf>,
    /// A file named on the command line; must exist. It may be a pipe, and so
    /// is read once.
    pub file: Option<PathBuf>,
    /// Keys and values named on the command line: `log.level` and `debug`.
    pub overrides: Vec<(String, String)>,
}

/// One key, its value and where that comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The key, dotted.
    pub key: String,
    /// The value as TOML writes it.
    pub value: String,
    /// The file, the variable, or `default`.
    pub source: String,
}

impl Sources {
    /// Nothing but the defaults.
    pub(super) fn defaults() -> Figment {
        Figment::from(Toml::string(DEFAULTS))
    }

    /// Reads the sources and puts them together, lowest first.
    pub(super) fn figment(&self) -> Result<Figment, ConfigError> {
        let mut figment = Self::defaults();
        let usual = [Some(Path::new(SYSTEM_FILE)), self.user_file.as_deref()];
        for path in usual.into_iter().flatten() {
            if let Some(file) = ConfigFile::where_there_is_one(path)? {
                figment = figment.merge(file);
            }
        }
        if let Some(path) = &self.file {
            figment = figment.merge(ConfigFile::named(path)?);
        }
        // Every key is in a section, so a name without `__` is one of those
        // that are reserved, such as ORCHESTRATOR_HOME.
        let variables = Env::prefixed("ORCHESTRATOR_")
            .filter(|name| name.as_str().contains("__"))
            .split("__");
        figment = figment.merge(variables);
        for (key, value) in &self.overrides {
            figment = figment.merge(Override { key, value });
        }
        Ok(figment)
    }
}

/// One key and its value as the command line has them.
struct Override<'s> {
    key: &'s str,
    value: &'s str,
}

impl Provider for Override<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("the command line")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        // Parsed as environment variables are, so that numbers are numbers.
        let value: Value = self.value.parse().unwrap_or_else(|never| match never {});
        Serialized::default(self.key, value).data()
    }
}

/// Every key with its value and where that comes from, sorted by key.
pub(super) fn origins(figment: &Figment) -> Result<Vec<Origin>, ConfigError> {
    let data = figment.data().map_err(ConfigError::misfit)?;
    let mut origins = Vec::new();
    let dict = data.get(&Profile::Default).cloned().unwrap_or_default();
    collect(figment, "", &dict, &mut origins);
    origins.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(origins)
}

fn collect(figment: &Figment, prefix: &str, dict: &Dict, origins: &mut Vec<Origin>) {
    for (name, value) in dict {
        let key = match prefix {
            "" => name.clone(),
            prefix => format!("{prefix}.{name}"),
        };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => collect(figment, &key, inner, origins),
            Value::Dict(..) => (),
            value => {
                let source = figment
                    .get_metadata(value.tag())
                    .map_or_else(|| "default".to_owned(), |metadata| source(metadata, &key));
                let value = shown(value);
                origins.push(Origin { key, value, source });
            }
        }
    }
}

/// What people call the place that a key's value comes from.
pub(super) fn source(metadata: &Metadata, key: &str) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => {
            format!("ORCHESTRATOR_{}", key.to_uppercase().replace('.', "__"))
        }
        _ if metadata.name.contains("TOML") => "default".to_owned(),
        _ => "command line".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    // A configuration is made of what JSON can say.
    serde_json::to_string(value).unwrap_or_default()
}
