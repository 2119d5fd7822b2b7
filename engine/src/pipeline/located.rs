//! A document with the place of every value.
//!
//! Serde stops at the first mistake and forgets where values stood. Here the
//! text becomes a tree of [`Node`]s first; whoever walks it reports a mistake
//! by its JSON pointer, and [`Located`] finds the place in the text.
//!
//! YAML 1.2 contains JSON, so one parser reads both.

mod yaml;

use std::{ops::Range, sync::Arc};

use serde_json::{Map, Number, Value};

use super::{
    fault::{Fault, PipelineErrors, Rule},
    words::printable,
};

/// Nesting beyond this is refused, so that no walk over the tree can exhaust
/// the stack.
pub(super) const DEPTH_MAX: usize = 48;

/// A value and the bytes it was written in.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) span: Option<Range<usize>>,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Option<Range<usize>>,
    pub(super) node: Node,
}

impl Node {
    /// What an author would call this value.
    pub(super) fn type_name(&self) -> &'static str {
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
    pub(super) fn to_json(&self) -> Value {
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

    fn child(&self, key: &str) -> Option<(Option<&Range<usize>>, &Self)> {
        match &self.kind {
            NodeKind::List(items) => {
                let index: usize = key.parse().ok()?;
                items.get(index).map(|node| (None, node))
            }
            NodeKind::Table(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| (entry.key_span.as_ref(), &entry.node)),
            _ => None,
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let kind = match value {
            Value::Null => NodeKind::Null,
            Value::Bool(value) => NodeKind::Bool(value),
            Value::Number(value) => NodeKind::Number(value),
            Value::String(value) => NodeKind::String(value),
            Value::Array(items) => NodeKind::List(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => NodeKind::Table(
                map.into_iter()
                    .map(|(key, value)| Entry {
                        key,
                        key_span: None,
                        node: Self::from(value),
                    })
                    .collect(),
            ),
        };
        Self { kind, span: None }
    }
}

/// Which part of an entry a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
    /// The expression with this number among those of the text, from 0, and
    /// within it these bytes.
    Expression(usize, usize, usize),
}

/// A tree, the text it was read from and the faults found so far.
#[derive(Clone, Debug)]
pub(super) struct Located {
    file: Arc<str>,
    text: Arc<str>,
    root: Node,
}

impl Located {
    /// Reads YAML or JSON.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self, PipelineErrors> {
        let mut located = Self {
            file: file.into(),
            text: text.into(),
            root: Node::from(Value::Null),
        };
        match yaml::parse(text) {
            Ok(root) => {
                located.root = root;
                Ok(located)
            }
            Err(broken) => {
                let end = text.len();
                let at = broken.offset.map(|start| start..(start + 1).min(end));
                let mut fault = located.fault_at(at, broken.rule, broken.message);
                fault.help = broken.help.to_owned();
                Err(located.errors(vec![fault]))
            }
        }
    }

    /// Takes a value that was never a text.
    pub(super) fn from_json(value: Value, name: &str) -> Self {
        Self {
            file: name.into(),
            text: "".into(),
            root: Node::from(value),
        }
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    pub(super) fn errors(&self, faults: Vec<Fault>) -> PipelineErrors {
        PipelineErrors::new(Arc::clone(&self.file), &self.text, faults)
    }

    /// A fault at a JSON pointer. A pointer to something that is absent stands
    /// for the closest thing around it that is there.
    pub(super) fn fault(
        &self,
        pointer: &str,
        part: Part,
        rule: Rule,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Fault {
        let mut fault = self.fault_at(self.find(pointer, part), rule, message.into());
        pointer.clone_into(&mut fault.pointer);
        fault.help = printable(&help.into());
        fault
    }

    fn find(&self, pointer: &str, part: Part) -> Option<Range<usize>> {
        let mut node = &self.root;
        let mut key_span = None;
        for step in pointer.split('/').skip(1) {
            let key = step.replace("~1", "/").replace("~0", "~");
            match node.child(&key) {
                Some((span, child)) => {
                    key_span = span;
                    node = child;
                }
                None => return key_span.cloned().or_else(|| node.span.clone()),
            }
        }
        let value = node.span.clone();
        match part {
            Part::Key => key_span.cloned().or(value),
            Part::Value => value,
            Part::Expression(number, start, end) => {
                let value = value?;
                Some(self.expression(&value, number, start, end).unwrap_or(value))
            }
        }
    }

    /// Where the expression with this number begins can be told from the text
    /// unless its braces are written as escapes.
    fn expression(
        &self,
        value: &Range<usize>,
        number: usize,
        start: usize,
        end: usize,
    ) -> Option<Range<usize>> {
        let written = self.text.get(value.clone())?;
        let (opening, _) = written.match_indices("${{").nth(number)?;
        let base = value.start + opening + "${{".len();
        let limit = value.end;
        let range = (base + start).min(limit)..(base + end).min(limit);
        self.text.get(range.clone()).is_some().then_some(range)
    }

    fn fault_at(&self, span: Option<Range<usize>>, rule: Rule, message: String) -> Fault {
        let before = span.as_ref().and_then(|span| self.text.get(..span.start));
        let before = before.filter(|_| !self.text.is_empty());
        Fault {
            code: rule.code(),
            rule,
            file: Arc::clone(&self.file),
            pointer: String::new(),
            line: before.map(|text| text.matches('\n').count() + 1),
            column: before.map(|text| {
                let line = text.rsplit('\n').next().unwrap_or(text);
                line.chars().filter(|c| *c != '\u{feff}').count() + 1
            }),
            message: printable(&message),
            help: String::new(),
            span: before.and(span).map(|span| span.into()),
        }
    }
}
