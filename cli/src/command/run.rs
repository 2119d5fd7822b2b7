//! `orchestrator run`

mod cancel;
pub(crate) mod follow;
mod list;
mod resolve;
mod resume;
mod retry;
mod show;
mod start;
mod watch;

use clap::Subcommand;
use orchestrator_contract::RunId;

use crate::{context::Context, error::CliError, failure::Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline and wait for its end
    #[command(after_help = "Examples:
  orchestrator run start pipeline.yaml --input repo=. --output-dir out
  orchestrator run start nightly --input-json input.json --idempotency-key 2025-11-18
  echo '{\"repo\":\".\"}' | orchestrator run start pipeline.yaml --input-json - --json

Ctrl-C cancels the run and waits until that is written down; a second one leaves at once.")]
    Start(start::Args),

    /// List runs, newest first
    #[command(after_help = "Examples:
  orchestrator run list
  orchestrator run list --status failed --limit 5
  orchestrator run list --pipeline nightly --json")]
    List(list::Args),

    /// Show one run: its steps, errors and outputs
    #[command(after_help = "Examples:
  orchestrator run show 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX
  orchestrator run show 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --output RELEASE_NOTES.md > notes.md
  orchestrator run show 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --history")]
    Show(show::Args),

    /// Follow a run until it ends, in whatever process it is
    #[command(after_help = "Examples:
  orchestrator run watch 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX
  orchestrator run watch 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --json | jq .kind")]
    Watch(watch::Args),

    /// End a run, in whatever process it is
    #[command(after_help = "Examples:
  orchestrator run cancel 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX
  orchestrator run cancel 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --reason 'wrong branch' --wait 1m")]
    Cancel(cancel::Args),

    /// Say what became of a step that is unknown, and go on
    #[command(after_help = "Examples:
  orchestrator run resolve 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX pay --not-done
  orchestrator run resolve 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX pay --done --output-json receipt.json
  echo '{\"receipt\":7}' | orchestrator run resolve 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX pay --done --output-json -")]
    Resolve(resolve::Args),

    /// Run an ended run again, keeping what succeeded
    #[command(after_help = "Examples:
  orchestrator run retry 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX
  orchestrator run retry 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --from render --output-dir out")]
    Retry(retry::Args),

    /// Go on with runs whose process has stopped in the middle of them
    #[command(after_help = "Examples:
  orchestrator run resume
  orchestrator run resume 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --output-dir out

With `--json` and no run named, one line for each run.")]
    Resume(resume::Args),
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match self {
            Self::Start(args) => args.execute(context).await,
            Self::List(args) => args.execute(context).await,
            Self::Show(args) => args.execute(context).await,
            Self::Watch(args) => args.execute(context).await,
            Self::Cancel(args) => args.execute(context).await,
            Self::Resolve(args) => args.execute(context).await,
            Self::Retry(args) => args.execute(context).await,
            Self::Resume(args) => args.execute(context).await,
        }
    }
}

/// Reads the id of a run.
pub(crate) fn run_id(text: &str) -> Result<RunId> {
    let id = text.trim().parse();
    Ok(id.map_err(|_| CliError::RunId {
        text: text.to_owned(),
    })?)
}
