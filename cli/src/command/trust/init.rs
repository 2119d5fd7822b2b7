//! `orchestrator trust init`

use std::path::PathBuf;

use orchestrator_signing::{Digest, RootFile, TrustStore};
use serde_json::json;

use super::{change::read_signed, key_json};
use crate::{context::Context, error::CliError, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Adopt this signed root instead of making one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// What `trust show FILE` says its digest is, learnt over another way
    #[arg(long, value_name = "DIGEST", requires = "from", value_parser = super::revoke::digest)]
    sha256: Option<Digest>,
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        match &self.from {
            None => store.init()?,
            Some(path) => {
                let (file, bytes) = read_signed(path)?;
                self.compare(context, &file)?;
                store.adopt(&bytes)?;
            }
        }
        let root = store.root();
        let keys: Vec<_> = root.root_keys().iter().map(key_json).collect();
        let value = json!({
            "version": root.version(),
            "root_keys": keys,
            "root_threshold": root.root_threshold(),
        });
        context.out.show(&value, |_| {
            let names: Vec<_> = root.root_keys().iter().map(|key| key.name()).collect();
            format!(
                "this home follows the trust root version {}: {} of {} must sign the next",
                root.version(),
                root.root_threshold(),
                names.join(", ")
            )
        })
    }

    fn compare(&self, context: &Context, file: &RootFile) -> Result {
        let found = file.digest();
        match self.sha256 {
            Some(wanted) if wanted != found => Err(CliError::OtherRoot { wanted, found }.into()),
            Some(_) => Ok(()),
            None => {
                context.out.warn(&format!(
                    "whoever made this root decides from now on what runs here; compare its digest: {found}"
                ));
                Ok(())
            }
        }
    }
}
