//! What a step falls back to.

use orchestrator_manifest::located::{Node, NodeKind};

use super::{
    fields::{Decoder, Table},
    plugin,
};
use crate::pipeline::{document::FallbackDocument, fault::Rule, located::Part};

const FALLBACK: [&str; 4] = ["value", "plugin", "phase", "last_good"];

pub(super) fn fallback(decoder: &mut Decoder<'_>, step: &Table<'_>) -> Option<FallbackDocument> {
    let node = step.get("fallback")?;
    let at = step.at("fallback");
    let table = decoder.table(node, &at, &FALLBACK)?;
    let has = |key| table.get(key).is_some();
    // Other keys were reported already, and one of them is what was meant.
    if !is_empty(node) && !FALLBACK.into_iter().any(has) {
        return None;
    }
    match (
        table.get("value").map(Node::to_json),
        has("plugin") || has("phase"),
        has("last_good"),
    ) {
        (Some(value), false, false) => Some(FallbackDocument::Value { value }),
        (None, true, false) => Some(FallbackDocument::Phase {
            plugin: plugin(decoder, &table),
            phase: decoder.required_text(&table, "phase").unwrap_or_default(),
        }),
        (None, false, true) => {
            let last_good = decoder.flag(&table, "last_good")?;
            let what = || {
                let help = "leave `fallback` out for a step that has none";
                ("the only value is true".to_owned(), help.to_owned())
            };
            decoder.require(last_good, &table, "last_good", Rule::OutOfBounds, what);
            Some(FallbackDocument::LastGood { last_good })
        }
        _ => {
            let message = "a step falls back to one thing".to_owned();
            let help = "write `value: …`, or `plugin: …` with `phase: …`, or `last_good: true`";
            decoder.fault(&at, Part::Value, Rule::Contradiction, message, help);
            None
        }
    }
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.kind, NodeKind::Table(entries) if entries.is_empty())
}
