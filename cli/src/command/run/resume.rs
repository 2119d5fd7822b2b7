//! `orchestrator run resume`

use std::path::PathBuf;

use orchestrator_contract::RunId;
use orchestrator_engine::Resumed;
use serde_json::json;

use super::{
    follow::{self, Follow, Watch},
    run_id,
};
use crate::{
    command::plugin::lock,
    context::Context,
    failure::{Failure, Result, as_json},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run; without it, every open run whose process is gone
    run: Option<String>,

    /// Write the run's outputs to files in this directory
    #[arg(long, value_name = "DIR", requires = "run")]
    output_dir: Option<PathBuf>,

    #[command(flatten)]
    locked: lock::Locked,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = self.run.as_deref().map(run_id).transpose()?;
        let follow = Follow {
            output_dir: self.output_dir,
            is_one_of_many: run.is_none(),
        };
        follow.prepare()?;
        let engine = context.engine(self.locked.file(context)?).await?;
        let mut watch = Watch::new(&engine, context.out)?;
        let resumed = match run {
            Some(run) => Resumed {
                handles: vec![engine.resume(run).await?],
                ..Resumed::default()
            },
            None => engine.resume_all().await?,
        };
        if resumed.handles.is_empty() && resumed.failed.is_empty() {
            context.out.note("no run waits to be resumed");
        }
        let mut result = Ok(());
        for (run, error) in resumed.failed {
            let failure = Failure::from(error);
            tell(context, run, &failure)?;
            result = result.and(Err(Failure::silent(failure.exit)));
        }
        watch.follow(&resumed.handles);
        // They all go on at the same time; each is reported when its turn comes.
        for handle in resumed.handles {
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

/// Says why a run does not go on: among the results for programs, which want a
/// line for each run, and like any other error for people.
fn tell(context: &Context, run: RunId, failure: &Failure) -> Result {
    if context.out.is_json() {
        let error = failure.report().map(|report| as_json(report, None));
        return context.out.json_line(&json!({ "id": run, "error": error }));
    }
    context.out.note(&format!("run {run} does not go on:"));
    failure.tell(context.out);
    Ok(())
}
