//! `orchestrator run cancel`

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::run_id;
use crate::{context::Context, error::CliError, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run
    run: String,

    /// Why, for whoever looks at it later
    #[arg(long, default_value = "cancelled from the command line")]
    reason: String,

    /// How long to wait for its end; 0s does not
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = patience)]
    wait: Duration,
}

fn patience(text: &str) -> std::result::Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => orchestrator_manifest::parse_duration(text).map_err(|error| error.to_string()),
    }
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = run_id(&self.run)?;
        let history = context.history_of(run).await?;
        history.request_cancel(run, &self.reason).await?;
        if !self.wait.is_zero() {
            match timeout(self.wait, history.ended(run)).await {
                Ok(ended) => ended?,
                Err(_) => return Err(CliError::StillRunning { run }.into()),
            }
        }
        let status = history.summary(run).await?.status;
        let value = json!({ "run": run, "status": status });
        context
            .out
            .show(&value, |_| format!("run {run} is {}", status.as_str()))
    }
}
