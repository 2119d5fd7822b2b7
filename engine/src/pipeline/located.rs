//! A pipeline's text with the place of every value.
//!
//! The text becomes a tree of [`Node`]s first; whoever walks it reports a
//! mistake by its JSON pointer, and [`Located`] finds the place in the text.

mod read;

use std::{ops::Range, sync::Arc};

use orchestrator_manifest::{
    located::{Node, NodeKind},
    pointer,
};
use serde_json::Value;

use super::{
    fault::{Fault, PipelineErrors, Rule},
    words::printable,
};

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
            root: Node::from(&Value::Null),
        };
        match read::read(text) {
            Ok(root) => {
                located.root = root;
                Ok(located)
            }
            Err(refusal) => {
                let end = text.len();
                let at = refusal.offset.map(|start| start..(start + 1).min(end));
                let mut fault = located.fault_at(at, refusal.rule, refusal.message);
                fault.help = refusal.help.to_owned();
                Err(located.errors(vec![fault]))
            }
        }
    }

    /// Takes a value that was never a text.
    pub(super) fn from_json(value: &Value, name: &str) -> Self {
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

    fn find(&self, at: &str, part: Part) -> Option<Range<usize>> {
        let mut node = &self.root;
        let mut key_span = None;
        for key in pointer::keys(at) {
            match child(node, &key) {
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

/// What stands beneath `key`: the place of the key, where it has one, and the
/// value.
fn child<'a>(node: &'a Node, key: &str) -> Option<(Option<&'a Range<usize>>, &'a Node)> {
    match &node.kind {
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
