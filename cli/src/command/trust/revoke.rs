//! `orchestrator trust revoke`

use orchestrator_signing::{Digest, KeyStatus, TrustStore};
use serde_json::json;

use super::change::{Target, tell_refused};
use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A key's name or id, as `trust list` shows them, or one release as
    /// `sha256:DIGEST`
    what: String,

    /// Why; whoever meets what is revoked reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Releases that stay good, by digest
    #[arg(long, value_name = "DIGEST", value_delimiter = ',', value_parser = digest)]
    allow: Vec<Digest>,

    /// Refuse only what the key signs from now on
    #[arg(long, conflicts_with = "allow")]
    retire: bool,

    #[command(flatten)]
    target: Target,
}

/// A digest with or without its kind in front.
pub(super) fn digest(text: &str) -> std::result::Result<Digest, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    Digest::parse(digits).map_err(|error| format!("`{}`: {error}", text.escape_debug()))
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let release = match self.what.strip_prefix("sha256:") {
            Some(digits) => Some(Digest::parse(digits).map_err(|_| {
                orchestrator_signing::TrustError::NoSuchKey(self.what.escape_debug().to_string())
            })?),
            None => None,
        };
        let status = match self.retire {
            true => KeyStatus::Retired,
            false => KeyStatus::Revoked,
        };
        self.target.edit(store, |next| {
            match release {
                Some(release) => next.revoke_digest(release, &self.reason),
                None => next.set_status(&self.what, status, Some(&self.reason))?,
            }
            for allowed in &self.allow {
                next.allow_digest(*allowed);
            }
            Ok(())
        })?;
        self.target.note(context);
        let mut value = json!({
            "revoked": self.what,
            "reason": self.reason,
            "allowed": self.allow,
            "status": status,
        });
        if self.target.is_here() {
            value["refused"] = tell_refused(context, &store.root())?;
        }
        let verb = match (self.target.is_here(), release) {
            (true, None) => format!("is {}", status.as_str()),
            (true, Some(_)) => "is revoked".to_owned(),
            (false, _) => "would be refused".to_owned(),
        };
        context
            .out
            .show(&value, |_| format!("{} {verb}", self.what))
    }
}
