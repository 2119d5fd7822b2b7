//! `orchestrator trust update`

use std::path::PathBuf;

use orchestrator_signing::TrustStore;
use serde_json::json;

use super::{
    change::{read_signed, tell_refused},
    show::listing,
};
use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signed roots, in the order of their versions
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let before = store.root();
        let mut changes = Vec::new();
        for path in &self.files {
            let (file, bytes) = read_signed(path)?;
            let present = store.root();
            store.apply_root(&bytes)?;
            changes.extend(file.changes_from(&present));
        }
        let root = store.root();
        let value = json!({
            "version": root.version(),
            "before": before.version(),
            "changes": changes,
            "refused": tell_refused(context, &root)?,
        });
        context.out.show(&value, |_| {
            format!(
                "the trust root is version {} now\n{}",
                root.version(),
                listing(&changes)
            )
        })
    }
}
