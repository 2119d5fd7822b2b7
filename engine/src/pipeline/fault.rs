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
    ///
    /// Check that the path is a plain file of UTF-8 text that this user may
    /// read.
    Unreadable,
    /// The file is larger than the limit.
    ///
    /// A pipeline has at most 1 MiB: split it, or hand data over as input.
    TooLarge,
    /// The text is neither YAML nor JSON.
    ///
    /// Mend the text at the place that is shown. A value that begins with `${{`
    /// within braces or brackets has to be quoted.
    Syntax,
    /// One key stands twice in one place.
    ///
    /// Keep one of the two; none is guessed to be the one that was meant.
    DuplicateKey,
    /// Lists and tables are nested too deeply.
    ///
    /// Flatten the document.
    TooDeep,
    /// No such key.
    ///
    /// Correct the key: it is misspelt or stands in another table than it
    /// belongs to. The nearest key that is known here is named.
    UnknownKey,
    /// A required key is absent.
    ///
    /// Add the key to the table that is named.
    Required,
    /// The value has the wrong type.
    ///
    /// Write the type that is named; in YAML, quote a text that looks like a
    /// number or a truth value.
    WrongType,
    /// Not a name as this place takes it.
    ///
    /// Correct the name; the help line says which characters it takes here.
    BadName,
    /// Written for another format of pipelines.
    ///
    /// Write `version: 1`.
    BadVersion,
    /// Not a plugin, or not a range of versions.
    ///
    /// Write the name of the plugin, or the name, `@` and a range such as
    /// `^1.2`.
    BadPlugin,
    /// Not a duration with a unit.
    ///
    /// Write a number with its unit, such as `30s`, `5m` or `1h30m`.
    BadDuration,
    /// A number, text or list outside its bounds.
    ///
    /// Stay within the bounds that are named.
    OutOfBounds,
    /// Not one of the words allowed here.
    ///
    /// Use one of the words that the help line lists.
    UnknownWord,
    /// Two keys say different things.
    ///
    /// Keep one of the two keys.
    Contradiction,
    /// Two steps have the same id.
    ///
    /// Give every step its own id.
    DuplicateStep,
    /// No step has this id.
    ///
    /// Correct the id; the nearest one there is is named.
    UnknownStep,
    /// Steps wait for each other.
    ///
    /// Remove one of the references in the circle that is shown, so that some
    /// step can be the first.
    Cycle,
    /// An expression cannot be parsed.
    ///
    /// Mend the expression; its end is `}}`, and texts in it stand in quotes.
    ExpressionSyntax,
    /// An expression uses a variable, filter, test or function that is not
    /// there.
    ///
    /// Correct the name; the variables are `input`, `steps`, `run` and
    /// `session`.
    UnknownVariable,
    /// The pipeline declares no such input.
    ///
    /// Declare the field under `input`, or correct its name.
    UnknownInput,
    /// An expression, or the number of its parts, is too long.
    ///
    /// Shorten the expression, or let a step do the work.
    ExpressionTooLong,
    /// Which step an expression means cannot be known before it runs.
    ///
    /// Write the id of the step into the expression: `steps.parse.output`.
    DynamicReference,
    /// More than one output is the primary one.
    ///
    /// Leave `primary: true` at one output.
    TwoPrimaries,
    /// A default does not fit its type.
    ///
    /// Correct the default or the type.
    BadDefault,
    /// No such plugin is installed.
    ///
    /// Install the plugin, or correct its name; `orchestrator plugin list`
    /// shows every plugin.
    UnknownPlugin,
    /// The plugin has no such phase.
    ///
    /// Use one of the phases that the help line names, or install a version of
    /// the plugin that has the phase.
    UnknownPhase,
    /// No installed version of the plugin is in the range.
    ///
    /// Install a version in the range, or ask for another range.
    NoVersion,
    /// The plugin is there and cannot be used.
    ///
    /// Look the code of the plugin up that the message ends with; `orchestrator
    /// plugin info` tells more.
    UnusablePlugin,
    /// The input of a run does not fit the pipeline.
    ///
    /// Correct the field that is named; a pipeline declares what it takes under
    /// `input`.
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

/// Everything wrong with one pipeline, or with the input of a run. Each fault
/// has a code of its own.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{}", headline(file, faults, *unlisted))]
#[diagnostic(
    code("ORC-1100"),
    help("mend every fault listed, then run `orchestrator pipeline validate`")
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
