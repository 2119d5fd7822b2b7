//! TOML with places: the `toml` crate keeps a span for every key and value.

use std::ops::Range;

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Broken, DEPTH_MAX, Entry, Node, NodeKind};

pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map(|span| span.start);
        if error.message().contains("duplicate key") {
            let key = error.span().and_then(|span| text.get(span));
            Broken::duplicate(key.unwrap_or("a key"), offset)
        } else {
            Broken::syntax(error.message(), offset)
        }
    })?;
    let span = table.span();
    Ok(Node {
        kind: NodeKind::Table(entries(table.get_ref(), 0)?),
        span: Some(span),
    })
}

fn entries(table: &DeTable<'_>, depth: usize) -> Result<Vec<Entry>, Broken> {
    table
        .iter()
        .map(|(key, value)| {
            Ok(Entry {
                key: key.get_ref().to_string(),
                key_span: Some(key.span()),
                node: node(value, depth + 1)?,
            })
        })
        .collect()
}

fn node(value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Broken> {
    let span = value.span();
    if depth > DEPTH_MAX {
        return Err(Broken::too_deep(Some(span.start)));
    }
    let kind = match value.get_ref() {
        DeValue::String(text) => NodeKind::String(text.to_string()),
        DeValue::Boolean(value) => NodeKind::Bool(*value),
        // JSON has no dates; the text is the same in all three formats.
        DeValue::Datetime(value) => NodeKind::String(value.to_string()),
        DeValue::Integer(value) => NodeKind::Number(integer(value, &span)?),
        DeValue::Float(value) => NodeKind::Number(float(value.as_str(), &span)?),
        DeValue::Array(items) => NodeKind::List(
            items
                .iter()
                .map(|item| node(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => NodeKind::Table(entries(table, depth)?),
    };
    Ok(Node {
        kind,
        span: Some(span),
    })
}

fn integer(value: &toml::de::DeInteger<'_>, span: &Range<usize>) -> Result<Number, Broken> {
    let radix = value.radix();
    i64::from_str_radix(value.as_str(), radix)
        .map(Number::from)
        .or_else(|_| u64::from_str_radix(value.as_str(), radix).map(Number::from))
        .map_err(|_| Broken::syntax("the number needs more than 64 bits", Some(span.start)))
}

fn float(text: &str, span: &Range<usize>) -> Result<Number, Broken> {
    text.parse()
        .ok()
        .and_then(Number::from_f64)
        .ok_or_else(|| Broken::syntax("not a finite number", Some(span.start)))
}
