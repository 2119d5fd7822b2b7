//! What is recorded of a change of whom this host trusts: which keys, on which terms,
//! and which root says so.

use orchestrator_signing::{Delegation, ENVELOPE_SIZE_MAX, RootFile, TrustRoot};

use super::{About, lock};
use crate::{bounded_file, context::Context};

/// Says what a command has made of the root. What the command was told itself stands
/// where nothing has changed.
pub(crate) fn about_root(context: &Context, before: &TrustRoot, after: &TrustRoot) {
    let mut about = lock(&context.audit_log().about);
    let told = about.take().unwrap_or_default();
    let mut concerned = changed(before, after);
    if concerned.is_empty() {
        let is_told = |it: &&Delegation| told.key == Some(it.key.id().to_string());
        concerned = after.delegations().iter().filter(is_told).collect();
    }
    let mut known = match concerned.is_empty() {
        true => told,
        false => About::keys(concerned.iter().map(|it| &it.key)),
    };
    let names = |it: &&Delegation| {
        let names: Vec<_> = it.names.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    // Of keys on several terms, `detail` says which has which.
    let level = |it: &&Delegation| u8::from(it.trust_level).to_string();
    known.add("names", same(concerned.iter().map(names)));
    known.add("level", same(concerned.iter().map(level)));
    known.add("root_before", Some(before.version().to_string()));
    known.add("root_after", Some(after.version().to_string()));
    if let Some(file) = present(context).filter(|file| file.version() == after.version()) {
        known.digest = Some(file.digest().to_string());
        let changes = file.changes_from(before);
        let changes: Vec<_> = changes.iter().map(|change| change.trim()).collect();
        known.detail = (!changes.is_empty()).then(|| changes.join("; "));
    }
    *about = Some(known);
}

/// Keys with other terms than before, as they are now, and those that are gone.
fn changed<'r>(before: &'r TrustRoot, after: &'r TrustRoot) -> Vec<&'r Delegation> {
    let of = |root: &'r TrustRoot, key: &Delegation| {
        let mut all = root.delegations().iter();
        all.find(|it| it.key.id() == key.key.id())
    };
    let new = after.delegations().iter();
    let new = new.filter(|it| of(before, it) != Some(*it));
    let old = before.delegations().iter();
    new.chain(old.filter(|it| of(after, it).is_none()))
        .collect()
}

/// What all have in common.
fn same(mut texts: impl Iterator<Item = String>) -> Option<String> {
    let first = texts.next()?;
    texts.all(|it| it == first).then_some(first)
}

fn present(context: &Context) -> Option<RootFile> {
    let path = context.home().ok()?.trust().join("root.json");
    let bytes = bounded_file::read(&path, ENVELOPE_SIZE_MAX).ok()?;
    RootFile::parse(&bytes).ok()
}
