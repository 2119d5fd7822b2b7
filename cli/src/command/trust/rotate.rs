//! `orchestrator trust rotate`

use jiff::{SignedDuration, Timestamp};
use orchestrator_signing::TrustStore;
use serde_json::json;

use super::{change::Target, key_json};
use crate::{command::key, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key to replace: its name or id, as `trust list` shows them
    #[arg(required_unless_present = "root", requires = "new")]
    old: Option<String>,

    /// The key that takes its place: a public key file, or a key of this home
    new: Option<String>,

    /// For how many days both count; with 0 the old key retires now
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    overlap: u16,

    /// Replace this host's own root key
    #[arg(long, conflicts_with_all = ["old", "new", "overlap", "out"])]
    root: bool,

    #[command(flatten)]
    target: Target,
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &mut TrustStore) -> Result {
        let (Some(old), Some(new)) = (&self.old, &self.new) else {
            return rotate_root(context, store);
        };
        let new = key::public(context, new)?;
        let days = SignedDuration::from_hours(24 * i64::from(self.overlap));
        let until = (self.overlap > 0).then(|| Timestamp::now() + days);
        let name = new.name().to_owned();
        self.target
            .edit(store, |next| next.rotate(old, new.clone(), until))?;
        self.target.note(context, store);
        let value = json!({
            "old": old,
            "new": key_json(&new),
            "until": until.map(|until| until.to_string()),
        });
        context.out.show(&value, |_| match until {
            Some(until) => format!("{name} signs what {old} signs; {old} retires at {until}"),
            None => format!("{name} signs what {old} signed; {old} is retired"),
        })
    }
}

fn rotate_root(context: &Context, store: &mut TrustStore) -> Result {
    store.rotate_own_key()?;
    let root = store.root();
    let keys: Vec<_> = root.root_keys().iter().map(key_json).collect();
    let value = json!({ "version": root.version(), "root_keys": keys });
    context.out.show(&value, |_| {
        format!(
            "this host's root key is replaced; the trust root is version {} now",
            root.version()
        )
    })
}
