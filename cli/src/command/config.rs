//! `orchestrator config`

use clap::Subcommand;
use orchestrator_engine::config::Config;
use orchestrator_plugin_runtime::SearchPath;
use serde_json::{Map, Value, json};

use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    redaction::Redaction,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every setting that is in force
    #[command(after_help = "Examples:
  orchestrator config show
  orchestrator config show --origin policy
  orchestrator config show --set run.concurrency=4 --json")]
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,

        /// Show only keys that begin with this
        prefix: Option<String>,
    },
}

impl Command {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let Self::Show { origin, prefix } = self;
        // Says what is wrong before it shows what is there.
        let loaded = Config::load_with_origins(&context.sources()?);
        let (config, origins) = loaded.map_err(|error| Failure::new(Exit::Invalid, error))?;
        let prefix = prefix.unwrap_or_default();
        let home = context.home()?;
        let env = |name: &str| std::env::var_os(name);
        let search = SearchPath::documented(&home.plugins(), false, config.discovery.extra, &env);
        let redaction = Redaction::of(&search);
        let wanted: Vec<_> = origins
            .into_iter()
            .map(|origin| redaction.apply(origin))
            .filter(|entry| is_below(&prefix, &entry.key))
            .collect();
        let value: Map<String, Value> = wanted
            .iter()
            .map(|entry| {
                let value = match origin {
                    true => json!({ "value": parsed(&entry.value), "source": entry.source }),
                    false => parsed(&entry.value),
                };
                (entry.key.clone(), value)
            })
            .collect();
        context.out.show(&value, |_| {
            if !origin {
                let lines = wanted
                    .iter()
                    .map(|entry| format!("{} = {}\n", entry.key, entry.value));
                return lines.collect();
            }
            let mut table = Table::new(["KEY", "VALUE", "SOURCE"]);
            for entry in &wanted {
                table.row([entry.key.clone(), entry.value.clone(), entry.source.clone()]);
            }
            table.to_string()
        })
    }
}

/// The value as JSON, which is how the engine writes it.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// Whether `key` is `prefix` or stands below it.
fn is_below(prefix: &str, key: &str) -> bool {
    let rest = key.strip_prefix(prefix.trim_end_matches('.'));
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_dot() {
        assert!(is_below("", "run.concurrency"));
        assert!(is_below("run", "run.concurrency"));
        assert!(is_below("run.", "run.concurrency"));
        assert!(!is_below("run", "runtime.start"));
    }
}
