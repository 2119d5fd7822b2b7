//! `orchestrator trust sign`

use std::path::PathBuf;

use orchestrator_signing::TrustStore;
use serde_json::json;

use super::{change, show::listing};
use crate::{
    audit::{self, About},
    bounded_file,
    command::key,
    context::Context,
    failure::Result,
    passphrase::Source,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The proposal, or the root that others have signed already
    file: PathBuf,

    /// A secret key file, or the name of a key of this home
    #[arg(long, value_name = "KEY", required_unless_present = "own")]
    key: Option<String>,

    /// Sign with this host's own root key
    #[arg(long, conflicts_with = "key")]
    own: bool,

    #[command(flatten)]
    passphrase: Source,
}

impl Args {
    pub(super) async fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let mut file = change::read(&self.file)?;
        let root = store.root();
        let changes = file.changes_from(&root);
        context.out.note(&format!(
            "version {}, digest sha256:{}, {}",
            file.version(),
            file.digest(),
            listing(&changes).trim_end()
        ));
        match &self.key {
            Some(key) => {
                let key = key::secret(context, key, &self.passphrase).await?;
                file.sign(&key, Some(&root))?;
            }
            None => store.sign_with_own_key(&mut file)?,
        }
        audit::about(context, About::digest(file.digest()));
        bounded_file::write(&self.file, file.to_json().as_bytes())?;
        let have = file.signed_by(file.root_keys()).len();
        let need = file.root_threshold();
        let value = json!({
            "file": self.file.display().to_string(),
            "version": file.version(),
            "sha256": file.digest(),
            "signed_by": file.claimed_signers(),
            "signed_by_new_root_keys": have,
            "root_threshold": need,
            "changes": changes,
        });
        context.out.show(&value, |_| {
            format!(
                "{} is signed by {have} of {need} of its root keys",
                self.file.display()
            )
        })
    }
}
