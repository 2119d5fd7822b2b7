//! `orchestrator audit verify`

use std::path::PathBuf;

use orchestrator_signing::audit::{AuditError, VerifierKey, verifier_key, verify};
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
        let key = match &self.key {
            Some(text) => VerifierKey::parse(text),
            None => verifier_key(&dir),
        };
        let verified = key.and_then(|key| {
            let report = verify(&dir, &key, self.from.as_deref())?;
            Ok((key, report))
        });
        // Whoever has something to compare with knows that there was a log.
        let (key, report) = match (verified, self.from.is_some() || self.key.is_some()) {
            (Err(AuditError::NothingYet { path }), true) => {
                return Err(AuditError::Gone { path }.into());
            }
            (verified, _) => verified?,
        };
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
                "{} records are as they were signed, {} newer ones are not signed yet\n\
                 checkpoints  {} of its own, {} from elsewhere\n\
                 key          {}\n",
                report.covered.saturating_sub(report.first),
                report.size - report.covered.max(report.first),
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
