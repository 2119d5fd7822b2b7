//! `orchestrator plugin reload`

use std::time::Duration;

use serde_json::{Value, json};

use super::operate::{tell_all, within};
use crate::{context::Context, failure::Result};

/// How long a service may take: to start the new version, and to move the state.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin
    name: String,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        within(context)?;
        let told = tell_all(context, &self.name, "reload", PATIENCE).await?;
        let value = json!({ "plugin": self.name, "services": told });
        context.out.show(&value, |_| {
            let lines = told.iter().map(|it| line(&self.name, it));
            lines.collect::<Vec<_>>().join("\n")
        })
    }
}

/// What one service has done.
fn line(name: &str, told: &Value) -> String {
    let done = &told["reloaded"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, address) = (text(&done["version"]), text(&told["address"]));
    let from = match done["from"].as_str() {
        None => String::new(),
        Some(from) if from == version => " anew".to_owned(),
        Some(from) => format!(", before {from}"),
    };
    let state = &done["state"];
    let state = match state["kept"].as_bool() {
        Some(true) => format!("its state was kept ({} bytes)", state["bytes"]),
        _ => format!("without state: {}", text(&state["reason"])),
    };
    let left = match done["left"].as_u64() {
        None | Some(0) => String::new(),
        Some(left) => format!("; {left} go on with the old one until they end"),
    };
    format!("{name} {version} serves{from} on {address}, {state}{left}")
}
