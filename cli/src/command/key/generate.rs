//! `orchestrator key generate`

use orchestrator_signing::{Kdf, KeyFileError, Protection, SecretKey};
use serde_json::json;

use crate::{
    audit::{self, About},
    context::Context,
    failure::Result,
    passphrase::Source,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// What to call the key
    name: String,

    /// What to write beside it, for people
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,

    #[command(flatten)]
    passphrase: Source,

    /// Do not encrypt the secret key: whoever reads its file can sign
    #[arg(long, conflicts_with_all = ["passphrase_fd", "passphrase_command"])]
    no_passphrase: bool,
}

impl Generate {
    pub(super) async fn execute(self, context: &Context) -> Result {
        // Refuses a bad name before it becomes a path, and before anybody types.
        let mut key = SecretKey::generate(&self.name).map_err(KeyFileError::from)?;
        if let Some(comment) = &self.comment {
            key = key.with_comment(comment).map_err(KeyFileError::from)?;
        }
        audit::about(context, About::keys([key.public()]));
        let (secret, _) = super::new_files(context, &self.name)?;
        let protection = if self.no_passphrase {
            super::warn_plain(context, &secret);
            Protection::None
        } else {
            let passphrase = self
                .passphrase
                .new_one(&self.name, context.may_ask())
                .await?;
            Protection::Passphrase(passphrase, Kdf::RECOMMENDED)
        };
        let (secret, public) = super::write_new(context, &key, &protection)?;
        let value = json!({
            "name": self.name,
            "key_id": key.public().id(),
            "public": key.public().to_line(),
            "public_file": public.display().to_string(),
            "secret_file": secret.display().to_string(),
            "encrypted": !self.no_passphrase,
        });
        context.out.show(&value, |_| {
            format!(
                "made the key {} ({})\n  secret  {}\n  public  {}\n",
                self.name,
                key.public().id(),
                secret.display(),
                public.display()
            )
        })
    }
}
