//! Shows how a run goes while it goes: moving lines on a terminal, one plain
//! line for each thing that happens elsewhere. Always on standard error.

mod terminal;
mod transfer;

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write},
    sync::OnceLock,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use orchestrator_contract::{Event, RunId, StepId, StepOutcome};

use self::terminal::Terminal;
pub(crate) use self::transfer::Transfer;
use crate::output::{Output, harmless};

const REDRAWS_A_SECOND: u8 = 20;

/// What moves on the terminal, if anything does. Whoever writes to standard
/// error meanwhile has to push it aside.
static MOVING: OnceLock<MultiProgress> = OnceLock::new();

/// A terminal of which nothing is known may move nothing.
fn may_move() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !dumb
}

fn moving() -> &'static MultiProgress {
    MOVING.get_or_init(|| {
        let terminal = Box::new(Terminal::default());
        let target = ProgressDrawTarget::term_like_with_hz(terminal, REDRAWS_A_SECOND);
        MultiProgress::with_draw_target(target)
    })
}

/// Writes to the terminal without tearing the moving lines.
pub(crate) fn beside_moving_lines<T>(write: impl FnOnce() -> T) -> T {
    match MOVING.get() {
        Some(moving) => moving.suspend(write),
        None => write(),
    }
}

/// Writes to standard error without tearing the moving lines.
pub(crate) fn write_to_stderr(bytes: &[u8]) -> io::Result<()> {
    beside_moving_lines(|| io::stderr().lock().write_all(bytes))
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

/// The progress of the runs that are followed.
pub(crate) struct Progress {
    runs: Vec<RunId>,
    form: Form,
}

/// One moving line for each step that runs.
type Bars = HashMap<(RunId, StepId), ProgressBar>;

enum Form {
    /// Says nothing.
    Silent,
    /// One line for each thing that happens.
    Lines,
    Bars(Bars),
}

impl Progress {
    /// Of no run yet.
    pub(crate) fn new(out: Output) -> Self {
        let form = if out.is_json() || out.is_quiet() {
            Form::Silent
        } else if may_move() {
            Form::Bars(Bars::new())
        } else {
            Form::Lines
        };
        let runs = Vec::new();
        Self { runs, form }
    }

    /// Shows from now on how these runs go. Where they are more than one, each
    /// line begins with its run.
    pub(crate) fn follow(&mut self, runs: Vec<RunId>) {
        self.runs = runs;
    }

    /// The runs that are followed.
    pub(crate) fn runs(&self) -> &[RunId] {
        &self.runs
    }

    /// Shows one event, if it belongs to a run that is followed or to none.
    pub(crate) fn show(&mut self, event: &Event) {
        let prefix = match event.run() {
            Some(run) if !self.runs.contains(&run) => return,
            Some(run) if self.runs.len() > 1 => format!("{run} "),
            _ => String::new(),
        };
        match &mut self.form {
            Form::Silent => {}
            Form::Lines => {
                if let Some(line) = line(event) {
                    write_to_stderr(format!("{prefix}{line}\n").as_bytes()).ok();
                }
            }
            Form::Bars(bars) => move_bars(bars, &prefix, event),
        }
    }

    /// Nothing of this run moves any more.
    pub(crate) fn ended(&mut self, run: RunId) {
        if let Form::Bars(bars) = &mut self.form {
            bars.extract_if(|(of, _), _| *of == run)
                .for_each(|(_, bar)| bar.finish_and_clear());
        }
    }
}

impl Drop for Progress {
    /// Nothing may be left on the terminal that no longer moves.
    fn drop(&mut self) {
        if let Form::Bars(bars) = &mut self.form {
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
            step,
            attempt,
            delay_ms,
            ..
        } => format!(
            "{step}: attempt {} follows in {}",
            attempt + 1,
            duration(*delay_ms)
        ),
        Event::BreakerChanged {
            plugin, to, reason, ..
        } => format!("{plugin}: breaker is now {} ({reason})", to.as_str()),
        Event::CallFellBack {
            step,
            by,
            answered: true,
            error,
            ..
        } => format!(
            "{step}: {}, answered by its fallback ({})",
            error.as_str(),
            by.as_str()
        ),
        Event::PluginRestarted { plugin, reason, .. } => {
            format!("{plugin}: starts again: {reason}")
        }
        _ => return None,
    };
    Some(harmless(&line))
}

fn move_bars(bars: &mut Bars, prefix: &str, event: &Event) {
    let moving = moving();
    match event {
        Event::StepStarted {
            run,
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
            bar.set_prefix(format!("{prefix}{}", harmless(step.as_str())));
            bar.set_message(harmless(&format!("{plugin} {phase}")));
            bar.enable_steady_tick(Duration::from_millis(120));
            bars.insert((*run, step.clone()), bar);
        }
        Event::StepProgress {
            run,
            step,
            percent,
            message,
        } => {
            if let Some(bar) = bars.get(&(*run, step.clone())) {
                let percent = percent.map_or_else(String::new, |percent| format!("{percent} % "));
                bar.set_message(harmless(&format!("{percent}{message}")));
            }
        }
        Event::StepFinished {
            run, step, outcome, ..
        } => {
            if let Some(bar) = bars.remove(&(*run, step.clone())) {
                bar.finish_and_clear();
            }
            let mark = match outcome {
                StepOutcome::Success => '✓',
                StepOutcome::Skipped => '-',
                StepOutcome::Failed | StepOutcome::Cancelled | StepOutcome::Unknown => '✗',
            };
            say(moving, &format!("{mark} {prefix}"), event);
        }
        _ => say(moving, &format!("! {prefix}"), event),
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
