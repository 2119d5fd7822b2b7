//! `orchestrator trust show` and `list`

use std::{fmt::Write as _, path::PathBuf};

use jiff::Timestamp;
use orchestrator_signing::{Delegation, PublicKey, RootFile, TrustRoot, TrustStore};
use serde_json::{Value, json};

use super::{change, delegation_json, key_json, patterns};
use crate::{context::Context, failure::Result, output::harmless, table::Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A proposal or signed root; without it, the root that this home follows
    file: Option<PathBuf>,
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &TrustStore) -> Result {
        let root = store.root();
        match &self.file {
            None => present(context, &root),
            Some(path) => coming(context, &change::read(path)?, &root),
        }
    }
}

fn present(context: &Context, root: &TrustRoot) -> Result {
    for warning in root.warnings() {
        context.out.warn(&warning);
    }
    let revoked: Vec<_> = root
        .revoked_digests()
        .iter()
        .map(|(digest, reason)| json!({ "sha256": digest, "reason": reason }))
        .collect();
    let value = json!({
        "version": root.version(),
        "expires": root.expires().map(|end| end.to_string()),
        "root_keys": root.root_keys().iter().map(key_json).collect::<Vec<_>>(),
        "root_threshold": root.root_threshold(),
        "keys": root.delegations().iter().map(delegation_json).collect::<Vec<_>>(),
        "revoked": revoked,
        "allowed": root.allowed_digests(),
        "warnings": root.warnings(),
    });
    context.out.show(&value, |_| {
        if root.version() == 0 {
            return "nobody is trusted; `orchestrator trust init` or `trust add` changes that\n"
                .to_owned();
        }
        let mut text = head(
            root.version(),
            root.expires(),
            root.root_threshold(),
            root.root_keys(),
        );
        for (digest, reason) in root.revoked_digests() {
            let _ = writeln!(text, "revoked    sha256:{digest} ({})", harmless(reason));
        }
        for digest in root.allowed_digests() {
            let _ = writeln!(text, "allowed    sha256:{digest}");
        }
        format!("{text}\n{}", table(root.delegations()))
    })
}

fn coming(context: &Context, file: &RootFile, root: &TrustRoot) -> Result {
    let of_new = file.signed_by(file.root_keys()).len();
    let of_old = file.signed_by(root.root_keys()).len();
    let follows = file.version() == root.version().saturating_add(1);
    let changes = file.changes_from(root);
    let value = json!({
        "version": file.version(),
        "sha256": file.digest(),
        "expires": file.expires().map(|end| end.to_string()),
        "root_keys": file.root_keys().iter().map(key_json).collect::<Vec<_>>(),
        "root_threshold": file.root_threshold(),
        "keys": file.delegations().iter().map(delegation_json).collect::<Vec<_>>(),
        "signed_by": file.claimed_signers(),
        "signed_by_new_root_keys": of_new,
        "signed_by_present_root_keys": of_old,
        "follows": follows,
        "changes": changes,
    });
    context.out.show(&value, |_| {
        let keys = file.root_keys();
        let mut text = head(file.version(), file.expires(), file.root_threshold(), keys);
        let _ = writeln!(text, "digest     sha256:{}", file.digest());
        let need = file.root_threshold();
        let _ = writeln!(
            text,
            "signed     by {of_new} of {need} of its own root keys"
        );
        if root.version() > 0 {
            let need = root.root_threshold();
            let _ = writeln!(text, "           by {of_old} of {need} of the present ones");
        }
        if !follows {
            let (present, next) = (root.version(), root.version().saturating_add(1));
            let _ = writeln!(
                text,
                "this home follows version {present}, and takes version {next} alone"
            );
        }
        text.push_str(&listing(&changes));
        text
    })
}

/// What changes, one line each.
pub(super) fn listing(changes: &[String]) -> String {
    if changes.is_empty() {
        return "nothing changes\n".to_owned();
    }
    let lines = changes.iter().map(|it| format!("  {}\n", harmless(it)));
    format!("changes:\n{}", lines.collect::<String>())
}

fn head(version: u64, expires: Option<Timestamp>, threshold: u32, keys: &[PublicKey]) -> String {
    let expires = expires.map_or_else(|| "never".to_owned(), |end| end.to_string());
    let mut text = format!("version    {version}\nexpires    {expires}\nthreshold  {threshold}\n");
    for key in keys {
        let _ = writeln!(text, "root key   {} {}", key.name(), key.id());
    }
    text
}

pub(super) fn list(context: &Context, delegations: &[Delegation]) -> Result {
    let value: Vec<Value> = delegations.iter().map(delegation_json).collect();
    context.out.show(&value, |_| table(delegations))
}

fn table(delegations: &[Delegation]) -> String {
    if delegations.is_empty() {
        return "nobody is trusted; `orchestrator trust add` changes that\n".to_owned();
    }
    // How many keys have to sign, beside what they may sign.
    let mut table = Table::new(["NAME", "LEVEL", "STATUS", "UNTIL", "NEEDS", "SIGNS", "KEY"]);
    for delegation in delegations {
        let end = delegation.not_after.map(|end| end.to_string());
        table.row([
            delegation.key.name().to_owned(),
            delegation.trust_level.to_string(),
            delegation.status.as_str().to_owned(),
            end.unwrap_or_else(|| "-".to_owned()),
            delegation.threshold.to_string(),
            patterns(delegation),
            delegation.key.id().to_string(),
        ]);
    }
    table.to_string()
}
