//! `orchestrator trust propose`

use std::path::PathBuf;

use jiff::Timestamp;
use orchestrator_signing::{NextRoot, PublicKey, TrustError, TrustStore};
use serde_json::json;

use super::{change, moment, show::listing};
use crate::{command::key, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write; a proposal that it holds is added to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Add a key that signs roots: a public key file, or a key of this home
    #[arg(long, value_name = "KEY")]
    root_key: Vec<String>,

    /// Take a key out of those that sign roots, by its name or id
    #[arg(long, value_name = "KEY")]
    drop_root_key: Vec<String>,

    /// How many root keys have to sign a root
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,

    /// Install nothing new after this time, unless a newer root has come
    #[arg(long, value_name = "TIME", value_parser = moment)]
    expires: Option<Timestamp>,

    /// Let the root never expire
    #[arg(long, conflicts_with = "expires")]
    never_expires: bool,
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let keys = self.root_key.iter();
        let keys: Vec<PublicKey> = keys
            .map(|text| key::public(context, text))
            .collect::<Result<_>>()?;
        let root = store.root();
        change::propose(&self.out, &root, |next| self.edit(next, keys))?;
        let file = change::read(&self.out)?;
        let changes = file.changes_from(&root);
        let value = json!({
            "file": self.out.display().to_string(),
            "version": file.version(),
            "sha256": file.digest(),
            "changes": changes,
        });
        context.out.show(&value, |_| {
            format!(
                "version {} is proposed in {}\n{}",
                file.version(),
                self.out.display(),
                listing(&changes)
            )
        })
    }

    fn edit(
        &self,
        next: &mut NextRoot,
        keys: Vec<PublicKey>,
    ) -> std::result::Result<(), TrustError> {
        for key in &self.drop_root_key {
            next.remove_root_key(key)?;
        }
        for key in keys {
            next.add_root_key(key);
        }
        if let Some(threshold) = self.threshold {
            next.set_root_threshold(threshold);
        }
        if self.expires.is_some() || self.never_expires {
            next.set_expires(self.expires);
        }
        Ok(())
    }
}
