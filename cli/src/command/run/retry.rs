//! `orchestrator run retry`

use super::{
    follow::{self, Follow, Watch},
    run_id,
};
use crate::{command::plugin::lock, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run
    run: String,

    /// Run this step and all that need it again; without it, the steps that
    /// did not succeed
    #[arg(long, value_name = "STEP")]
    from: Option<String>,

    #[command(flatten)]
    follow: Follow,

    #[command(flatten)]
    locked: lock::Locked,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = run_id(&self.run)?;
        self.follow.prepare()?;
        let engine = context.engine(self.locked.file(context)?).await?;
        let mut watch = Watch::new(&engine, context.out)?;
        let handle = engine.retry(run, self.from.as_deref()).await?;
        watch.follow([&handle]);
        context
            .out
            .note(&format!("run {} repeats run {run}", handle.id()));
        let result = self
            .follow
            .to_the_end(context, &engine, handle, &mut watch)
            .await;
        follow::stop(context, &engine, result).await
    }
}
