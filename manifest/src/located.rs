//! A document with the place of every value, read from YAML, JSON or TOML.
//!
//! Serde stops at the first mistake and forgets where values stood. Here each
//! format is read into one tree of [`Node`]s first; a decoder then walks it
//! and reports all mistakes with their places. What the values mean, and how a
//! mistake is worded, is the decoder's; manifests and pipelines have one each.
//!
//! Start with [`parse`].

mod json;
mod toml;
mod yaml;

use std::ops::Range;

use serde_json::{Map, Number, Value};

/// Nesting beyond this is refused in every format, so that the walk over the
/// tree cannot exhaust the stack.
pub const DEPTH_MAX: usize = 48;

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// YAML 1.2: `plugin.yaml`, `plugin.yml`.
    Yaml,
    /// JSON (RFC 8259): `plugin.json`.
    Json,
    /// TOML 1.1: `plugin.toml`.
    Toml,
}

impl Format {
    /// The format that a file name's extension stands for.
    pub fn from_file_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// The bytes it was written in; absent when it did not come from a text.
    pub span: Option<Range<usize>>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Nothing at all, as in `key:` without a value.
    Null,
    /// True or false.
    Bool(bool),
    /// A finite number. YAML and JSON round an integer of more than 64 bits.
    Number(Number),
    /// Text.
    String(String),
    /// Values in their order.
    List(Vec<Node>),
    /// Values by keys, of which no two are equal.
    Table(Vec<Entry>),
}

/// One key of a table, and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The bytes it was written in; absent when it did not come from a text.
    pub key_span: Option<Range<usize>>,
    /// Its value.
    pub node: Node,
}

/// Why a text is no document at all, for whoever reads it to put into words.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What is wrong with it.
    pub cause: Cause,
    /// The byte where that shows, where it is known.
    pub offset: Option<usize>,
}

/// What is wrong with a text that is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is not of its format, or more work than an honest one; in the words
    /// of the parser.
    Syntax(String),
    /// This key stands twice in one table.
    DuplicateKey(String),
    /// It is nested beyond [`DEPTH_MAX`].
    TooDeep,
}

impl Broken {
    fn syntax(message: impl ToString, offset: Option<usize>) -> Self {
        Self {
            cause: Cause::Syntax(message.to_string()),
            offset,
        }
    }

    fn duplicate(key: &str, offset: Option<usize>) -> Self {
        Self {
            cause: Cause::DuplicateKey(key.to_owned()),
            offset,
        }
    }

    fn too_deep(offset: Option<usize>) -> Self {
        Self {
            cause: Cause::TooDeep,
            offset,
        }
    }
}

/// Reads one document. The caller bounds its length. A YAML alias costs what
/// it stands for: `replayed_max` is the most events of the parser (a scalar is
/// one, a list or table two and its parts) that all aliases together may stand
/// for.
///
/// # Errors
///
/// The first reason why the text is no document.
pub fn parse(text: &str, format: Format, replayed_max: usize) -> Result<Node, Broken> {
    match format {
        Format::Yaml => yaml::parse(text, replayed_max),
        Format::Json => json::parse(text),
        Format::Toml => toml::parse(text),
    }
}

impl Node {
    /// What an author would call this value.
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "true or false",
            NodeKind::Number(_) => "a number",
            NodeKind::String(_) => "text",
            NodeKind::List(_) => "a list",
            NodeKind::Table(_) => "a table",
        }
    }

    /// The same value without places.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            NodeKind::Null => Value::Null,
            NodeKind::Bool(value) => Value::Bool(*value),
            NodeKind::Number(value) => Value::Number(value.clone()),
            NodeKind::String(value) => Value::String(value.clone()),
            NodeKind::List(items) => items.iter().map(Self::to_json).collect(),
            NodeKind::Table(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        let kind = match value {
            Value::Null => NodeKind::Null,
            Value::Bool(value) => NodeKind::Bool(*value),
            Value::Number(value) => NodeKind::Number(value.clone()),
            Value::String(value) => NodeKind::String(value.clone()),
            Value::Array(items) => NodeKind::List(items.iter().map(Self::from).collect()),
            Value::Object(map) => NodeKind::Table(map.iter().map(Entry::from).collect()),
        };
        Self { kind, span: None }
    }
}

impl From<(&String, &Value)> for Entry {
    fn from((key, value): (&String, &Value)) -> Self {
        Self {
            key: key.clone(),
            key_span: None,
            node: Node::from(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "name: x\nphases:\n  - name: a\n    order: 1\nratio: 0.5\noff: false\n";
    const JSON: &str = "{\"name\": \"x\",\n \"phases\": [{\"name\": \"a\", \"order\": 1}],\n \"ratio\": 0.5, \"off\": false}";
    const TOML: &str =
        "name = \"x\"\nratio = 0.5\noff = false\n[[phases]]\nname = \"a\"\norder = 1\n";

    fn parse(text: &str, format: Format) -> Result<Node, Broken> {
        super::parse(text, format, 20_000)
    }

    fn text_at<'a>(text: &'a str, node: &Node) -> &'a str {
        &text[node.span.clone().unwrap()]
    }

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let NodeKind::Table(entries) = &node.kind else {
            panic!("not a table: {node:?}")
        };
        entries.iter().find(|entry| entry.key == key).unwrap()
    }

    #[test]
    fn the_three_formats_give_the_same_values() {
        let [yaml, json, toml] = [
            (YAML, Format::Yaml),
            (JSON, Format::Json),
            (TOML, Format::Toml),
        ]
        .map(|(text, format)| parse(text, format).unwrap().to_json());
        assert_eq!(yaml, json);
        assert_eq!(json, toml);
    }

    #[test]
    fn every_format_knows_where_values_and_keys_stand() {
        for (text, format) in [
            (YAML, Format::Yaml),
            (JSON, Format::Json),
            (TOML, Format::Toml),
        ] {
            let root = parse(text, format).unwrap();
            let ratio = entry(&root, "ratio");
            assert_eq!(text_at(text, &ratio.node), "0.5", "{format:?}");
            let key = &text[ratio.key_span.clone().unwrap()];
            assert!(key.contains("ratio") && key.len() <= 7, "{format:?}: {key}");
            let NodeKind::List(phases) = &entry(&root, "phases").node.kind else {
                panic!("phases should be a list in {format:?}")
            };
            let order = entry(&phases[0], "order");
            assert_eq!(text_at(text, &order.node), "1", "{format:?}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_by_every_format() {
        for (text, format) in [
            ("a: 1\na: 2\n", Format::Yaml),
            ("{\"a\": 1, \"\\u0061\": 2}", Format::Json),
            ("a = 1\na = 2\n", Format::Toml),
        ] {
            let broken = parse(text, format).unwrap_err();
            let is_duplicate = matches!(broken.cause, Cause::DuplicateKey(_));
            assert!(is_duplicate, "{format:?}: {broken:?}");
            assert!(broken.offset.is_some(), "{format:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_by_every_format() {
        let deep = "[".repeat(10_000);
        let closed = format!("{}{}", "[".repeat(60), "]".repeat(60));
        for (text, format) in [
            (format!("a: {deep}"), Format::Yaml),
            (format!("a: {closed}"), Format::Yaml),
            (format!("{{\"a\": {deep}"), Format::Json),
            (format!("{{\"a\": {closed}}}"), Format::Json),
            (format!("a = {deep}"), Format::Toml),
            (format!("a = {closed}"), Format::Toml),
        ] {
            parse(&text, format).unwrap_err();
        }
    }

    #[test]
    fn a_yaml_alias_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        parse(&bomb, Format::Yaml).unwrap_err();
    }
}
