//! A run's report, as people and programs read it.

use std::fmt::Write as _;

use orchestrator_engine::RunOverview;
use serde_json::Value;

use crate::{
    failure::Result,
    output::{Color, Output, harmless},
    progress::duration,
    saved_outputs::SavedOutput,
    table::Table,
};

/// The report as a document; outputs that were written have a `path`.
pub(crate) fn json(report: &RunOverview, saved: &[SavedOutput]) -> Result<Value> {
    let mut document = serde_json::to_value(report).map_err(std::io::Error::from)?;
    let outputs = document.get_mut("outputs").and_then(Value::as_array_mut);
    for output in outputs.into_iter().flatten() {
        let path = saved
            .iter()
            .find(|saved| output["name"] == *saved.name)
            .map(|saved| saved.path.display().to_string());
        if let (Some(object), Some(path)) = (output.as_object_mut(), path) {
            object.insert("path".to_owned(), path.into());
        }
    }
    Ok(document)
}

/// The report as a table of steps, their errors, and the outputs.
pub(crate) fn text(out: Output, report: &RunOverview, saved: &[SavedOutput]) -> String {
    let mut table = Table::new(["STEP", "PLUGIN", "ATTEMPTS", "DURATION", "OUTCOME"]);
    for step in &report.steps {
        let version = match step.version.is_empty() {
            true => String::new(),
            false => format!("@{}", step.version),
        };
        table.row([
            step.step.to_string(),
            format!("{}{version}", step.plugin),
            step.attempts.to_string(),
            duration(step.duration_ms),
            step.outcome
                .map_or("-", |outcome| outcome.as_str())
                .to_owned(),
        ]);
    }
    let paint = |column: usize, cell: &str| {
        let color = (column == 4).then(|| color_of(cell)).flatten();
        color.map(|color| out.paint(color, cell))
    };
    let mut text = table.render(paint);
    text.push('\n');
    for step in &report.steps {
        let why = match (&step.error, &step.reason) {
            (Some(error), _) => error.to_string(),
            (None, Some(reason)) => reason.clone(),
            (None, None) => continue,
        };
        // Writing to a string cannot fail. A plugin's message may have lines.
        let _ = writeln!(
            text,
            "{}: {} {}: {}",
            step.step,
            step.plugin,
            step.phase,
            indented(&why)
        );
    }
    if let Some(error) = &report.error
        && report.failed_step().is_none()
    {
        let _ = writeln!(text, "error: {}", indented(&error.to_string()));
    }
    text += &outputs(report, saved);
    let outcome = report.outcome.map_or("running", |outcome| outcome.as_str());
    let shown = match color_of(outcome) {
        Some(color) => out.paint(color, outcome),
        None => outcome.to_owned(),
    };
    let _ = writeln!(
        text,
        "run {} of {}: {shown} in {}",
        report.id,
        harmless(&report.pipeline),
        duration(report.duration_ms)
    );
    text
}

fn outputs(report: &RunOverview, saved: &[SavedOutput]) -> String {
    if report.outputs.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["OUTPUT", "TYPE", "SIZE", "FILE"]);
    for output in &report.outputs {
        let written = saved.iter().find(|saved| saved.name == output.name);
        table.row([
            output.name.clone(),
            output.payload.content_type.to_string(),
            size(output.payload.length),
            written.map_or_else(|| "-".to_owned(), |saved| saved.path.display().to_string()),
        ]);
    }
    let hint = match saved.is_empty() {
        true => format!(
            "`orchestrator run show {} --output NAME` prints one\n",
            report.id
        ),
        false => String::new(),
    };
    format!("{table}{hint}\n")
}

/// Later lines stand below the first, so that they cannot pose as ours.
fn indented(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(harmless).collect();
    lines.join("\n    ")
}

/// The colour of an outcome or state.
pub(crate) fn color_of(word: &str) -> Option<Color> {
    match word {
        "success" | "running" | "closed" => Some(Color::Green),
        "degraded" | "cancelled" | "unknown" | "disabled" => Some(Color::Yellow),
        "failed" | "error" | "crash_loop" => Some(Color::Red),
        "skipped" | "-" => Some(Color::Dim),
        _ => None,
    }
}

/// A moment in UTC, to the second.
pub(crate) fn time(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(timestamp) => format!("{timestamp:.0}"),
        Err(_) => unix_ms.to_string(),
    }
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_sizes_read_well() {
        assert_eq!(time(1_763_461_803_250), "2025-11-18T10:30:03Z");
        assert_eq!([0, 1_536, 3 << 20].map(size), ["0 B", "1.5 KiB", "3.0 MiB"]);
    }

    #[test]
    fn a_plugins_message_cannot_pose_as_a_line_of_ours() {
        let shown = indented("no\nrun 01 of x: success\u{1b}[2K");
        assert_eq!(shown, "no\n    run 01 of x: success\\u{1b}[2K");
    }
}
