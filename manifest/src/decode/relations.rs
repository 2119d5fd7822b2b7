//! What the plugin needs from others and offers to others.

use std::collections::BTreeMap;

use semver::{Version, VersionReq};

use super::{
    Context, Item, config,
    scalar::{self, list_of, map_of, prose, raw_text, tag},
    table::{Table, list},
};
use crate::{
    fault::Rule,
    located::{Node, NodeKind},
    manifest::Provided,
    name::PluginName,
    text::quoted,
};

/// A table of name and range, or a list of `name` and `name@range`.
pub(super) fn dependencies(
    cx: &mut Context<'_>,
    item: &Item<'_>,
) -> BTreeMap<PluginName, VersionReq> {
    if matches!(item.node.kind, NodeKind::Table(_)) {
        return map_of(cx, item, scalar::name_from, |cx, item| {
            let text = raw_text(cx, item)?;
            range(cx, item, text)
        });
    }
    let mut dependencies = BTreeMap::new();
    for item in list(cx, item).unwrap_or_default() {
        let Some(text) = raw_text(cx, &item) else {
            continue;
        };
        let (name, wanted) = text.split_once('@').unwrap_or((text, "*"));
        let (name, wanted) = (scalar::name_from(cx, &item, name), range(cx, &item, wanted));
        let (Some(name), Some(wanted)) = (name, wanted) else {
            continue;
        };
        if dependencies.insert(name, wanted).is_some() {
            cx.fault(
                &item,
                Rule::Contradiction,
                "this dependency stands twice",
                "keep one of them",
            );
        }
    }
    dependencies
}

fn range(cx: &mut Context<'_>, item: &Item<'_>, text: &str) -> Option<VersionReq> {
    match VersionReq::parse(text) {
        Ok(range) => Some(range),
        Err(error) => {
            let message = format!("{} is no range of versions: {error}", quoted(text));
            cx.fault(
                item,
                Rule::BadRange,
                message,
                "for example `^1.0.0`, `>=1.2, <3` or `*`",
            );
            None
        }
    }
}

pub(super) fn tags(cx: &mut Context<'_>, table: &mut Table<'_>, key: &'static str) -> Vec<String> {
    let mut tags = match table.take(cx, key) {
        Some(item) => list_of(cx, &item, tag),
        None => Vec::new(),
    };
    tags.sort_unstable();
    tags.dedup();
    tags
}

pub(super) fn tag_key(cx: &mut Context<'_>, item: &Item<'_>, key: &str) -> Option<String> {
    let node = Node {
        kind: NodeKind::String(key.to_owned()),
        span: item.node.span.clone(),
    };
    let key = Item {
        node: &node,
        pointer: item.pointer.clone(),
    };
    tag(cx, &key)
}

pub(super) fn provides(
    cx: &mut Context<'_>,
    table: &mut Table<'_>,
    version: Option<&Version>,
) -> Vec<Provided> {
    let Some(item) = table.take(cx, "provides") else {
        return Vec::new();
    };
    list_of(cx, &item, |cx, item| {
        let mut table = Table::open(cx, item.clone(), &[])?;
        let name = table.require(cx, "name").and_then(|item| tag(cx, &item));
        let own = table
            .take(cx, "version")
            .map(|item| scalar::version(cx, &item));
        let description = table
            .take(cx, "description")
            .and_then(|item| prose(cx, &item));
        let schema = table
            .take(cx, "schema")
            .and_then(|item| config::schema(cx, &item));
        table.close(cx);
        Some(Provided {
            name: name?,
            version: own.unwrap_or_else(|| version.cloned())?,
            description,
            schema,
        })
    })
}
