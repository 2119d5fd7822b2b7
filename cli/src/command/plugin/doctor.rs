//! `orchestrator plugin doctor`

use std::{collections::BTreeSet, fmt::Write as _};

use orchestrator_plugin_runtime::{
    HostConfinement, LevelOfHost, LimitOfHost, confinement_of_host, limits_of_host,
};
use serde::Serialize;

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
        let looking = tokio::task::spawn_blocking(move || Host {
            confinement: confinement_of_host(&settings),
            limits: limits_of_host(),
        });
        let host = looking.await.map_err(std::io::Error::from)?;
        context.out.show(&host, text)?;
        match host.confinement.levels.iter().all(|level| level.runs) {
            true => Ok(()),
            false => Err(Failure::silent(Exit::Failed)),
        }
    }
}

/// What this host can enforce.
#[derive(Serialize)]
struct Host {
    #[serde(flatten)]
    confinement: HostConfinement,
    limits: Vec<LimitOfHost>,
}

fn text(host: &Host) -> String {
    let Host {
        confinement: host,
        limits,
    } = host;
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
    let mut held = Table::new(["LIMIT", "HELD BY"]);
    for limit in limits {
        held.row([limit.limit.to_owned(), limit.by.join(", ")]);
    }
    let mut text = format!("{layers}\n{levels}\n{held}");
    let absent: Vec<_> = host.layers.iter().filter(|layer| !layer.works).collect();
    let reasons = limits.iter().map(|limit| &*limit.reason);
    let reasons: BTreeSet<_> = reasons.filter(|reason| !reason.is_empty()).collect();
    if !absent.is_empty() || !reasons.is_empty() {
        text.push('\n');
    }
    for layer in absent {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "no {}: {}", layer.layer, layer.reason);
    }
    for reason in reasons {
        let _ = writeln!(text, "no control groups for every limit: {reason}");
    }
    let helps = host.layers.iter().map(|layer| layer.help);
    let helps = helps.chain(limits.iter().map(|limit| limit.help));
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
