//! `orchestrator audit prove`

use serde_json::json;

use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The record's number
    seq: u64,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let key = super::key(context)?;
        let (line, proof) = super::prove(context, &key, self.seq)?;
        let value = json!({
            "seq": self.seq,
            "record": String::from_utf8_lossy(&line),
            "proof": proof.to_text(),
            "vkey": key.to_text(),
        });
        context.out.show(&value, |_| proof.to_text())
    }
}
