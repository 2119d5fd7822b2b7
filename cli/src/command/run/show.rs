//! `orchestrator run show`

use super::run_id;
use crate::{context::Context, failure::Result, run_output::run_output, run_record, run_view};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run
    run: String,

    /// Write this output to standard output, as it is
    #[arg(long, value_name = "NAME", conflicts_with = "history")]
    output: Option<String>,

    /// Show every record of the run's journal
    #[arg(long)]
    history: bool,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = run_id(&self.run)?;
        let history = context.history_of(run).await?;
        if self.history {
            let records = history.records(run, 0).await?;
            let values: Vec<_> = records.iter().map(run_record::json).collect();
            return context.out.show(&values, |_| {
                let lines = records.iter().map(run_record::line);
                lines.map(|line| format!("{line}\n")).collect()
            });
        }
        if let Some(name) = self.output {
            let output = run_output(&history, run, &name).await?;
            return context.out.bytes(&output.payload.bytes);
        }
        let report = history.overview(run).await?;
        let document = run_view::json(&report, &[])?;
        let text = |_: &_| run_view::text(context.out, &report, &[]);
        context.out.show(&document, text)
    }
}
