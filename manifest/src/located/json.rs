//! JSON with places.
//!
//! serde_json does not tell where a value stood, but a borrowed [`RawValue`]
//! is a slice of the text, and the difference of two addresses is an offset.

use std::{fmt, ops::Range};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::{Number, value::RawValue};

use super::{Broken, DEPTH_MAX, Entry, Node, NodeKind};

pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let root: &RawValue = serde_json::from_str(text).map_err(|error| {
        let offset = offset_of(text, error.line(), error.column());
        Broken::syntax(error, Some(offset))
    })?;
    node(text, root, 0)
}

fn node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, Broken> {
    let span = span(text, raw);
    let start = Some(span.start);
    if depth > DEPTH_MAX {
        return Err(Broken::too_deep(start));
    }
    let wrong = |error: serde_json::Error| Broken::syntax(error, start);
    let json = raw.get();
    let kind = match json.as_bytes().first() {
        Some(b'{') => NodeKind::Table(table(text, json, depth).map_err(|error| match error {
            TableError::Json(error) => wrong(error),
            TableError::Broken(broken) => broken,
        })?),
        Some(b'[') => NodeKind::List(
            serde_json::from_str::<Vec<&RawValue>>(json)
                .map_err(wrong)?
                .into_iter()
                .map(|item| node(text, item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Some(b'"') => NodeKind::String(serde_json::from_str(json).map_err(wrong)?),
        Some(b't' | b'f') => NodeKind::Bool(serde_json::from_str(json).map_err(wrong)?),
        Some(b'n') => NodeKind::Null,
        _ => NodeKind::Number(serde_json::from_str::<Number>(json).map_err(wrong)?),
    };
    Ok(Node {
        kind,
        span: Some(span),
    })
}

enum TableError {
    Json(serde_json::Error),
    Broken(Broken),
}

fn table(text: &str, json: &str, depth: usize) -> Result<Vec<Entry>, TableError> {
    let Pairs(pairs) = serde_json::from_str(json).map_err(TableError::Json)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    let mut seen = std::collections::HashSet::new();
    for (raw_key, value) in pairs {
        let key: String = serde_json::from_str(raw_key.get()).map_err(TableError::Json)?;
        let key_span = span(text, raw_key);
        if !seen.insert(key.clone()) {
            let broken = Broken::duplicate(&key, Some(key_span.start));
            return Err(TableError::Broken(broken));
        }
        entries.push(Entry {
            key,
            key_span: Some(key_span),
            node: node(text, value, depth + 1).map_err(TableError::Broken)?,
        });
    }
    Ok(entries)
}

/// The members of an object in their order, repeated keys included.
struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

fn span(text: &str, raw: &RawValue) -> Range<usize> {
    let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + raw.get().len()
}

/// The offset of a line and column as serde_json counts them: lines from 1,
/// columns in bytes.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (before + column.saturating_sub(1)).min(text.len())
}
