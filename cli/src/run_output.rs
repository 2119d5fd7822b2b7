//! One output of a run.

use orchestrator_contract::RunId;
use orchestrator_engine::{RunHistory, pipeline::Output};

use crate::{error::CliError, failure::Result};

/// The output `name` of a run; the error says which ones it has.
pub(crate) async fn run_output(history: &RunHistory, run: RunId, name: &str) -> Result<Output> {
    if let Some(output) = history.output(run, name).await? {
        return Ok(output);
    }
    let outputs = history.overview(run).await?.outputs;
    let names = outputs.into_iter().map(|output| output.name);
    Err(CliError::NoOutput {
        run,
        name: name.to_owned(),
        names: names.collect(),
    }
    .into())
}
