//! Shows how a run goes while it goes: moving lines on a terminal, one plain
//! line for each thing that happens elsewhere. Always on standard error.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write},
    sync::OnceLock,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use orchestrator_contract::{Event, RunId, StepId, StepOutcome};

use crate::output::{Output, harmless};

/// What moves on the terminal, if anything does. Whoever writes to standard
/// error meanwhile has to push it aside.
static MOVING: OnceLock<MultiProgress> = OnceLock::new();

/// Writes to standard error without tearing the moving lines.
pub(crate) fn write_to_stderr(bytes: &[u8]) -> io::Result<()> {
    let write = || io::stderr().lock().write_all(bytes);
    match MOVING.get() {
        Some(moving) => moving.suspend(write),
        None => write(),
    }
}

/// Standard error as a writer, for log lines.
#[derive(Debug)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_to_stderr(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The progress of one run.
pub(crate) enum Progress {
    /// Says nothing.
    Silent,
    /// One line for each thing that happens.
    Lines,
    /// One moving line for each step that runs.
    Bars(HashMap<StepId, ProgressBar>),
}

impl Progress {
    pub(crate) fn new(out: Output) -> Self {
        if out.is_json() || out.is_quiet() {
            return Self::Silent;
        }
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match io::stderr().is_terminal() && !dumb {
            true => Self::Bars(HashMap::new()),
            false => Self::Lines,
        }
    }

    /// Shows one event, if it belongs to `run`.
    pub(crate) fn show(&mut self, run: RunId, event: &Event) {
        if event.run().is_some_and(|of| of != run) {
            return;
        }
        match self {
            Self::Silent => {}
            Self::Lines => {
                if let Some(line) = line(event) {
                    write_to_stderr(format!("{line}\n").as_bytes()).ok();
                }
            }
            Self::Bars(bars) => move_bars(bars, event),
        }
    }
}

impl Drop for Progress {
    /// Nothing may be left on the terminal that no longer moves.
    fn drop(&mut self) {
        if let Self::Bars(bars) = self {
            bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
        }
    }
}

/// What an event says in one line, if it is worth one.
pub(crate) fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::StepStarted {
            step,
            plugin,
            version,
            phase,
            ..
        } => format!("{step}: started ({plugin}@{version} {phase})"),
        Event::StepProgress {
            step,
            percent,
            message,
            ..
        } => match percent {
            Some(percent) => format!("{step}: {percent} % {message}"),
            None => format!("{step}: {message}"),
        },
        Event::StepFinished {
            step,
            outcome,
            attempts,
            duration_ms,
            ..
        } => {
            let tries = match attempts {
                0 | 1 => String::new(),
                many => format!(" after {many} attempts"),
            };
            let took = duration(*duration_ms);
            format!("{step}: {}{tries} in {took}", outcome.as_str())
        }
        Event::AttemptFailed {
            step,
            attempt,
            error,
            ..
        } => format!("{step}: attempt {attempt} failed: {error}"),
        Event::CallRetried {
            plugin,
            phase,
            attempt,
            delay_ms,
        } => format!(
            "{plugin} {phase}: attempt {} follows in {}",
            attempt + 1,
            duration(*delay_ms)
        ),
        Event::BreakerChanged {
            plugin, to, reason, ..
        } => format!("{plugin}: breaker is now {} ({reason})", to.as_str()),
        Event::PluginRestarted { plugin, reason, .. } => {
            format!("{plugin}: starts again, its process {reason}")
        }
        _ => return None,
    };
    Some(harmless(&line))
}

fn move_bars(bars: &mut HashMap<StepId, ProgressBar>, event: &Event) {
    let moving = MOVING.get_or_init(MultiProgress::new);
    match event {
        Event::StepStarted {
            step,
            plugin,
            phase,
            ..
        } => {
            let bar = moving.add(ProgressBar::new_spinner());
            // A template of ours that does not parse falls back to indicatif's own.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(harmless(step.as_str()));
            bar.set_message(harmless(&format!("{plugin} {phase}")));
            bar.enable_steady_tick(Duration::from_millis(120));
            bars.insert(step.clone(), bar);
        }
        Event::StepProgress {
            step,
            percent,
            message,
            ..
        } => {
            if let Some(bar) = bars.get(step) {
                let percent = percent.map_or_else(String::new, |percent| format!("{percent} % "));
                bar.set_message(harmless(&format!("{percent}{message}")));
            }
        }
        Event::StepFinished { step, outcome, .. } => {
            if let Some(bar) = bars.remove(step) {
                bar.finish_and_clear();
            }
            let mark = match outcome {
                StepOutcome::Success => '✓',
                StepOutcome::Skipped => '-',
                StepOutcome::Failed | StepOutcome::Cancelled | StepOutcome::Unknown => '✗',
            };
            say(moving, &format!("{mark} "), event);
        }
        _ => say(moving, "! ", event),
    }
}

fn say(moving: &MultiProgress, mark: &str, event: &Event) {
    if let Some(line) = line(event) {
        moving.println(format!("{mark}{line}")).ok();
    }
}

/// Milliseconds as people read them: `850ms`, `2.3s`, `4m 05s`, `2h 03m`.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m {:02}s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{}h {:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_at_every_size() {
        let shown = [0, 999, 1_050, 59_999, 61_000, 3_599_999, 7_380_000].map(duration);
        assert_eq!(
            shown,
            [
                "0ms", "999ms", "1.0s", "59.9s", "1m 01s", "59m 59s", "2h 03m"
            ]
        );
    }

    #[test]
    fn a_plugins_words_cannot_command_the_terminal() {
        let event = Event::StepProgress {
            run: RunId::from_parts(0, 1),
            step: StepId::new("collect"),
            percent: Some(40),
            message: "\u{1b}]0;owned\u{7}\nnext".into(),
        };
        let line = line(&event).unwrap();
        assert_eq!(line, "collect: 40 % \\u{1b}]0;owned\\u{7}\\nnext");
    }
}
