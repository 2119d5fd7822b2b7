//! Walks over a document and takes it apart, collecting every fault.
//!
//! A decoding function returns `None` when it reported a fault, or when there
//! was nothing to decode; the caller goes on either way. What was collected
//! is complete only if no fault was.

mod about;
mod config;
mod document;
mod kind;
mod permission;
mod phase;
mod relations;
mod scalar;
mod table;

pub(crate) use self::{
    document::manifest,
    table::{
        Aliases, MANIFEST_ALIASES, MANIFEST_EXTRAS, PHASE_EXTRAS, RESOURCES_ALIASES, camel_case,
    },
};

use std::ops::Range;

use crate::{
    fault::{Fault, Rule},
    located::Node,
    package_path::PackagePath,
};

/// The text being decoded and what was found wrong with it.
pub(crate) struct Context<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    pub(crate) faults: Vec<Fault>,
    /// The files of the package that the document names, where it does.
    pub(crate) files: Vec<(String, Option<Range<usize>>, PackagePath)>,
}

/// A value on the way through the document.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) node: &'a Node,
    pub(crate) pointer: String,
}

/// Past this many faults a document is not worth more words.
const FAULTS_MAX: usize = 100;

impl<'a> Context<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            faults: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Reports that the value of `item` breaks `rule`.
    pub(crate) fn fault(
        &mut self,
        item: &Item<'_>,
        rule: Rule,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.fault_at(&item.pointer, item.node.span.clone(), rule, message, help);
    }

    pub(crate) fn fault_at(
        &mut self,
        pointer: &str,
        span: Option<Range<usize>>,
        rule: Rule,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        let place = span.as_ref().map(|span| self.line_and_column(span.start));
        self.faults.push(Fault {
            code: rule.code(),
            rule,
            file: self.file.to_owned(),
            pointer: pointer.to_owned(),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message: message.into(),
            help: help.into(),
            span: span.map(|span| (span.start, span.len()).into()),
        });
    }

    fn line_and_column(&self, offset: usize) -> (u32, u32) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |tail| tail.chars().count())
            + 1;
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (small(line), small(column))
    }
}

impl<'a> Item<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self {
            node,
            pointer: String::new(),
        }
    }

    /// The value of `key` in this one.
    pub(crate) fn child(&self, key: &str, node: &'a Node) -> Self {
        Self {
            node,
            pointer: crate::pointer::child(&self.pointer, key),
        }
    }
}
