//! An error as people and programs read it.

use std::{error::Error, fmt};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, SourceCode};
use serde_json::Value;

use crate::output::harmless;

/// Drawn with the place in the source, one picture for each fault.
pub(super) fn drawn(error: &dyn Diagnostic, color: bool) -> String {
    let theme = match color {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
    let source = error.source_code();
    let faults: Vec<_> = error.related().into_iter().flatten().collect();
    if faults.is_empty() {
        return picture(&handler, error, source);
    }
    let mut text = String::new();
    for fault in &faults {
        text += &picture(&handler, *fault, source);
        text.push('\n');
    }
    if faults.len() > 1 {
        let headline = error.to_string();
        text += &format!(
            "{}\n",
            headline
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end_matches(':')
        );
    }
    text + &helped("", error)
}

fn picture(
    handler: &GraphicalReportHandler,
    inner: &dyn Diagnostic,
    source: Option<&dyn SourceCode>,
) -> String {
    let mut text = String::new();
    let sourced = Sourced { inner, source };
    match handler.render_report(&mut text, &sourced) {
        Ok(()) => text,
        Err(fmt::Error) => plain(inner),
    }
}

/// A fault together with the text that it points into, which belongs to the
/// error that lists it.
struct Sourced<'e> {
    inner: &'e dyn Diagnostic,
    source: Option<&'e dyn SourceCode>,
}

impl fmt::Debug for Sourced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.inner, f)
    }
}

impl fmt::Display for Sourced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cleaned(&self.inner.to_string()))
    }
}

impl Error for Sourced<'_> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.inner.source()
    }
}

impl Diagnostic for Sourced<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.inner.code()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.inner.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        self.inner.labels()
    }
}

/// One line that says what, then lines that say why, where and what to do.
pub(super) fn plain(error: &dyn Diagnostic) -> String {
    let faults: Vec<_> = error.related().into_iter().flatten().collect();
    if let [only] = faults.as_slice()
        && only.to_string() == error.to_string()
    {
        // The headline is the fault's own; the fault has the better code.
        return format!("{}{}", plain(*only), helped("  ", error));
    }
    // Messages may quote files and plugins, and have several lines of their own.
    let mut lines = error.to_string();
    if !faults.is_empty() {
        // A headline that lists the faults would say everything twice.
        lines.truncate(lines.find('\n').unwrap_or(lines.len()));
    }
    let mut text = format!("error{}: {}\n", coded(error), cleaned(&lines));
    for cause in causes(error) {
        text += &format!("  because: {}\n", cleaned(&cause));
    }
    for fault in faults {
        text += &format!("  {}{}\n", coded(fault), cleaned(&format!(" {fault}")));
        text += &helped("    ", fault);
    }
    text + &helped("  ", error)
}

fn coded(error: &dyn Diagnostic) -> String {
    error
        .code()
        .map_or_else(String::new, |code| format!("[{code}]"))
}

fn helped(indent: &str, error: &dyn Diagnostic) -> String {
    error.help().map_or_else(String::new, |help| {
        format!("{indent}help: {}\n", cleaned(&help.to_string()))
    })
}

fn cleaned(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(harmless).collect();
    lines.join("\n")
}

fn causes(error: &dyn Diagnostic) -> Vec<String> {
    let mut causes = Vec::new();
    let mut source: Option<&dyn Error> = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

/// The line and column, from 1, of an error's first label.
fn place(error: &dyn Diagnostic, outer: Option<&dyn SourceCode>) -> Option<(usize, usize)> {
    let label = error.labels()?.next()?;
    let source = error.source_code().or(outer)?;
    let contents = source.read_span(label.inner(), 0, 0).ok()?;
    Some((contents.line() + 1, contents.column() + 1))
}

/// An error as programs read it.
pub(crate) fn as_json(error: &dyn Diagnostic, outer: Option<&dyn SourceCode>) -> Value {
    let source = error.source_code().or(outer);
    let mut object = serde_json::Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    if let Some(code) = error.code() {
        set("code", code.to_string().into());
    }
    set("message", error.to_string().into());
    if let Some(help) = error.help() {
        set("help", help.to_string().into());
    }
    let causes = causes(error);
    if !causes.is_empty() {
        set("causes", causes.into());
    }
    if let Some((line, column)) = place(error, outer) {
        set("line", line.into());
        set("column", column.into());
    }
    if let Some(related) = error.related() {
        let related: Vec<Value> = related.map(|fault| as_json(fault, source)).collect();
        set("faults", related.into());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};

    use super::*;

    #[test]
    fn programs_get_the_code_the_help_and_the_place() {
        let report = Report::new(
            MietteDiagnostic::new("the pipeline is\u{1b}[31m wrong")
                .with_code("ORC-1101")
                .with_help("mend it")
                .with_label(LabeledSpan::at(7..8, "here")),
        )
        .with_source_code(NamedSource::new("p.yaml", "a: 1\nb: x\n"));
        let value = as_json(report.as_ref(), None);
        assert_eq!(value["code"], "ORC-1101");
        assert_eq!(value["help"], "mend it");
        assert_eq!(value["line"], 2);
        let text = plain(report.as_ref());
        assert!(
            text.starts_with("error[ORC-1101]: the pipeline is\\u{1b}"),
            "{text}"
        );
        assert!(text.ends_with("  help: mend it\n"), "{text}");
    }
}
