//! `orchestrator plugin install` and `remove`

use std::path::PathBuf;

use orchestrator_manifest::PluginName;
use orchestrator_signing::{GrantStore, InstallOptions, TrustStore, install, remove};
use semver::Version;
use serde_json::json;

use super::verify;
use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// The package's directory
    dir: PathBuf,

    /// Accept a release older than one that was installed before
    #[arg(long)]
    allow_downgrade: bool,
}

impl Install {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let mut trust = TrustStore::open(&home.trust())?;
        let options = InstallOptions {
            allow_downgrade: self.allow_downgrade,
        };
        let package = install(&self.dir, &mut trust, &home.plugins(), options)?;
        verify::show(context, &package, "is installed")?;
        // What is still missing is said now and not by the first run.
        if let Err(error) = GrantStore::open(&home.grants_file())?.check(&package) {
            use miette::Diagnostic as _;
            context.out.note(&error.to_string());
            if let Some(help) = error.help() {
                context.out.note(&help.to_string());
            }
        }
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The plugin
    name: PluginName,

    /// Only this version
    version: Option<Version>,
}

impl Remove {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let dir = context.home()?.plugins();
        remove(&dir, &self.name, self.version.as_ref())?;
        let value = json!({ "removed": self.name, "version": self.version });
        context.out.show(&value, |_| match &self.version {
            Some(version) => format!("removed {} {version}", self.name),
            None => format!("removed {}", self.name),
        })
    }
}
