//! Takes the keys of a table one by one; what is left over is unknown.

use super::{Context, Item};
use crate::{
    fault::Rule,
    located::{Entry, NodeKind},
    text::{nearest, quoted},
};

/// Other spellings of a key, besides its camelCase one, which always works.
pub(crate) type Aliases = &'static [(&'static str, &'static [&'static str])];

/// Other spellings of the manifest's own keys.
pub(crate) const MANIFEST_ALIASES: Aliases = &[
    (
        "min_host_version",
        &["min_orchestrator_version", "min_version"],
    ),
    ("entry_point", &["main", "cmd"]),
    ("kind", &["transport"]),
    ("role", &["roles"]),
];

/// Other spellings of the keys of `resources`.
pub(crate) const RESOURCES_ALIASES: Aliases = &[
    ("max_tasks", &["max_goroutines"]),
    ("max_cpu_percent", &["max_cpu"]),
];

/// Keys that are read and then expressed by others: `type` and `binary` by
/// `kind`, `permissions` by `capabilities`.
pub(crate) const MANIFEST_EXTRAS: [&str; 3] = ["type", "binary", "permissions"];

/// As [`MANIFEST_EXTRAS`], for phases: `max_attempts` by `max_retries`.
pub(crate) const PHASE_EXTRAS: [&str; 1] = ["max_attempts"];

/// Most entries in any one table or list of a manifest.
pub(super) const ENTRIES_MAX: usize = 1_000;

/// An open table. Take every key it may have, then close it.
pub(super) struct Table<'a> {
    item: Item<'a>,
    entries: &'a [Entry],
    taken: Vec<bool>,
    known: Vec<&'static str>,
    aliases: Aliases,
}

impl<'a> Table<'a> {
    pub(super) fn open(cx: &mut Context<'_>, item: Item<'a>, aliases: Aliases) -> Option<Self> {
        let entries = entries(cx, &item)?;
        Some(Self {
            taken: vec![false; entries.len()],
            known: Vec::new(),
            item,
            entries,
            aliases,
        })
    }

    /// The table itself, to report faults at.
    pub(super) fn item(&self) -> &Item<'a> {
        &self.item
    }

    /// The value of `key` under any of its spellings. Nothing at all, as in
    /// `author:` without a value, counts as absent.
    pub(super) fn take(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let camel = camel_case(key);
        let aliases = self.aliases.iter().find(|(canonical, _)| *canonical == key);
        let others = aliases.map_or(&[][..], |(_, others)| *others);
        let mut found: Option<&'a Entry> = None;
        for (position, entry) in self.entries.iter().enumerate() {
            let spelled = entry.key.as_str();
            if spelled != key && spelled != camel && !others.contains(&spelled) {
                continue;
            }
            self.taken[position] = true;
            if let Some(first) = found {
                let pointer = crate::pointer::child(&self.item.pointer, spelled);
                cx.fault_at(
                    &pointer,
                    entry.key_span.clone(),
                    Rule::Contradiction,
                    format!("`{spelled}` and `{}` are the same key", first.key),
                    format!("keep `{key}` alone"),
                );
            } else {
                found = Some(entry);
            }
        }
        let entry = found?;
        let is_null = matches!(entry.node.kind, NodeKind::Null);
        (!is_null).then(|| self.item.child(&entry.key, &entry.node))
    }

    /// As [`Self::take`], for a key that must be there.
    pub(super) fn require(&mut self, cx: &mut Context<'_>, key: &'static str) -> Option<Item<'a>> {
        let taken = self.take(cx, key);
        if taken.is_none() {
            let pointer = crate::pointer::child(&self.item.pointer, key);
            let span = self.item.node.span.clone();
            let help = format!("add `{key}`");
            cx.fault_at(&pointer, span, Rule::Required, "required", help);
        }
        taken
    }

    /// The entries whose keys start with `x-`, which nobody else takes.
    pub(super) fn take_extensions(&mut self) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let entries = self.entries;
        let mut extensions = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            if entry.key.starts_with("x-") {
                self.taken[position] = true;
                extensions.push(entry);
            }
        }
        extensions.into_iter()
    }

    /// Reports every key that nobody took.
    pub(super) fn close(self, cx: &mut Context<'_>) {
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            let others = self
                .aliases
                .iter()
                .flat_map(|(_, others)| others.iter().copied());
            let help = match nearest(&entry.key, self.known.iter().copied().chain(others)) {
                Some(word) => format!("did you mean `{word}`?"),
                None => "remove it, or start it with `x-` to have it ignored".to_owned(),
            };
            let pointer = crate::pointer::child(&self.item.pointer, &entry.key);
            cx.fault_at(
                &pointer,
                entry.key_span.clone(),
                Rule::UnknownKey,
                format!("unknown key {}", quoted(&entry.key)),
                help,
            );
        }
    }
}

/// The entries of a table whose keys are the author's own.
pub(super) fn entries<'a>(cx: &mut Context<'_>, item: &Item<'a>) -> Option<&'a [Entry]> {
    let NodeKind::Table(entries) = &item.node.kind else {
        super::scalar::wrong_type(cx, item, "a table");
        return None;
    };
    (!too_many(cx, item, entries.len())).then_some(entries)
}

/// The items of a list.
pub(super) fn list<'a>(cx: &mut Context<'_>, item: &Item<'a>) -> Option<Vec<Item<'a>>> {
    let NodeKind::List(nodes) = &item.node.kind else {
        super::scalar::wrong_type(cx, item, "a list");
        return None;
    };
    if too_many(cx, item, nodes.len()) {
        return None;
    }
    let items = nodes.iter().enumerate();
    Some(
        items
            .map(|(position, node)| item.child(&position.to_string(), node))
            .collect(),
    )
}

fn too_many(cx: &mut Context<'_>, item: &Item<'_>, count: usize) -> bool {
    let too_many = count > ENTRIES_MAX;
    if too_many {
        let message = format!("{count} entries, of which at most {ENTRIES_MAX} are read");
        cx.fault(item, Rule::OutOfBounds, message, "split the plugin");
    }
    too_many
}

/// `min_host_version` as `minHostVersion`.
pub(crate) fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut camel, word| {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
        camel
    })
}
