//! `orchestrator plugin gc`

use orchestrator_signing::{CollectOptions, Collected, TrustStore, collect, migrate};
use serde_json::json;

use super::lock;
use crate::{context::Context, failure::Result, run_view::size, table::Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Remove versions that were rolled back too, and installed ones except this
    /// many of the highest of each plugin and those in the lock file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    #[command(flatten)]
    at: lock::At,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let locked = self.at.read(&home)?.unwrap_or_default();
        let options = CollectOptions {
            dry_run: self.dry_run,
            keep: self.keep.map(|keep| keep as usize),
            wanted: locked.trees(),
        };
        if !self.dry_run {
            migrate(&home.plugins(), &TrustStore::open(&home.trust())?)?;
        }
        let collected = collect(&home.plugins(), &options)?;
        let removed: Vec<_> = collected
            .removed
            .iter()
            .map(|one| json!({ "what": one.what, "tree": one.tree, "bytes": one.bytes }))
            .collect();
        let value = json!({
            "dry_run": self.dry_run,
            "removed": removed,
            "in_use": collected.in_use,
        });
        context.out.show(&value, |_| text(&collected, self.dry_run))
    }
}

fn text(collected: &Collected, dry_run: bool) -> String {
    let mut text = String::new();
    if !collected.removed.is_empty() {
        let mut table = Table::new(["PLUGIN", "CONTENT", "SIZE"]);
        for one in &collected.removed {
            let what = match one.what.as_str() {
                "" => "unfinished",
                what => what,
            };
            let tree = one.tree.to_string();
            table.row([what.to_owned(), tree[..16].to_owned(), size(one.bytes)]);
        }
        text = table.to_string();
    }
    let verb = if dry_run {
        "would be removed"
    } else {
        "removed"
    };
    text.push_str(&format!("{} {verb}", collected.removed.len()));
    if collected.in_use > 0 {
        text.push_str(&format!("; {} in use", collected.in_use));
    }
    text.push('\n');
    text
}
