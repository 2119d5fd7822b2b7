//! `orchestrator key export`

use clap::ValueEnum;
use serde_json::json;

use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// A key of this home, or a public key file
    key: String,

    /// The public half, which is the only one that is ever written out
    #[arg(long)]
    public: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// The line that `trust add` reads
    #[default]
    Orchestrator,
    /// What `minisign -V -p` reads
    Minisign,
    /// What verifiers of signed notes and checkpoints read
    Note,
}

impl Export {
    pub(super) fn execute(self, context: &Context) -> Result {
        // There is no other half to choose.
        let _ = self.public;
        let key = super::public(context, &self.key)?;
        let (format, text) = match self.format {
            Format::Orchestrator => ("orchestrator", key.to_line()),
            Format::Minisign => ("minisign", key.to_minisign()),
            Format::Note => ("note", key.to_note()),
        };
        let value = json!({ "key_id": key.id(), "format": format, "text": text });
        context.out.show(&value, |_| text.clone())
    }
}
