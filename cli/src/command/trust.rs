//! `orchestrator trust`

mod add;
mod anew;
mod change;
mod check;
mod init;
mod propose;
mod revoke;
mod rotate;
mod show;
mod sign;
mod update;

use clap::Subcommand;
use jiff::{Timestamp, civil, tz::TimeZone};
use orchestrator_signing::{Delegation, PublicKey, TrustStore};
use serde_json::{Value, json};

use crate::{audit, context::Context, failure::Result};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this home's trust root, or adopt the first one of somebody else
    #[command(after_help = "Examples:
  orchestrator trust init
  orchestrator trust init --from root.1.json --sha256 6b1f9a0c…

Without `--from`, one key of this host's own signs the root; `trust add` does that too when there is
no root yet. A root that others sign is adopted once, and then changes by `trust update` alone.")]
    Init(init::Args),

    /// Show the trust root, or a root file and what it would change
    #[command(after_help = "Examples:
  orchestrator trust show
  orchestrator trust show root.2.json
  orchestrator trust show --json")]
    Show(show::Args),

    /// Trust a key to sign plugins of some names, up to a level
    #[command(after_help = "Examples:
  orchestrator trust add release --level 3 --names 'com.example.*,greeter'
  orchestrator trust add ./partner.pub --level 2 --names com.partner.importer
  orchestrator trust add release --level 3 --names 'com.example.*,greeter,stats' --replace
  orchestrator trust add release --level 3 --names greeter --min-serial 42 --replace

Levels: 1 untrusted, 2 partner, 3 internal. A key that is trusted already keeps its terms unless
`--replace` is given; a key that was revoked stays so until it is removed.")]
    Add(add::Args),

    /// List the trusted keys
    #[command(after_help = "Examples:
  orchestrator trust list
  orchestrator trust list --json")]
    List,

    /// Trust a key no longer
    #[command(after_help = "Examples:
  orchestrator trust remove release
  orchestrator trust remove 6b1f9a0c… --out root.2.json

Nothing that it signed loads any more, and nobody is told why: `trust revoke` says why.")]
    Remove(add::Remove),

    /// Replace a release key with an overlap, or this host's root key
    #[command(after_help = "Examples:
  orchestrator trust rotate release release-2027
  orchestrator trust rotate release ./release-2027.pub --overlap 14
  orchestrator trust rotate --root

The new key gets the terms of the old one. After the overlap the old key retires by itself: what is
installed goes on loading, and nothing new that it signs is taken.")]
    Rotate(rotate::Args),

    /// Refuse what a key signed, or one release, from now on
    #[command(after_help = "Examples:
  orchestrator trust revoke release --reason 'stolen laptop'
  orchestrator trust revoke release --reason 'stolen laptop' --allow 0a1b…,2c3d…
  orchestrator trust revoke sha256:0a1b… --reason 'steals cookies'
  orchestrator trust revoke release --retire --reason 'replaced by release-2027'

`--allow` names releases that stay good by the digest that `plugin verify` shows. With `--retire`,
what is installed goes on loading and only new releases are refused.")]
    Revoke(revoke::Args),

    /// Write the next root for others to sign: its keys, threshold and end
    #[command(after_help = "Examples:
  orchestrator trust propose --root-key a.pub --root-key b.pub --threshold 2 --out root.1.json
  orchestrator trust propose --drop-root-key a --root-key c.pub --out root.2.json
  orchestrator trust propose --expires 2027-12-31 --out root.2.json

The file is text to be read. `trust add`, `remove`, `rotate` and `revoke` add to it with the same
`--out`, until the first `trust sign`.")]
    Propose(propose::Args),

    /// Sign a root file with a root key
    #[command(after_help = "Examples:
  orchestrator trust sign root.2.json --key root-a
  orchestrator trust sign root.2.json --own

Needs no connection to any host. Says first what is signed, as far as this home knows the root
before it.")]
    Sign(sign::Args),

    /// Follow a newer root, signed by enough old and new root keys
    #[command(after_help = "Examples:
  orchestrator trust update root.2.json
  orchestrator trust update root.2.json root.3.json

Versions are applied one by one and never back.")]
    Update(update::Args),

    /// Look for what will go wrong: ends, idle keys, weak thresholds, refused plugins
    #[command(after_help = "Examples:
  orchestrator trust check
  orchestrator trust check --days 60 --strict
  orchestrator trust check --json

Changes nothing. Status 6 when something does not load or the root has expired; with `--strict`,
status 1 when there is anything to say.")]
    Check(check::Args),
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let mut store = TrustStore::open(&context.home()?.trust())?;
        let before = store.root();
        let changes_root = matches!(
            self,
            Self::Init(_)
                | Self::Add(_)
                | Self::Remove(_)
                | Self::Rotate(_)
                | Self::Revoke(_)
                | Self::Update(_)
        );
        let result = match self {
            Self::Init(args) => args.execute(context, &mut store),
            Self::Show(args) => args.execute(context, &store),
            Self::Add(args) => args.execute(context, &mut store),
            Self::List => show::list(context, store.list()),
            Self::Remove(args) => args.execute(context, &mut store),
            Self::Rotate(args) => args.execute(context, &mut store),
            Self::Revoke(args) => args.execute(context, &mut store),
            Self::Propose(args) => args.execute(context, &mut store),
            Self::Sign(args) => args.execute(context, &mut store).await,
            Self::Update(args) => args.execute(context, &mut store),
            Self::Check(args) => args.execute(context, &store),
        };
        // Also of what failed: some of it may have been done.
        if changes_root {
            let root = store.root();
            audit::about_root(context, &before, &root);
            if before.version() == 0 && root.version() > 0 {
                anew::tell_forgotten(context)?;
            }
        }
        result
    }
}

fn delegation_json(delegation: &Delegation) -> Value {
    json!({
        "name": delegation.key.name(),
        "key_id": delegation.key.id(),
        "level": delegation.trust_level,
        "names": delegation.names,
        "threshold": delegation.threshold,
        "status": delegation.status,
        "not_after": delegation.not_after.map(|end| end.to_string()),
        "min_serial": delegation.min_serial,
        "reason": delegation.reason,
    })
}

fn key_json(key: &PublicKey) -> Value {
    json!({ "name": key.name(), "key_id": key.id() })
}

fn patterns(delegation: &Delegation) -> String {
    let names: Vec<_> = delegation.names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// A time, or a day of which the first moment in UTC is meant.
fn moment(text: &str) -> std::result::Result<Timestamp, String> {
    let day = |text: &str| {
        let day: civil::Date = text.parse().ok()?;
        Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
    };
    let time = text.parse().ok().or_else(|| day(text));
    time.ok_or_else(|| format!("`{text}` is no time; write 2027-12-31 or 2027-12-31T18:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_two_ways() {
        assert_eq!(moment("2027-12-31"), moment("2027-12-31T00:00:00Z"));
        assert_eq!(
            moment("2027-12-31T18:00:00+02:00"),
            moment("2027-12-31T16:00:00Z")
        );
        for bad in ["", "soon", "31.12.2027", "2027-13-01"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
