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

use super::{DEPTH_MAX, Entry, Node, NodeKind};
use crate::pipeline::{fault::Rule, words::quoted};

/// A pipeline of the largest size has far fewer; an alias bomb has more.
const NODES_MAX: usize = 200_000;
const ALIASES_MAX: usize = 1_000;
const REPLAYED_EVENTS_MAX: usize = 50_000;

const BRACES: &str = "put text that holds `${{` between quotes, or write it as a block after `|`";

/// Why a text is no document at all.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) rule: Rule,
    pub(super) message: String,
    pub(super) help: &'static str,
    pub(super) offset: Option<usize>,
}

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPLAYED_EVENTS_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    };
    let tree: Spanned<Tree> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| broken(text, &error))?;
    node(text, tree, 0)
}

fn broken(text: &str, error: &serde_saphyr::Error) -> Broken {
    let location = error.location();
    let offset = location.and_then(|location| {
        start(&location).or_else(|| offset_of(text, location.line(), location.column()))
    });
    let line = offset.and_then(|offset| {
        let begin = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
        text.get(begin..)?.lines().next()
    });
    let help = match line {
        Some(line) if line.contains("${{") => BRACES,
        _ => "",
    };
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            duplicate(key.as_deref().unwrap_or("a key"), offset)
        }
        other => Broken {
            rule: Rule::Syntax,
            message: without_place(&other.to_string()),
            help,
            offset,
        },
    }
}

/// The parser ends its messages with the place, which is shown already.
fn without_place(message: &str) -> String {
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

fn duplicate(key: &str, offset: Option<usize>) -> Broken {
    Broken {
        rule: Rule::DuplicateKey,
        message: format!("{} stands twice", quoted(key)),
        help: "keep one of them",
        offset,
    }
}

fn node(text: &str, tree: Spanned<Tree>, depth: usize) -> Result<Node, Broken> {
    let span = span(&tree.referenced);
    if depth > DEPTH_MAX {
        return Err(Broken {
            rule: Rule::TooDeep,
            message: format!("nested more than {DEPTH_MAX} levels deep"),
            help: "flatten it",
            offset: span.map(|span| span.start),
        });
    }
    let kind = match tree.value {
        Tree::Scalar(kind) => whole_integer(text, kind, span.as_ref())?,
        Tree::List(items) => NodeKind::List(
            items
                .into_iter()
                .map(|item| node(text, item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Tree::Table(entries) => NodeKind::Table(table(text, entries, depth)?),
    };
    Ok(Node { kind, span })
}

/// An integer beyond 64 bits would become a fraction and lose its last digits.
fn whole_integer(
    text: &str,
    kind: NodeKind,
    span: Option<&Range<usize>>,
) -> Result<NodeKind, Broken> {
    let written = span.and_then(|span| text.get(span.clone()));
    let digits = written.is_some_and(|written| {
        let digits = written.trim_start_matches(['+', '-']);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    match kind {
        NodeKind::Number(number) if digits && number.is_f64() => Err(Broken {
            rule: Rule::OutOfBounds,
            message: "an integer of more than 64 bits".to_owned(),
            help: "put it between quotes, as text",
            offset: span.map(|span| span.start),
        }),
        kind => Ok(kind),
    }
}

fn table(
    text: &str,
    entries: Vec<(Spanned<String>, Spanned<Tree>)>,
    depth: usize,
) -> Result<Vec<Entry>, Broken> {
    let mut seen = HashSet::new();
    let mut table = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let key_span = span(&key.referenced);
        if !seen.insert(key.value.clone()) {
            return Err(duplicate(&key.value, key_span.map(|span| span.start)));
        }
        table.push(Entry {
            key: key.value,
            key_span,
            node: node(text, value, depth + 1)?,
        });
    }
    Ok(table)
}

/// The offset of a line and column as the parser counts them: both from 1,
/// columns in characters.
fn offset_of(text: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let within = text.get(before..)?.char_indices().nth(column);
    Some(within.map_or(text.len(), |(at, _)| before + at))
}

fn start(location: &Location) -> Option<usize> {
    usize::try_from(location.span().byte_offset()?).ok()
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
