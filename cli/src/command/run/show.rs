//! `orchestrator run show`

use miette::MietteDiagnostic;

use super::run_id;
use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    run_record, run_view,
};

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
        let history = context.history().await?;
        if self.history {
            let records = history.records(run, 0).await?;
            let values: Vec<_> = records.iter().map(run_record::json).collect();
            return context.out.show(&values, |_| {
                let lines = records.iter().map(run_record::line);
                lines.map(|line| format!("{line}\n")).collect()
            });
        }
        let report = history.report(run).await?;
        let Some(name) = self.output else {
            let document = run_view::json(&report, &[])?;
            let text = |_: &_| run_view::text(context.out, &report, &[]);
            return context.out.show(&document, text);
        };
        let found = report.outputs.iter().find(|output| output.name == name);
        let Some(output) = found else {
            let names: Vec<_> = report.outputs.iter().map(|output| &*output.name).collect();
            let error = MietteDiagnostic::new(format!("run {run} has no output `{name}`"))
                .with_code("ORC-5016")
                .with_help(match names.is_empty() {
                    true => "it has none; only a run that succeeded has outputs".to_owned(),
                    false => format!("it has: {}", names.join(", ")),
                });
            return Err(Failure::new(Exit::NotFound, error));
        };
        context.out.bytes(&output.payload.bytes)
    }
}
