//! The line that people read.

use std::fmt::Write as _;

use serde_json::Value;

use super::Line;

/// `2025-11-18T10:30:03Z INFO  [agent] message key=value`, and the trace's id at
/// the end where there is one.
pub(super) fn line(line: &Line<'_>) -> String {
    let Line {
        at, level, fields, ..
    } = line;
    let source = fields.plugin.as_deref().unwrap_or("agent");
    let mut text = format!("{at:.0} {level:<5} [{source}] {}", fields.message);
    for (name, value) in &fields.others {
        if *name == "event" {
            // The message says the same in words.
            continue;
        }
        // Writing to a string cannot fail.
        let _ = match value {
            Value::String(word) if is_plain(word) => write!(text, " {name}={word}"),
            value => write!(text, " {name}={value}"),
        };
    }
    if let Some(trace) = line.trace {
        let _ = write!(text, " trace_id={}", trace.trace_id);
    }
    text
}

/// Whether a value reads well without quotes.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && !word.contains([' ', '"', '='])
}
