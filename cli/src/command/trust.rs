//! `orchestrator trust`

use clap::Subcommand;
use orchestrator_signing::{Delegation, KeyStatus, NamePattern, TrustLevel, TrustStore};
use serde_json::{Value, json};

use super::key;
use crate::{context::Context, failure::Result, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trust a key to sign plugins of some names, up to a level
    #[command(after_help = "Examples:
  orchestrator trust add release --level 3 --names 'com.example.*,greeter'
  orchestrator trust add ./partner.pub --level 2 --names com.partner.importer
  orchestrator trust add release --level 3 --names 'com.example.*,greeter,stats' --replace

Levels: 1 untrusted, 2 partner, 3 internal. A key that is trusted already keeps its terms unless
`--replace` is given; a key that was revoked stays so until it is removed.")]
    Add(Add),

    /// List the trusted keys
    #[command(after_help = "Examples:
  orchestrator trust list
  orchestrator trust list --json")]
    List,

    /// Trust a key no longer
    #[command(after_help = "Examples:
  orchestrator trust remove release
  orchestrator trust remove 6b1f9a0c…")]
    Remove {
        /// The key's name or id, as `trust list` shows them
        key: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// A public key file, or the name of a key of this home
    key: String,

    /// How far to trust what it signs
    #[arg(long, value_name = "1-3", value_parser = level)]
    level: TrustLevel,

    /// The plugins it may sign: names, `prefix.*` or `*`
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', required = true)]
    names: Vec<NamePattern>,

    /// How many keys, at least as trusted, have to sign a release
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: u32,

    /// Change the terms of a key that is trusted already
    #[arg(long)]
    replace: bool,
}

fn level(text: &str) -> std::result::Result<TrustLevel, String> {
    let number: u8 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    TrustLevel::try_from(number)
}

impl Command {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let mut store = TrustStore::open(&context.home()?.trust())?;
        match self {
            Self::Add(args) => args.execute(context, &mut store),
            Self::List => list(context, store.list()),
            Self::Remove { key } => {
                store.remove(&key)?;
                let value = json!({ "removed": &key });
                context
                    .out
                    .show(&value, |_| format!("{key} is no longer trusted"))
            }
        }
    }
}

impl Add {
    fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let key = key::public(context, &self.key)?;
        let mut delegation = Delegation::new(key, self.level, self.names);
        delegation.threshold = self.threshold;
        let is_same = |known: &&Delegation| known.key.id() == delegation.key.id();
        let mut changes = Vec::new();
        if let Some(known) = store.list().iter().find(is_same) {
            // What the command line does not speak of stays as it was.
            delegation.status = known.status;
            delegation.not_after = known.not_after;
            delegation.min_serial = known.min_serial;
            changes = known.changes(&delegation);
        }
        match self.replace {
            true => store.replace(delegation.clone())?,
            false => store.add(delegation.clone())?,
        }
        for change in &changes {
            context.out.note(&format!("changed: {change}"));
        }
        if delegation.status != KeyStatus::Active {
            let (name, status) = (delegation.key.name(), delegation.status.as_str());
            context.out.warn(&format!("{name} is {status}"));
        }
        let mut value = as_json(&delegation);
        value["changes"] = json!(changes);
        context.out.show(&value, |_| {
            format!(
                "{} is trusted at level {} for {}",
                delegation.key.name(),
                delegation.trust_level,
                patterns(&delegation)
            )
        })
    }
}

fn list(context: &Context, delegations: &[Delegation]) -> Result {
    let value: Vec<_> = delegations.iter().map(as_json).collect();
    context.out.show(&value, |_| {
        if delegations.is_empty() {
            return "nobody is trusted; `orchestrator trust add` changes that\n".to_owned();
        }
        let mut table = Table::new(["NAME", "LEVEL", "STATUS", "SIGNS", "KEY"]);
        for delegation in delegations {
            table.row([
                delegation.key.name().to_owned(),
                delegation.trust_level.to_string(),
                delegation.status.as_str().to_owned(),
                patterns(delegation),
                delegation.key.id().to_string(),
            ]);
        }
        table.to_string()
    })
}

fn as_json(delegation: &Delegation) -> Value {
    json!({
        "name": delegation.key.name(),
        "key_id": delegation.key.id(),
        "level": delegation.trust_level,
        "names": delegation.names,
        "threshold": delegation.threshold,
        "status": delegation.status,
        "not_after": delegation.not_after.map(|end| end.to_string()),
        "min_serial": delegation.min_serial,
    })
}

fn patterns(delegation: &Delegation) -> String {
    let names: Vec<_> = delegation.names.iter().map(ToString::to_string).collect();
    names.join(", ")
}
