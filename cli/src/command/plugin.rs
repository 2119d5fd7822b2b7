//! `orchestrator plugin`

mod grant;
mod info;
mod install;
mod list;
mod sign;
mod validate;
mod verify;

use clap::Subcommand;

use crate::{context::Context, failure::Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List every plugin that is found, also those that cannot be used
    #[command(after_help = "Examples:
  orchestrator plugin list
  orchestrator plugin list --json | jq -r '.[] | select(.state == \"error\") | .error.message'")]
    List(list::Args),

    /// Show everything about one plugin: its state, phases, grants and error
    #[command(after_help = "Examples:
  orchestrator plugin info git-history
  orchestrator plugin info git-history --json")]
    Info(info::Args),

    /// Check the manifest of a package that is being written
    #[command(after_help = "Examples:
  orchestrator plugin validate ./greeter
  orchestrator plugin validate plugin.yaml
  orchestrator plugin validate --schema > plugin.schema.json")]
    Validate(validate::Args),

    /// Sign a package with a release key
    #[command(after_help = "Examples:
  orchestrator plugin sign ./greeter --key release
  orchestrator plugin sign ./greeter --key release --serial 7
  orchestrator plugin sign ./greeter --key second --add")]
    Sign(sign::Args),

    /// Check the signature and every file of a package, as loading does
    #[command(after_help = "Examples:
  orchestrator plugin verify ./greeter
  orchestrator plugin verify ./greeter --json")]
    Verify(verify::Args),

    /// Verify a package and copy it into this home
    #[command(after_help = "Examples:
  orchestrator plugin install ./greeter
  orchestrator plugin install ./greeter-0.9 --allow-downgrade")]
    Install(install::Install),

    /// Remove an installed plugin; its grants stay
    #[command(after_help = "Examples:
  orchestrator plugin remove greeter
  orchestrator plugin remove greeter 0.9.0")]
    Remove(install::Remove),

    /// Give a plugin capabilities, besides those it has
    #[command(after_help = "Examples:
  orchestrator plugin grant git-history process:spawn=/usr/bin/git file:read=/srv/repo
  orchestrator plugin grant importer network:access=api.example.com:443
  orchestrator plugin grant ./draft process:spawn=/bin/sh

A capability is written resource:action[=scope]. Nothing is granted by default. A grant belongs to
the plugin's publisher; what an unsigned plugin below `runtime.unsigned_paths` is granted, a signed
one of the same name does not have.")]
    Grant(grant::Grant),

    /// Take capabilities back from a plugin
    #[command(after_help = "Examples:
  orchestrator plugin revoke git-history
  orchestrator plugin revoke git-history file:read=/srv/repo")]
    Revoke(grant::Revoke),

    /// List what was granted to whom
    #[command(after_help = "Examples:
  orchestrator plugin grants
  orchestrator plugin grants git-history --json")]
    Grants(grant::Grants),
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match self {
            Self::List(args) => args.execute(context).await,
            Self::Info(args) => args.execute(context).await,
            Self::Validate(args) => args.execute(context),
            Self::Sign(args) => args.execute(context).await,
            Self::Verify(args) => args.execute(context),
            Self::Install(args) => args.execute(context),
            Self::Remove(args) => args.execute(context),
            Self::Grant(args) => args.execute(context).await,
            Self::Revoke(args) => args.execute(context),
            Self::Grants(args) => args.execute(context),
        }
    }
}
