//! What is wrong with a manifest, and where.
//!
//! A manifest is read to its end whatever is wrong with it, so its author
//! mends every fault in one go. Each fault names the file, the line, the
//! place in the document and the rule that was broken.

use std::fmt;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};

use crate::text::{harmless, harmless_line, is_plain};

/// A rule of the manifest. Its number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The directory holds no manifest.
    ///
    /// Write `plugin.yaml`, `plugin.yml`, `plugin.json` or `plugin.toml` in the
    /// topmost folder of the package, or name that folder.
    NoManifest,
    /// The directory holds more than one manifest.
    ///
    /// Keep one of them.
    TwoManifests,
    /// The manifest is larger than the limit.
    ///
    /// A manifest has at most 1 MiB: move data into files of the package.
    TooLarge,
    /// The operating system refused to read the file.
    ///
    /// Check that the path is a plain file that this user may read.
    Unreadable,
    /// The text is not YAML, JSON or TOML at all.
    ///
    /// Mend the text at the place that is shown, and save it as UTF-8. Tabs for
    /// indentation and unclosed quotes or brackets are the usual causes.
    Syntax,
    /// One key stands twice in one place.
    ///
    /// Keep one of the two; none is guessed to be the one that was meant.
    DuplicateKey,
    /// Lists and tables are nested too deeply.
    ///
    /// Flatten the document: at most 48 levels.
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
    /// Not a plugin name.
    ///
    /// Correct the name. A plugin has parts of a-z and 0-9 joined by single `.`
    /// or `-`; the help line shows what other names look like.
    BadName,
    /// Not a semantic version.
    ///
    /// Write three numbers, such as `1.0.0` or `1.0.0-rc.1`.
    BadVersion,
    /// Not a range of semantic versions.
    ///
    /// Write a range such as `^1.0.0`, `>=1.2, <3` or `*`.
    BadRange,
    /// Not a duration with a unit.
    ///
    /// Write a number with its unit, such as `10m`, `1h30m` or `250ms`.
    BadDuration,
    /// Not one of the words allowed here.
    ///
    /// Use one of the words that the help line lists.
    UnknownWord,
    /// A number, text or list outside its bounds.
    ///
    /// Stay within the bounds that are named: shorten a text, remove entries or
    /// lower a number.
    OutOfBounds,
    /// A path that leaves the package or cannot be written on every platform.
    ///
    /// Write a path that is relative to the package, with `/` between its parts
    /// and without `..`. An `interpreter` is the exception: its path is
    /// absolute.
    BadPath,
    /// A file that the manifest names is not there.
    ///
    /// Put the file into the package, or correct its path; case counts.
    MissingFile,
    /// Not a capability.
    ///
    /// Write `resource:action` or `resource:action=scope`, such as
    /// `file:read=/data/in`.
    BadCapability,
    /// Two keys say different things.
    ///
    /// Keep one of the two keys: they are spellings or consequences of one
    /// thing.
    Contradiction,
    /// A key, or its absence, does not suit the kind or role.
    ///
    /// Remove the key that the kind or role does not have, or add the one that
    /// it needs.
    Misplaced,
    /// `config_schema` is not a usable JSON Schema.
    ///
    /// Correct the schema; the message is that of the JSON Schema compiler.
    BadSchema,
    /// `config_example` does not fit `config_schema`.
    ///
    /// Mend the example or the schema, whichever is wrong.
    BadExample,
    /// Written for a newer manifest format.
    ///
    /// Use a newer Orchestrator, or write the manifest in the format that this
    /// one knows.
    BadManifestVersion,
    /// A plugin's configuration does not fit its `config_schema`.
    ///
    /// Correct the section of the plugin in the configuration; the rule of the
    /// schema that was broken is named.
    BadConfig,
}

impl Rule {
    /// The code shown to people and listed in the documentation.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoManifest => "ORC-1001",
            Self::TwoManifests => "ORC-1002",
            Self::TooLarge => "ORC-1003",
            Self::Unreadable => "ORC-1004",
            Self::Syntax => "ORC-1005",
            Self::DuplicateKey => "ORC-1006",
            Self::TooDeep => "ORC-1007",
            Self::UnknownKey => "ORC-1010",
            Self::Required => "ORC-1011",
            Self::WrongType => "ORC-1012",
            Self::BadName => "ORC-1013",
            Self::BadVersion => "ORC-1014",
            Self::BadRange => "ORC-1015",
            Self::BadDuration => "ORC-1016",
            Self::UnknownWord => "ORC-1017",
            Self::OutOfBounds => "ORC-1018",
            Self::BadPath => "ORC-1019",
            Self::MissingFile => "ORC-1020",
            Self::BadCapability => "ORC-1021",
            Self::Contradiction => "ORC-1022",
            Self::Misplaced => "ORC-1023",
            Self::BadSchema => "ORC-1024",
            Self::BadExample => "ORC-1025",
            Self::BadManifestVersion => "ORC-1026",
            Self::BadConfig => "ORC-1030",
        }
    }
}

/// One thing wrong with a manifest or with a plugin's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule that was broken, as `ORC-nnnn`.
    pub code: &'static str,
    /// The rule that was broken.
    pub rule: Rule,
    /// The file as it was named by the caller; empty when there is no file.
    pub file: String,
    /// The place in the document, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// The line, from 1; absent when the document did not come from a file.
    pub line: Option<u32>,
    /// The column in characters, from 1.
    pub column: Option<u32>,
    /// What is wrong, in one sentence fragment.
    pub message: String,
    /// What to do about it.
    pub help: String,
    pub(crate) span: Option<SourceSpan>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&harmless_line(&self.file))?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", harmless_line(&self.pointer))?;
        }
        f.write_str(&harmless(&self.message))
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
        let span = self.span?;
        let label = LabeledSpan::new_with_span(Some("here".to_owned()), span);
        Some(Box::new(std::iter::once(label)))
    }
}

/// Everything wrong with one manifest. The first fault is shown with how many
/// more there are, or all of them where the output has room. Each fault has a
/// code of its own.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{}", headline(file, faults))]
#[diagnostic(
    code("ORC-1000"),
    help("mend every fault listed, then run `orchestrator plugin validate`")
)]
pub struct ManifestError {
    /// The file or directory that was read, as the caller named it.
    pub file: String,
    #[source_code]
    source_text: NamedSource<String>,
    /// Every fault found, in the order of the document; never empty.
    #[related]
    pub faults: Vec<Fault>,
}

impl ManifestError {
    pub(crate) fn new(file: &str, text: &str, faults: Vec<Fault>) -> Self {
        Self {
            file: file.to_owned(),
            source_text: NamedSource::new(harmless_line(file), same_length(text)),
            faults,
        }
    }

    /// One fault that has no place in a document.
    pub(crate) fn whole_file(file: &str, rule: Rule, message: String, help: &str) -> Self {
        let fault = Fault {
            code: rule.code(),
            rule,
            file: file.to_owned(),
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

/// The text as it may be shown. Places in it are counted in bytes, so every
/// character that a terminal would act on becomes as many `?`.
fn same_length(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ends_line = c == '\r' && chars.peek() == Some(&'\n');
        match is_plain(c) || ends_line {
            true => shown.push(c),
            false => shown.extend(std::iter::repeat_n('?', c.len_utf8())),
        }
    }
    shown
}

fn headline(file: &str, faults: &[Fault]) -> String {
    match faults {
        [] => format!("{} is refused", harmless_line(file)),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
