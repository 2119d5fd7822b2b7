//! `orchestrator plugin list`

use orchestrator_plugin_runtime::PluginStatus;
use orchestrator_signing::{installed, receipt, rolled_back};
use serde_json::json;

use crate::{context::Context, failure::Result, output::Output, run_view, table::Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what was installed into this home, as the store's index has it:
    /// nothing is verified, which is quick
    #[arg(long)]
    installed: bool,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        if self.installed {
            return show_installed(context);
        }
        let plugins = context.plugins().await?.plugins();
        let out = context.out;
        out.show(&plugins, |plugins| text(out, plugins))
    }
}

fn show_installed(context: &Context) -> Result {
    let plugins = context.home()?.plugins();
    let mut rows = Vec::new();
    for (state, versions) in [
        ("installed", installed(&plugins)?),
        ("rolled back", rolled_back(&plugins)?),
    ] {
        for version in versions {
            let receipt = version.tree.and_then(|tree| receipt(&plugins, tree));
            rows.push(json!({
                "name": version.name,
                "version": version.version,
                "state": state,
                "tree": version.tree,
                "source": receipt.map(|receipt| receipt.source),
            }));
        }
    }
    context.out.show(&rows, |rows| {
        let mut table = Table::new(["NAME", "VERSION", "STATE", "SOURCE"]);
        for row in rows {
            let cell = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
            table.row([cell("name"), cell("version"), cell("state"), cell("source")]);
        }
        table.to_string()
    })
}

fn text(out: Output, plugins: &[PluginStatus]) -> String {
    if plugins.is_empty() {
        return "no plugins; `orchestrator plugin install` adds one\n".to_owned();
    }
    let mut table = Table::new(["NAME", "VERSION", "KIND", "STATE", "TRUST", "WHY"]);
    for plugin in plugins {
        let trust = match plugin.trust_level {
            Some(level) => level.to_string(),
            None => "-".to_owned(),
        };
        let why = match &plugin.error {
            Some(problem) => format!("{}: {}", problem.code, problem.message),
            None => String::new(),
        };
        table.row([
            plugin.id.clone(),
            plugin.version.to_string(),
            plugin.kind.to_owned(),
            plugin.state.as_str().to_owned(),
            trust,
            why,
        ]);
    }
    table.render(|column, cell| {
        let color = (column == 3).then(|| run_view::color_of(cell)).flatten();
        color.map(|color| out.paint(color, cell))
    })
}
