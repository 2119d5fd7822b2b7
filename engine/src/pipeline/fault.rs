//! What is wrong with a pipeline, and where.
//!
//! A pipeline is read to its end whatever is wrong with it, so its author
//! mends every fault in one go.

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};
use serde::Serialize;

use super::words::{printable, printable_in_place};

/// More faults than this are counted, not listed.
pub(super) const FAULTS_MAX: usize = 100;

/// A rule of pipelines. Its number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The operating system refused to read the file.
    Unreadable,
    /// The file is larger than the limit.
    TooLarge,
    /// The text is neither YAML nor JSON.
    Syntax,
    /// One key stands twice in one place.
    DuplicateKey,
    /// Lists and tables are nested too deeply.
    TooDeep,
    /// No such key.
    UnknownKey,
    /// A required key is absent.
    Required,
    /// The value has the wrong type.
    WrongType,
    /// Not a name as this place takes it.
    BadName,
    /// Written for another format of pipelines.
    BadVersion,
    /// Not a plugin, or not a range of versions.
    BadPlugin,
    /// Not a duration with a unit.
    BadDuration,
    /// A number, text or list outside its bounds.
    OutOfBounds,
    /// Not one of the words allowed here.
    UnknownWord,
    /// Two keys say different things.
    Contradiction,
    /// Two steps have the same id.
    DuplicateStep,
    /// No step has this id.
    UnknownStep,
    /// Steps wait for each other.
    Cycle,
    /// An expression cannot be parsed.
    ExpressionSyntax,
    /// An expression uses a variable, filter, test or function that is not there.
    UnknownVariable,
    /// The pipeline declares no such input.
    UnknownInput,
    /// An expression, or the number of its parts, is too long.
    ExpressionTooLong,
    /// Which step an expression means cannot be known before it runs.
    DynamicReference,
    /// More than one output is the primary one.
    TwoPrimaries,
    /// A default does not fit its type.
    BadDefault,
    /// No such plugin is installed.
    UnknownPlugin,
    /// The plugin has no such phase.
    UnknownPhase,
    /// No installed version of the plugin is in the range.
    NoVersion,
    /// The plugin is there and cannot be used.
    UnusablePlugin,
    /// The input of a run does not fit the pipeline.
    BadInput,
}

impl Rule {
    /// The code shown to people and listed in the documentation.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "ORC-1101",
            Self::TooLarge => "ORC-1102",
            Self::Syntax => "ORC-1103",
            Self::DuplicateKey => "ORC-1104",
            Self::TooDeep => "ORC-1105",
            Self::UnknownKey => "ORC-1110",
            Self::Required => "ORC-1111",
            Self::WrongType => "ORC-1112",
            Self::BadName => "ORC-1113",
            Self::BadVersion => "ORC-1114",
            Self::BadPlugin => "ORC-1115",
            Self::BadDuration => "ORC-1116",
            Self::OutOfBounds => "ORC-1117",
            Self::UnknownWord => "ORC-1118",
            Self::Contradiction => "ORC-1119",
            Self::DuplicateStep => "ORC-1120",
            Self::UnknownStep => "ORC-1121",
            Self::Cycle => "ORC-1122",
            Self::ExpressionSyntax => "ORC-1130",
            Self::UnknownVariable => "ORC-1131",
            Self::UnknownInput => "ORC-1132",
            Self::ExpressionTooLong => "ORC-1133",
            Self::DynamicReference => "ORC-1134",
            Self::TwoPrimaries => "ORC-1140",
            Self::BadDefault => "ORC-1141",
            Self::UnknownPlugin => "ORC-1150",
            Self::UnknownPhase => "ORC-1151",
            Self::NoVersion => "ORC-1152",
            Self::UnusablePlugin => "ORC-1153",
            Self::BadInput => "ORC-1160",
        }
    }
}

/// One thing wrong with a pipeline, or with the input of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The rule that was broken, as `ORC-nnnn`.
    pub code: &'static str,
    /// The rule that was broken.
    #[serde(skip)]
    pub rule: Rule,
    /// The file as the caller named it; empty when there is no file.
    pub file: Arc<str>,
    /// The place in the document, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// The line, from 1; absent when the document did not come from a text.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong, in one sentence fragment.
    pub message: String,
    /// What to do about it.
    pub help: String,
    #[serde(skip)]
    pub(super) span: Option<SourceSpan>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&printable(&self.file))?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", printable(&self.pointer))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Diagnostic for Fault {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some("here".to_owned()), self.span?);
        Some(Box::new(std::iter::once(label)))
    }
}

/// Everything wrong with one pipeline, or with the input of a run.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{}", headline(file, faults, *unlisted))]
#[diagnostic(
    code("ORC-1100"),
    help("mend every fault listed, then run `orchestrator pipeline check`")
)]
pub struct PipelineErrors {
    /// The file as the caller named it.
    pub file: Arc<str>,
    #[source_code]
    source_text: NamedSource<String>,
    /// Every fault found, in the order of the document; never empty, and at
    /// most 100.
    #[related]
    pub faults: Vec<Fault>,
    /// How many more faults there are.
    pub unlisted: usize,
}

impl PipelineErrors {
    pub(super) fn new(file: Arc<str>, text: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.span.map(|span| span.offset()));
        let unlisted = faults.len().saturating_sub(FAULTS_MAX);
        faults.truncate(FAULTS_MAX);
        Self {
            source_text: NamedSource::new(&file, printable_in_place(text)),
            file,
            faults,
            unlisted,
        }
    }

    /// One fault that has no place in a document.
    pub(super) fn whole_file(file: &str, rule: Rule, message: String, help: &str) -> Self {
        let file: Arc<str> = file.into();
        let fault = Fault {
            code: rule.code(),
            rule,
            file: Arc::clone(&file),
            pointer: String::new(),
            line: None,
            column: None,
            message,
            help: help.to_owned(),
            span: None,
        };
        Self::new(file, "", vec![fault])
    }
}

fn headline(file: &str, faults: &[Fault], unlisted: usize) -> String {
    match faults {
        [only] => only.to_string(),
        many => {
            let mut text = format!("{} faults in {}:", many.len() + unlisted, printable(file));
            for fault in many {
                text.push_str(&format!("\n  {fault}"));
            }
            if unlisted > 0 {
                text.push_str(&format!("\n  and {unlisted} more"));
            }
            text
        }
    }
}
