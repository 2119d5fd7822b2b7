//! `orchestrator audit verify`

use std::path::PathBuf;

use orchestrator_signing::audit::verify;
use serde_json::json;

use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare with the checkpoints in this file, a copy that was kept elsewhere
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// The verifier key of the host that wrote the log [default: the one beside it]
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let dir = super::dir(context)?;
        let key = super::key(context, self.key.as_deref())?;
        let report = verify(&dir, &key, self.from.as_deref())?;
        let value = json!({
            "log": dir.display().to_string(),
            "origin": report.key,
            "vkey": key.to_text(),
            "first": report.first,
            "size": report.size,
            "covered": report.covered,
            "checkpoints": report.checkpoints,
            "compared": report.compared,
            "unfinished_bytes": report.unfinished,
        });
        context.out.show(&value, |_| {
            format!(
                "{} records are as they were written, {} of them under a checkpoint\n\
                 checkpoints  {} of its own, {} from elsewhere\n\
                 key          {}\n",
                report.size - report.first,
                report.covered.saturating_sub(report.first),
                report.checkpoints,
                report.compared,
                key.to_text(),
            )
        })?;
        if report.first > 0 {
            let first = report.first;
            context
                .out
                .note(&format!("records before {first} are no longer kept"));
        }
        if report.compared == 0 {
            context.out.note(
                "compared with itself only; `--from` a copy shows whether records were cut off",
            );
        }
        Ok(())
    }
}
