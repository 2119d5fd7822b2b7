//! `orchestrator run resume`

use std::path::PathBuf;

use super::{
    follow::{self, Follow, Watch},
    run_id,
};
use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run; without it, every open run whose process is gone
    run: Option<String>,

    /// Write the run's outputs to files in this directory
    #[arg(long, value_name = "DIR", requires = "run")]
    output_dir: Option<PathBuf>,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = self.run.as_deref().map(run_id).transpose()?;
        let follow = Follow {
            output_dir: self.output_dir,
            is_one_of_many: run.is_none(),
        };
        follow.prepare()?;
        let engine = context.engine().await?;
        let mut watch = Watch::new(&engine, context.out)?;
        let handles = engine.resume(run).await?;
        if handles.is_empty() {
            context.out.note("no run waits to be resumed");
        }
        watch.follow(&handles);
        // They all go on at the same time; each is reported when its turn comes.
        let mut result = Ok(());
        for handle in handles {
            let of_this = follow
                .to_the_end(context, &engine, handle, &mut watch)
                .await;
            result = result.and(of_this);
            if watch.was_left() {
                break;
            }
        }
        follow::stop(context, &engine, result).await
    }
}
