//! `orchestrator key revoke`

use orchestrator_signing::KeyFacts;
use serde_json::json;

use crate::{
    audit::{self, About},
    context::Context,
    failure::Result,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// A key of this home, or a secret key file
    key: String,

    /// Why, for whoever meets the key later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Revoke {
    pub(super) fn execute(self, context: &Context) -> Result {
        let path = super::secret_file(context, &self.key)?;
        let facts = KeyFacts::revoke_file(&path, &self.reason)?;
        let key = &facts.public;
        audit::about(context, About::keys([key]));
        let command = format!(
            "orchestrator trust revoke {} --reason {}",
            key.id(),
            super::quoted(&self.reason)
        );
        let value = json!({
            "name": key.name(),
            "key_id": key.id(),
            "revoked": facts.revoked,
            "at_verifiers": [&command],
        });
        context.out.show(&value, |_| {
            format!(
                "{} no longer signs here; wherever it is trusted, run\n  {command}\n",
                key.name()
            )
        })
    }
}
