//! `orchestrator plugin digest`

use std::path::PathBuf;

use orchestrator_signing::{Draft, remove_leftovers};
use serde_json::json;

use super::sign::{as_json, lines, options};
use crate::{bounded_file, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory, in which nothing is changed
    dir: PathBuf,

    /// The number of this release, which only rises [default: milliseconds since 1970]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,

    /// Write the bytes to be signed to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        // What a killed signing left is no part of the package.
        remove_leftovers(&self.dir)?;
        let draft = Draft::new(&self.dir, &options(self.serial))?;
        let release = draft.payload().summary();
        if let Some(out) = &self.out {
            bounded_file::write(out, &draft.payload().message())?;
        }
        let mut value = as_json(&release);
        value["payload_file"] = json!(self.out.as_ref().map(|out| out.display().to_string()));
        context
            .out
            .show(&value, |_| format!("{}\n", lines(&release).join("\n")))
    }
}
