//! YAML with places, through serde-saphyr's `Spanned`.

use std::{collections::HashSet, fmt, ops::Range};

use serde::{
    Deserialize,
    de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;
use serde_saphyr::{
    Location, Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy},
};

use super::{Broken, DEPTH_MAX, Entry, Node, NodeKind};

/// An honest document has far fewer; an alias bomb has more.
const NODES_MAX: usize = 200_000;
const ALIASES_MAX: usize = 1_000;

pub(super) fn parse(text: &str, replayed_max: usize) -> Result<Node, Broken> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: replayed_max,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    };
    let tree: Spanned<Tree> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| broken(&error, text))?;
    node(tree, 0)
}

fn broken(error: &serde_saphyr::Error, text: &str) -> Broken {
    let place = |location| start(&location).unwrap_or_else(|| offset_of(text, &location));
    let offset = error.location().map(place);
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            Broken::duplicate(key.as_deref().unwrap_or("a key"), offset)
        }
        other => Broken::syntax(other, offset),
    }
}

fn node(tree: Spanned<Tree>, depth: usize) -> Result<Node, Broken> {
    let span = span(&tree.referenced);
    if depth > DEPTH_MAX {
        return Err(Broken::too_deep(span.map(|span| span.start)));
    }
    let kind = match tree.value {
        Tree::Scalar(kind) => kind,
        Tree::List(items) => NodeKind::List(
            items
                .into_iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Tree::Table(entries) => NodeKind::Table(table(entries, depth)?),
    };
    Ok(Node { kind, span })
}

fn table(
    entries: Vec<(Spanned<String>, Spanned<Tree>)>,
    depth: usize,
) -> Result<Vec<Entry>, Broken> {
    let mut seen = HashSet::new();
    let mut table = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let key_span = span(&key.referenced);
        if !seen.insert(key.value.clone()) {
            return Err(Broken::duplicate(
                &key.value,
                key_span.map(|span| span.start),
            ));
        }
        table.push(Entry {
            key: key.value,
            key_span,
            node: node(value, depth + 1)?,
        });
    }
    Ok(table)
}

fn start(location: &Location) -> Option<usize> {
    usize::try_from(location.span().byte_offset()?).ok()
}

/// Errors of the scanner know their line and column alone.
fn offset_of(text: &str, location: &Location) -> usize {
    let small = |number: u64| {
        usize::try_from(number)
            .unwrap_or(usize::MAX)
            .saturating_sub(1)
    };
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines
        .by_ref()
        .take(small(location.line()))
        .map(str::len)
        .sum();
    let columns = lines.next().unwrap_or_default().chars();
    let within: usize = columns
        .take(small(location.column()))
        .map(char::len_utf8)
        .sum();
    before + within
}

fn span(location: &Location) -> Option<Range<usize>> {
    let start = start(location)?;
    let len = usize::try_from(location.span().byte_len().unwrap_or(0)).ok()?;
    Some(start..start + len)
}

/// A YAML value whose parts know their places.
enum Tree {
    Scalar(NodeKind),
    List(Vec<Spanned<Tree>>),
    Table(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::Number(value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Tree::Scalar(NodeKind::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(NodeKind::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() >= NODES_MAX {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push(entry);
        }
        Ok(Tree::Table(entries))
    }
}
