//! `orchestrator plugin info`

use std::fmt::Write as _;

use orchestrator_plugin_runtime::PluginStatus;

use crate::{context::Context, error::CliError, failure::Result, output::harmless};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin
    name: String,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let plugins = context.engine().await?.plugins();
        let found: Vec<_> = plugins.iter().filter(|it| it.id == self.name).collect();
        if found.is_empty() {
            let names = plugins.iter().map(|plugin| plugin.id.as_str());
            return Err(CliError::unknown_plugin(&self.name, names).into());
        }
        context.out.show(&found, |found| {
            let texts: Vec<_> = found.iter().map(|plugin| text(plugin)).collect();
            texts.join("\n")
        })
    }
}

fn text(plugin: &PluginStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<13} {}", harmless(&value));
        }
    };
    line("name", plugin.id.clone());
    line("version", plugin.version.to_string());
    line("description", plugin.description.clone());
    line("kind", plugin.kind.to_owned());
    line("roles", plugin.roles.join(", "));
    line("state", plugin.state.as_str().to_owned());
    let level = plugin.trust_level.map(|level| level.to_string());
    line("trust level", level.unwrap_or_default());
    line("signed by", plugin.key_id.clone().unwrap_or_default());
    line("digest", plugin.digest.clone());
    let location = plugin
        .location
        .as_ref()
        .map(|path| path.display().to_string());
    line("location", location.unwrap_or_else(|| plugin.label.clone()));
    line("phases", plugin.phases.join(", "));
    for grant in &plugin.grants {
        let enforced = match plugin.not_enforced.contains(grant) {
            true => " (relied upon, not enforced)",
            false => "",
        };
        line("granted", format!("{grant}{enforced}"));
    }
    let pid = plugin.pid.map(|pid| pid.to_string());
    line("process", pid.unwrap_or_default());
    if plugin.restarts > 0 {
        line("restarts", plugin.restarts.to_string());
    }
    for copy in &plugin.shadowed {
        line("shadowed", copy.display().to_string());
    }
    if let Some(problem) = &plugin.error {
        line("error", format!("{}: {}", problem.code, problem.message));
        line("help", problem.help.clone());
    }
    text
}
