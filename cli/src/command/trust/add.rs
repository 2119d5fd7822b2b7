//! `orchestrator trust add` and `remove`

use jiff::Timestamp;
use orchestrator_signing::{Delegation, KeyStatus, NamePattern, TrustLevel, TrustStore};
use serde_json::json;

use super::{
    change::{Target, tell_refused},
    delegation_json, moment, patterns,
};
use crate::{
    audit::{self, About},
    command::key,
    context::Context,
    failure::Result,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A public key file, or the name of a key of this home
    key: String,

    /// How far to trust what it signs
    #[arg(long, value_name = "1-3", value_parser = level)]
    level: TrustLevel,

    /// The plugins it may sign: names, `prefix.*` or `*`
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', required = true)]
    names: Vec<NamePattern>,

    /// How many keys, at least as trusted, have to sign a release; 1 for a new key
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,

    /// When the key retires by itself: what it signs later is refused
    #[arg(long, value_name = "TIME", value_parser = moment)]
    not_after: Option<Timestamp>,

    /// Refuse releases below this number; raising it also forgets higher ones
    /// that this host has seen
    #[arg(long, value_name = "N")]
    min_serial: Option<u64>,

    /// Change the terms of a key that is trusted already
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    target: Target,
}

fn level(text: &str) -> std::result::Result<TrustLevel, String> {
    let number: u8 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    TrustLevel::try_from(number)
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let key = key::public(context, &self.key)?;
        audit::about(context, About::keys([&key]));
        let mut delegation = Delegation::new(key, self.level, self.names);
        delegation.threshold = self.threshold.unwrap_or(1);
        delegation.not_after = self.not_after;
        delegation.min_serial = self.min_serial;
        let may_replace = self.replace;
        let (delegation, changes) = self.target.edit(store, |next| {
            let is_same = |known: &&Delegation| known.key.id() == delegation.key.id();
            let mut changes = Vec::new();
            if let Some(known) = next.delegations().iter().find(is_same) {
                // What the command line does not speak of stays as it was.
                delegation.status = known.status;
                delegation.reason.clone_from(&known.reason);
                delegation.threshold = self.threshold.unwrap_or(known.threshold);
                delegation.not_after = delegation.not_after.or(known.not_after);
                delegation.min_serial = delegation.min_serial.or(known.min_serial);
                changes = known.changes(&delegation);
            }
            match may_replace {
                true => next.replace(delegation.clone())?,
                false => next.add(delegation.clone())?,
            }
            Ok((delegation, changes))
        })?;
        for change in &changes {
            context.out.note(&format!("changed: {change}"));
        }
        if delegation.status != KeyStatus::Active {
            let (name, status) = (delegation.key.name(), delegation.status.as_str());
            context.out.warn(&format!("{name} is {status}"));
        }
        self.target.note(context, store);
        let mut value = delegation_json(&delegation);
        value["changes"] = json!(changes);
        let is = match (delegation.status, self.target.is_here()) {
            (KeyStatus::Active, true) => "is trusted".to_owned(),
            (KeyStatus::Active, false) => "would be trusted".to_owned(),
            (status, true) => format!("stays {}", status.as_str()),
            (status, false) => format!("would stay {}", status.as_str()),
        };
        context.out.show(&value, |_| {
            format!(
                "{} {is} at level {} for {}",
                delegation.key.name(),
                delegation.trust_level,
                patterns(&delegation)
            )
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The key's name or id, as `trust list` shows them
    key: String,

    #[command(flatten)]
    target: Target,
}

impl Remove {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        self.target.edit(store, |next| next.remove(&self.key))?;
        self.target.note(context, store);
        let mut value = json!({ "removed": &self.key });
        if self.target.is_here() {
            value["refused"] = tell_refused(context, &store.root())?;
        }
        context.out.show(&value, |_| match self.target.is_here() {
            true => format!("{} is no longer trusted", self.key),
            false => format!("{} would no longer be trusted", self.key),
        })
    }
}
