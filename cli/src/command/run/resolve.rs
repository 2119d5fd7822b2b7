//! `orchestrator run resolve`

use std::path::PathBuf;

use orchestrator_contract::Payload;
use orchestrator_engine::Resolution;

use super::{
    follow::{self, Follow, Watch},
    run_id,
};
use crate::{
    command::plugin::lock, context::Context, failure::Result, run_input::value_in, whoami::whoami,
};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["done", "not_done"])))]
pub(crate) struct Args {
    /// The run, which has ended
    run: String,

    /// The step whose outcome is unknown
    step: String,

    /// It happened; the run goes on after it
    #[arg(long)]
    done: bool,

    /// It did not happen; it is done now
    #[arg(long)]
    not_done: bool,

    /// What the step would have returned, `-` for standard input; null if left out
    #[arg(long, value_name = "FILE", conflicts_with = "not_done")]
    output_json: Option<PathBuf>,

    /// Who says so [default: the user who runs the command]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,

    #[command(flatten)]
    follow: Follow,

    #[command(flatten)]
    locked: lock::Locked,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = run_id(&self.run)?;
        let resolution = match (self.done, &self.output_json) {
            (false, _) => Resolution::NotDone,
            (true, None) => Resolution::Done(Payload::null()),
            (true, Some(path)) => {
                let output = Payload::json(&value_in(path)?).map_err(std::io::Error::from)?;
                Resolution::Done(output)
            }
        };
        let by = self.by.unwrap_or_else(whoami);
        self.follow.prepare()?;
        let engine = context.engine(self.locked.file(context)?).await?;
        let mut watch = Watch::new(&engine, context.out)?;
        let handle = engine.resolve(run, &self.step, resolution, &by).await?;
        watch.follow([&handle]);
        let id = handle.id();
        context
            .out
            .note(&format!("run {id} goes on from run {run}"));
        let result = self
            .follow
            .to_the_end(context, &engine, handle, &mut watch)
            .await;
        follow::stop(context, &engine, result).await
    }
}
