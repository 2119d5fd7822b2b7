//! `orchestrator plugin list`

use orchestrator_plugin_runtime::PluginStatus;

use crate::{context::Context, failure::Result, output::Output, run_view, table::Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let plugins = context.plugins().await?.plugins();
        let out = context.out;
        out.show(&plugins, |plugins| text(out, plugins))
    }
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
