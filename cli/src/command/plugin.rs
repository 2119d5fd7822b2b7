//! `orchestrator plugin`

mod attach;
mod digest;
mod doctor;
mod gc;
mod grant;
mod info;
mod install;
mod learn;
mod limits;
mod list;
pub(crate) mod lock;
mod logs;
mod operate;
mod pack;
mod reload;
mod rollback;
mod sign;
mod status;
mod update;
mod validate;
mod verify;

use clap::Subcommand;

use crate::{context::Context, failure::Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List every plugin that is found, also those that cannot be used
    #[command(after_help = "Examples:
  orchestrator plugin list
  orchestrator plugin list --installed
  orchestrator plugin list --json | jq -r '.[] | select(.state == \"error\") | .error.message'")]
    List(list::Args),

    /// Show everything about one plugin: its state, phases, grants and error
    #[command(after_help = "Examples:
  orchestrator plugin info git-history
  orchestrator plugin info git-history --json")]
    Info(info::Args),

    /// Keep a plugin from taking calls, until it is enabled again
    #[command(after_help = "Examples:
  orchestrator plugin disable git-history

Calls in flight end as they would; new ones fail with `disabled`. Running services obey at once,
later ones when they start.")]
    Disable(operate::Disable),

    /// Let a plugin take calls again, also after a crash loop
    #[command(after_help = "Examples:
  orchestrator plugin enable git-history")]
    Enable(operate::Enable),

    /// Start a plugin of the running service again, also after a crash loop
    #[command(after_help = "Examples:
  orchestrator plugin restart git-history
  orchestrator plugin restart git-history --grace 20s

Calls in flight have the grace period to end; those that come meanwhile wait. Versions that nobody
has called are not started. What is compiled in can be restarted too.")]
    Restart(operate::Restart),

    /// Let a plugin of the running service go on with what is installed now
    #[command(after_help = "Examples:
  orchestrator plugin install greeter-1.1.0.opkg && orchestrator plugin reload greeter
  orchestrator plugin rollback greeter && orchestrator plugin reload greeter
  orchestrator plugin reload greeter --json | jq '.services[].reloaded.state'

The new version starts beside the old one, and takes its place and its state when it can. No call fails
for it; whatever goes wrong, the old version goes on. Runs keep the version they began with. What is
compiled in cannot be reloaded: there is no other to load, and `plugin restart` starts it again.")]
    Reload(reload::Args),

    /// Show how a plugin of the running service fares, and how it came to that
    #[command(after_help = "Examples:
  orchestrator plugin status
  orchestrator plugin status git-history
  orchestrator plugin status git-history --json | jq '.services[].plugins[].history'")]
    Status(status::Args),

    /// Show what a plugin of the running service may use, or change it
    #[command(after_help = "Examples:
  orchestrator plugin limits git-history
  orchestrator plugin limits git-history --memory-mb 256 --tasks 32
  orchestrator plugin limits git-history --violation warn
  orchestrator plugin limits git-history --json | jq '.services[].plugins[].limits'

What is not named stays as it is, and 0 is no limit of its own. It holds until the service ends, within
a second for what runs; what only a restart or a reload puts in force says so. No plugin that is
confined gets more than `runtime.sandbox` lets all of them have.")]
    Limits(limits::Args),

    /// Show what a plugin of the running service wrote, and what became of it
    #[command(after_help = "Examples:
  orchestrator plugin logs git-history
  orchestrator plugin logs git-history --follow --tail 0
  orchestrator plugin logs git-history -f --json | jq -r .message

Following ends with status 0 when the service says that it ends, and with 7 when it is gone without
a word.")]
    Logs(logs::Args),

    /// Check the manifest of a package that is being written
    #[command(after_help = "Examples:
  orchestrator plugin validate ./greeter
  orchestrator plugin validate plugin.yaml
  orchestrator plugin validate --schema > plugin.schema.json")]
    Validate(validate::Args),

    /// Show what signing would sign, and write it for a machine with the key
    #[command(after_help = "Examples:
  orchestrator plugin digest ./greeter
  orchestrator plugin digest ./greeter --serial 7 --out greeter.payload

The file holds the very bytes that are signed. Sign it with `plugin sign --detached`, or with any
program that makes Ed25519 signatures.")]
    Digest(digest::Args),

    /// Sign a package with a release key
    #[command(after_help = "Examples:
  orchestrator plugin sign ./greeter --key release
  orchestrator plugin sign ./greeter --key release --serial 7 --minisign
  orchestrator plugin sign ./greeter --key second --add
  orchestrator plugin sign ./greeter --key release --attest provenance.dsse
  orchestrator plugin sign ./greeter --key-command 'pkcs11-sign --slot 0' --public release.pub
  orchestrator plugin sign --detached greeter.payload --key release --out greeter.sig")]
    Sign(sign::Args),

    /// Put a signature that was made elsewhere on a package
    #[command(after_help = "Examples:
  orchestrator plugin attach ./greeter greeter.sig --public release.pub
  orchestrator plugin attach ./greeter raw.sig --payload greeter.payload --public hsm.pub

Nothing is written unless the signature is of this very package. Signatures of several keys are
attached one after the other.")]
    Attach(attach::Args),

    /// Put a signed package into one file
    #[command(after_help = "Examples:
  orchestrator plugin pack ./greeter
  orchestrator plugin pack ./greeter --out dist/greeter.opkg

The same package gives the same file. `tar xzf` unpacks it too.")]
    Pack(pack::Pack),

    /// Unpack an archive into a new directory; verifies nothing
    #[command(after_help = "Examples:
  orchestrator plugin unpack greeter-0.1.0.opkg ./greeter")]
    Unpack(pack::Unpack),

    /// Check the signature and every file of a package, as loading does
    #[command(after_help = "Examples:
  orchestrator plugin verify ./greeter
  orchestrator plugin verify greeter-0.1.0.opkg
  orchestrator plugin verify ./greeter --json")]
    Verify(verify::Args),

    /// Verify a package and copy it into this home
    #[command(after_help = "Examples:
  orchestrator plugin install ./greeter
  orchestrator plugin install greeter-1.0.0.opkg
  orchestrator plugin install https://example.org/greeter-1.0.0.opkg --sha256 DIGEST
  orchestrator plugin install --locked
  orchestrator plugin install ./greeter-0.9 --allow-downgrade")]
    Install(install::Install),

    /// Remove an installed plugin; its grants stay
    #[command(after_help = "Examples:
  orchestrator plugin remove greeter
  orchestrator plugin remove greeter@0.9.0
  orchestrator plugin remove greeter 0.9.0")]
    Remove(install::Remove),

    /// Install the newest releases from where the installed ones came from
    #[command(after_help = "Examples:
  orchestrator plugin update
  orchestrator plugin update greeter

A lock file that is there is written anew. A release that was rolled back is not installed again.")]
    Update(update::Update),

    /// Show for which plugins there is a newer release
    #[command(after_help = "Examples:
  orchestrator plugin outdated
  orchestrator plugin outdated --json")]
    Outdated(update::Outdated),

    /// Use the version before the present one again
    #[command(after_help = "Examples:
  orchestrator plugin rollback greeter

Running engines go on with what they have loaded, until `plugin reload`.")]
    Rollback(rollback::Args),

    /// Write down exactly which releases are installed, or compare
    #[command(after_help = "Examples:
  orchestrator plugin lock
  orchestrator plugin lock --lock-file ./orchestrator.lock
  orchestrator plugin lock --locked")]
    Lock(lock::Args),

    /// Remove what nothing refers to and nothing has loaded
    #[command(after_help = "Examples:
  orchestrator plugin gc --dry-run
  orchestrator plugin gc --keep 2")]
    Gc(gc::Args),

    /// Show what this host can enforce, which trust levels it can run, and what to change
    #[command(after_help = "Examples:
  orchestrator plugin doctor
  orchestrator plugin doctor --json | jq -r '.layers[] | select(.works | not) | .help'

The exit status is 0 when plugins of every trust level can run here, and 1 when some cannot.")]
    Doctor(doctor::Args),

    /// Run a phase of a plugin without refusing it anything, and propose what to grant
    #[command(after_help = "Examples:
  orchestrator plugin learn git-history --input request.json
  orchestrator plugin learn ./draft --phase collect --write
  orchestrator plugin learn greeter --json | jq -r .command

The plugin runs with your rights while it is observed: learn only from what you would run yourself.
What is printed is what this one run used; read it before you grant it. Variables, storage and
events are not seen, and stay as the manifest asks for them.")]
    Learn(learn::Args),

    /// Give a plugin capabilities, besides those it has
    #[command(after_help = "Examples:
  orchestrator plugin grant git-history process:spawn=/usr/bin/git file:read=/srv/repo
  orchestrator plugin grant importer network:access=api.example.com:443
  orchestrator plugin grant ./draft process:spawn=/bin/sh

A capability is written resource:action[=scope]. Nothing is granted by default. A grant belongs to
the plugin's publisher; what an unsigned plugin below `runtime.unsigned_paths` is granted, a signed
one of the same name does not have.")]
    Grant(grant::Give),

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
            Self::Disable(args) => args.execute(context).await,
            Self::Enable(args) => args.execute(context).await,
            Self::Restart(args) => args.execute(context).await,
            Self::Reload(args) => args.execute(context).await,
            Self::Status(args) => args.execute(context).await,
            Self::Limits(args) => args.execute(context).await,
            Self::Logs(args) => args.execute(context),
            Self::Validate(args) => args.execute(context),
            Self::Digest(args) => args.execute(context),
            Self::Sign(args) => args.execute(context).await,
            Self::Attach(args) => args.execute(context),
            Self::Pack(args) => args.execute(context),
            Self::Unpack(args) => args.execute(context),
            Self::Verify(args) => args.execute(context),
            Self::Install(args) => args.execute(context),
            Self::Remove(args) => args.execute(context),
            Self::Update(args) => args.execute(context),
            Self::Outdated(args) => args.execute(context),
            Self::Rollback(args) => args.execute(context),
            Self::Lock(args) => args.execute(context),
            Self::Gc(args) => args.execute(context),
            Self::Doctor(args) => args.execute(context).await,
            Self::Learn(args) => args.execute(context).await,
            Self::Grant(args) => args.execute(context).await,
            Self::Revoke(args) => args.execute(context).await,
            Self::Grants(args) => args.execute(context).await,
        }
    }
}
