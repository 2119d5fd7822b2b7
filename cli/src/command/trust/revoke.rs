//! `orchestrator trust revoke`

use std::fmt;

use orchestrator_signing::{Digest, KeyStatus, TrustStore};
use serde_json::json;

use super::change::{Target, tell_refused};
use crate::{context::Context, failure::Result, output::harmless};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A key's name or id, as `trust list` shows them, or one release as
    /// `sha256:DIGEST`
    #[arg(value_parser = what)]
    what: What,

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

/// What is revoked.
#[derive(Clone, Debug)]
enum What {
    Key(String),
    Release(Digest),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(&harmless(key)),
            Self::Release(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// No key's name has a colon.
fn what(text: &str) -> std::result::Result<What, String> {
    match text.starts_with("sha256:") {
        true => digest(text).map(What::Release),
        false => Ok(What::Key(text.to_owned())),
    }
}

/// A digest with or without its kind in front.
pub(super) fn digest(text: &str) -> std::result::Result<Digest, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    Digest::parse(digits).map_err(|error| format!("`{}`: {error}", text.escape_debug()))
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let status = match self.retire {
            true => KeyStatus::Retired,
            false => KeyStatus::Revoked,
        };
        self.target.edit(store, |next| {
            match &self.what {
                What::Release(release) => next.revoke_digest(*release, &self.reason)?,
                What::Key(key) => next.set_status(key, status, Some(&self.reason))?,
            }
            for allowed in &self.allow {
                next.allow_digest(*allowed)?;
            }
            Ok(())
        })?;
        self.target.note(context, store);
        let mut value = json!({
            "revoked": self.what.to_string(),
            "reason": self.reason,
            "allowed": self.allow,
            "status": status,
        });
        if self.target.is_here() {
            value["refused"] = tell_refused(context, &store.root())?;
        }
        let verb = match (self.target.is_here(), &self.what) {
            (true, What::Key(_)) => format!("is {}", status.as_str()),
            (true, What::Release(_)) => "is revoked".to_owned(),
            (false, _) => "would be refused".to_owned(),
        };
        context
            .out
            .show(&value, |_| format!("{} {verb}", self.what))
    }
}
