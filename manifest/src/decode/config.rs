//! The plugin's configuration: its schema, an example, and where values come
//! from and must not go to.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Context, Item,
    scalar::{LINE_MAX, line, list_of, map_of, raw_text, wrong_type},
    table::Table,
};
use crate::{
    capability::{Capability, Token},
    config_schema,
    fault::Rule,
    located::NodeKind,
    text::quoted,
};

/// What a manifest says about configuration.
pub(super) struct Config {
    pub(super) schema: Option<Value>,
    pub(super) example: Option<Value>,
    pub(super) env_mapping: BTreeMap<String, String>,
    pub(super) sensitive_fields: Vec<String>,
}

pub(super) fn config(cx: &mut Context<'_>, table: &mut Table<'_>) -> Config {
    let schema = table
        .take(cx, "config_schema")
        .and_then(|item| schema(cx, &item));
    let example_item = table.take(cx, "config_example");
    if let (Some(schema), Some(item)) = (&schema, &example_item) {
        check_example(cx, schema, item);
    }
    let env_mapping = match table.take(cx, "env_mapping") {
        Some(item) => map_of(cx, &item, dotted, variable),
        None => BTreeMap::new(),
    };
    let mut sensitive_fields = match table.take(cx, "sensitive_fields") {
        Some(item) => list_of(cx, &item, |cx, item| {
            let key = line(cx, item)?;
            dotted(cx, item, &key)
        }),
        None => Vec::new(),
    };
    sensitive_fields.sort_unstable();
    sensitive_fields.dedup();
    Config {
        schema,
        example: example_item.map(|item| item.node.to_json()),
        env_mapping,
        sensitive_fields,
    }
}

/// A JSON Schema that can be used offline.
pub(super) fn schema(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Value> {
    if !matches!(item.node.kind, NodeKind::Table(_) | NodeKind::Bool(_)) {
        wrong_type(cx, item, "a table");
        return None;
    }
    let schema = item.node.to_json();
    if let Err(error) = config_schema::compile(&schema) {
        let help = "a JSON Schema (draft 2020-12 unless `$schema` says otherwise) without remote references";
        cx.fault(
            item,
            Rule::BadSchema,
            format!("not a usable JSON Schema: {error}"),
            help,
        );
        return None;
    }
    Some(schema)
}

fn check_example(cx: &mut Context<'_>, schema: &Value, item: &Item<'_>) {
    let example = item.node.to_json();
    for mismatch in config_schema::mismatches(schema, &example) {
        let pointer = format!("{}{}", item.pointer, mismatch.pointer);
        let message = format!(
            "the example does not fit `config_schema`: {}",
            mismatch.message
        );
        let span = item.node.span.clone();
        cx.fault_at(
            &pointer,
            span,
            Rule::BadExample,
            message,
            "mend the example or the schema",
        );
    }
}

/// A key path such as `database.host`.
fn dotted(cx: &mut Context<'_>, item: &Item<'_>, key: &str) -> Option<String> {
    if key.len() <= LINE_MAX && key.split('.').all(|part| !part.trim().is_empty()) {
        return Some(key.to_owned());
    }
    let message = format!("{} is no key path", quoted(key));
    cx.fault(
        item,
        Rule::BadName,
        message,
        "keys joined by dots, such as `database.host`",
    );
    None
}

/// The same rule as for a variable that may be read: it is one.
fn variable(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = raw_text(cx, item)?;
    if Capability::new(Token::EnvRead, Some(text)).is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("{} is no name of an environment variable", quoted(text));
    cx.fault(item, Rule::BadName, message, "for example `APP_DB_HOST`");
    None
}
