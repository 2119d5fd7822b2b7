//! `orchestrator key passphrase`

use orchestrator_signing::{KeyFacts, Protection};
use serde_json::json;

use crate::{
    audit::{self, About},
    context::Context,
    failure::Result,
    passphrase::{NewSource, Source},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// A key of this home, or a secret key file
    key: String,

    #[command(flatten)]
    passphrase: Source,

    #[command(flatten)]
    new_passphrase: NewSource,
}

impl Change {
    pub(super) async fn execute(self, context: &Context) -> Result {
        let path = super::secret_file(context, &self.key)?;
        let facts = KeyFacts::read_file(&path)?;
        audit::about(context, About::keys([&facts.public]));
        let key = super::secret(context, &self.key, &self.passphrase).await?;
        let name = key.public().name().to_owned();
        let protection = self.new_passphrase.protection(context, &name).await?;
        let encrypted = !matches!(protection, Protection::None);
        if !encrypted {
            super::warn_plain(context, &path);
        }
        key.replace_file(&path, &protection)?;
        let value = json!({
            "name": name,
            "key_id": key.public().id(),
            "was_encrypted": facts.kdf.is_some(),
            "encrypted": encrypted,
        });
        context.out.show(&value, |_| match encrypted {
            true => format!("{name} has a new passphrase; copies of the file keep the old one"),
            false => format!("{name} has no passphrase any more"),
        })
    }
}
