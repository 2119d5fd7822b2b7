//! `orchestrator plugin rollback`

use orchestrator_manifest::PluginName;
use orchestrator_signing::{TrustStore, roll_back};
use serde_json::json;

use super::install::tell_what_is_next;
use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin
    name: PluginName,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let trust = TrustStore::open(&home.trust())?;
        let done = roll_back(&home.plugins(), &self.name, &trust)?;
        let value = json!({ "name": self.name, "from": done.from, "to": done.to });
        context.out.show(&value, |_| {
            format!(
                "{}: {} is used again; {} stays in the store until it is installed again or collected",
                self.name, done.to, done.from
            )
        })?;
        tell_what_is_next(context, &home, self.name.as_str());
        Ok(())
    }
}
