//! `orchestrator plugin doctor`

use std::{collections::BTreeSet, fmt::Write as _};

use orchestrator_plugin_runtime::{HostConfinement, LevelOfHost, confinement_of_host};

use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    table::Table,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let settings = context.config()?.runtime.sandbox;
        let looking = tokio::task::spawn_blocking(move || confinement_of_host(&settings));
        let host = looking.await.map_err(std::io::Error::from)?;
        context.out.show(&host, text)?;
        match host.levels.iter().all(|level| level.runs) {
            true => Ok(()),
            false => Err(Failure::silent(Exit::Failed)),
        }
    }
}

fn text(host: &HostConfinement) -> String {
    let mut layers = Table::new(["LAYER", "WORKS", "WHAT IT IS"]);
    for layer in &host.layers {
        let works = if layer.works { "yes" } else { "no" };
        layers.row([
            layer.layer.to_owned(),
            works.to_owned(),
            layer.description.clone(),
        ]);
    }
    let mut levels = Table::new(["TRUST LEVEL", "RUNS", "CONFINED BY", "MISSING"]);
    for level in &host.levels {
        levels.row([
            level.level.to_string(),
            if level.runs { "yes" } else { "no" }.to_owned(),
            confined_by(level),
            level.missing.join(", "),
        ]);
    }
    let mut text = format!("{layers}\n{levels}");
    let absent: Vec<_> = host.layers.iter().filter(|layer| !layer.works).collect();
    if !absent.is_empty() {
        text.push('\n');
    }
    for layer in absent {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "no {}: {}", layer.layer, layer.reason);
    }
    let helps = host.layers.iter().map(|layer| layer.help);
    // Layers that need the same are mended by the same.
    let helps: BTreeSet<_> = helps.filter(|help| !help.is_empty()).collect();
    for help in helps {
        let _ = writeln!(text, "help: {help}");
    }
    text
}

fn confined_by(level: &LevelOfHost) -> String {
    match (level.runs, level.confined) {
        (false, _) => "-".to_owned(),
        (true, false) => "nothing (runtime.sandbox.level3)".to_owned(),
        (true, true) if level.gets.is_empty() => "nothing".to_owned(),
        (true, true) => level.gets.join(", "),
    }
}
