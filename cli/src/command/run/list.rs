//! `orchestrator run list`

use clap::builder::PossibleValuesParser;
use orchestrator_engine::journal::{RunFilter, RunStatus};

use super::run_id;
use crate::{context::Context, failure::Result, progress::duration, run_view, table::Table};

/// As many runs as the journal lists at a time.
const LIMIT_MAX: u16 = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only runs of this status
    #[arg(long, value_parser = PossibleValuesParser::new(
        ["running", "success", "degraded", "failed", "cancelled"]))]
    status: Option<String>,

    /// Only runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,

    /// Only runs older than this one
    #[arg(long, value_name = "RUN")]
    before: Option<String>,

    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=i64::from(LIMIT_MAX)))]
    limit: u16,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let before = self.before.as_deref().map(run_id).transpose()?;
        let filter = RunFilter {
            status: self.status.as_deref().and_then(RunStatus::from_name),
            pipeline: self.pipeline.map(Into::into),
            before,
            limit: self.limit.into(),
        };
        let runs = match context.history().await? {
            Some(history) => history.list(filter).await?,
            None => Vec::new(),
        };
        context.out.show(&runs, |runs| {
            if runs.is_empty() {
                return "no runs\n".to_owned();
            }
            let mut table = Table::new(["RUN", "PIPELINE", "STATUS", "STARTED", "DURATION"]);
            for run in runs {
                let end = run.finished_ms.unwrap_or(run.updated_ms);
                let took = u64::try_from(end - run.created_ms).unwrap_or_default();
                table.row([
                    run.run.to_string(),
                    run.pipeline.to_string(),
                    run.status.as_str().to_owned(),
                    run_view::time(run.created_ms),
                    duration(took),
                ]);
            }
            table.render(|column, cell| {
                let color = (column == 2).then(|| run_view::color_of(cell)).flatten();
                color.map(|color| context.out.paint(color, cell))
            })
        })
    }
}
