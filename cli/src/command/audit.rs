//! `orchestrator audit`

mod export;
mod prove;
mod repair;
mod show;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;
use orchestrator_signing::audit::{AuditError, VerifierKey, verifier_key};

use crate::{audit, context::Context, failure::Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what was recorded
    #[command(after_help = "Examples:
  orchestrator audit show -n 20
  orchestrator audit show --plugin git-history --denied --since 24h
  orchestrator audit show --kind grant --json | jq -r .actor")]
    Show(show::Args),

    /// Check that no record was changed or removed
    #[command(after_help = "Examples:
  orchestrator audit verify
  orchestrator audit verify --from /mnt/copy/checkpoints --key \"$(cat host.vkey)\"

Without `--from` and `--key` the log is only compared with itself: whoever could replace the whole
folder, key included, is not seen.")]
    Verify(verify::Args),

    /// Prove to somebody else that a record is in the log
    #[command(after_help = "Examples:
  orchestrator audit prove 42 > 42.tlog-proof

The proof has the format c2sp.org/tlog-proof@v1. It proves the line that
`orchestrator audit export` writes, without its line end.")]
    Prove(prove::Args),

    /// Set a log aside that cannot be written because it is damaged, and begin anew
    #[command(after_help = "Examples:
  orchestrator audit repair

The damaged log is kept beside the new one as audit.damaged-TIME, as it is: find out who could
write there. The new log has another key, and its first record says what was set aside. Does
nothing to a log that can be written. Commands that take something away (`trust revoke`, `plugin
revoke`, …) do this by themselves and say so.")]
    Repair,

    /// Write records with checkpoint, proofs and key for another tool
    #[command(after_help = "Examples:
  orchestrator audit export --output-dir evidence
  orchestrator audit export --first 100 --last 199 --output-dir evidence")]
    Export(export::Args),
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match self {
            Self::Show(args) => args.execute(context).await,
            Self::Verify(args) => args.execute(context),
            Self::Prove(args) => args.execute(context),
            Self::Repair => repair::execute(context),
            Self::Export(args) => args.execute(context),
        }
    }
}

/// Where the log lies.
fn dir(context: &Context) -> Result<PathBuf> {
    Ok(audit::dir(&context.home()?, &context.config()?.audit))
}

/// The line of a record and its proof. A record that is too new to be covered
/// is signed for it.
fn prove(
    context: &Context,
    key: &VerifierKey,
    seq: u64,
) -> Result<(Vec<u8>, orchestrator_signing::audit::Proof)> {
    let dir = dir(context)?;
    match orchestrator_signing::audit::prove(&dir, key, seq) {
        Err(AuditError::NoSuchRecord { end, .. }) if seq >= end => {
            sign(context)?;
            Ok(orchestrator_signing::audit::prove(&dir, key, seq)?)
        }
        result => Ok(result?),
    }
}

/// Has a checkpoint made of what there is; closing the log does that.
fn sign(context: &Context) -> Result {
    context.audit()?.close();
    Ok(())
}

/// The log's own key.
fn key(context: &Context) -> Result<VerifierKey> {
    Ok(verifier_key(&dir(context)?)?)
}
