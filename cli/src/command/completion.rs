//! `orchestrator completion`

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use crate::{args::Cli, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to write for
    shell: Shell,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "orchestrator", &mut script);
        let script = String::from_utf8_lossy(&script);
        let value = json!({ "shell": self.shell.to_string(), "script": script });
        context.out.show(&value, |_| script.to_string())
    }
}
