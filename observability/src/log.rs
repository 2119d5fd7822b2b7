//! Log lines: JSON for machines, one short line for people.
//!
//! [`subscriber`] builds the whole; whoever owns the process installs it. Lines
//! carry the ids of the trace that [`crate::trace`] knows. A line that cannot be
//! written is counted (`orchestrator_log_lines_lost_total`) and forgotten: a
//! closed pipe must not end a run.

mod background;
mod fields;
mod human;
mod json;

use std::{
    fmt,
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use thiserror::Error;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::Context, layer::SubscriberExt as _,
};

pub use self::background::{Background, Flush, background};
use self::fields::Fields;
pub use self::fields::names_a_secret;
use crate::trace;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2025-11-18T10:30:03Z INFO  [agent] message key=value`
    Human,
    /// One JSON object a line.
    Json,
}

/// Which lines are written: a level, or levels by target
/// (`info,orchestrator_engine=debug,plugin=warn`).
#[derive(Clone, Debug)]
pub struct Filter(Targets);

/// The text is not a filter.
#[derive(Debug, Error)]
#[error(
    "`{text}` is not a level (trace, debug, info, warn, error, off) or a list `target=level,…`"
)]
pub struct FilterError {
    text: String,
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = || FilterError {
            text: text.to_owned(),
        };
        // On its own, an unknown word would be taken for a target.
        let known = |word: &str| {
            word.contains('=') || word.parse::<tracing::level_filters::LevelFilter>().is_ok()
        };
        if text.is_empty() || !text.split(',').all(|part| known(part.trim())) {
            return Err(error());
        }
        text.parse().map(Self).map_err(|_| error())
    }
}

/// A subscriber that writes lines to `writer`, ready for
/// `tracing::subscriber::set_global_default`. A line is written where it is
/// said; give it a [`Background`] where nothing may wait for that.
pub fn subscriber<W: Write + Send + 'static>(
    format: Format,
    filter: Filter,
    writer: W,
) -> impl Subscriber + Send + Sync + 'static {
    let layer = LogLayer {
        format,
        writer: Mutex::new(writer),
        now: Timestamp::now,
    };
    Registry::default().with(layer.with_filter(filter.0))
}

static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines of this process could not be written so far.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// What both formats write.
struct Line<'a> {
    at: Timestamp,
    level: tracing::Level,
    target: &'a str,
    trace: Option<orchestrator_contract::TraceContext>,
    fields: &'a Fields,
}

struct LogLayer<W> {
    format: Format,
    writer: Mutex<W>,
    now: fn() -> Timestamp,
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for LogLayer<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            at: (self.now)(),
            level: *event.metadata().level(),
            target: event.metadata().target(),
            trace: trace::current(),
            fields: &fields,
        };
        let mut text = match self.format {
            Format::Human => human::line(&line),
            Format::Json => json::line(&line),
        };
        text.push('\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // One write a line, so that lines of several processes do not mix.
        if writer.write_all(text.as_bytes()).is_err() {
            lose_line();
        }
    }
}

fn lose_line() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use orchestrator_contract::TraceContext;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn fixed() -> Timestamp {
        "2025-11-18T10:30:03.25Z".parse().unwrap()
    }

    fn written(format: Format, work: impl FnOnce()) -> String {
        let shared = Shared::default();
        let layer = LogLayer {
            format,
            writer: Mutex::new(shared.clone()),
            now: fixed,
        };
        tracing::subscriber::with_default(Registry::default().with(layer), work);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn people_read_a_short_line_with_its_source() {
        let text = written(Format::Human, || {
            tracing::info!(target: "orchestrator", ready = 3, "PluginCoordinator ready");
            tracing::debug!(plugin = %"git-history", stream = "stderr", "opened it");
        });
        assert_eq!(
            text,
            "2025-11-18T10:30:03Z INFO  [agent] PluginCoordinator ready ready=3\n\
             2025-11-18T10:30:03Z DEBUG [git-history] opened it stream=stderr\n"
        );
    }

    #[test]
    fn machines_read_json_with_the_ids_of_the_trace() {
        let trace = TraceContext::from_random(0xa, 0xb, true);
        let text = written(Format::Json, || {
            trace::in_trace(trace, || {
                tracing::warn!(target: "orchestrator", event = "x.y", attempt = 2_u32, ratio = 0.5,
                    on = true, error.type = "timeout", "it happened");
            });
            tracing::info!("outside");
        });
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["ts"], "2025-11-18T10:30:03.250000000Z");
        assert_eq!(lines[0]["level"], "warn");
        assert_eq!(lines[0]["message"], "it happened");
        assert_eq!(lines[0]["trace_id"], trace.trace_id.to_string());
        assert_eq!(lines[0]["span_id"], trace.span_id.to_string());
        assert_eq!(lines[0]["attempt"], 2);
        assert_eq!(lines[0]["ratio"], 0.5);
        assert_eq!(lines[0]["on"], true);
        assert_eq!(lines[0]["error.type"], "timeout");
        assert!(lines[1].get("trace_id").is_none());
        assert!(lines[1].get("span_id").is_none());
    }

    #[test]
    fn hostile_text_stays_on_its_line_and_says_nothing_to_the_terminal() {
        let hostile = "a\nb\u{1b}[31m\u{202e}\u{7}\u{9b}";
        for format in [Format::Human, Format::Json] {
            let text = written(format, || tracing::info!(name = hostile, "{hostile}"));
            assert_eq!(text.lines().count(), 1, "{text:?}");
            let body = text.trim_end();
            assert!(!body.chars().any(char::is_control), "{body:?}");
            assert!(!body.contains('\u{202e}'), "{body:?}");
        }
    }

    #[test]
    fn secrets_are_named_and_not_shown() {
        for format in [Format::Human, Format::Json] {
            let text = written(format, || {
                tracing::info!(passphrase = "hunter2", api_token = %"hunter2", "logged in");
            });
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("passphrase"), "{text}");
        }
    }

    #[test]
    fn a_field_cannot_pose_as_one_of_the_lines_own() {
        let text = written(Format::Json, || {
            tracing::info!(level = "forged", ts = "forged", trace_id = "forged", "true");
        });
        assert!(!text.contains("forged"), "{text}");
    }

    #[test]
    fn a_closed_pipe_loses_lines_and_nothing_else() {
        let before = lost_lines();
        let filter = "info".parse().unwrap();
        let subscriber = subscriber(Format::Human, filter, Closed);
        tracing::subscriber::with_default(subscriber, || tracing::info!("into the void"));
        assert_eq!(lost_lines(), before + 1);
    }

    #[test]
    fn a_filter_lets_levels_pass_by_target() {
        let shared = Shared::default();
        let filter = "warn,plugin=debug".parse().unwrap();
        let subscriber = subscriber(Format::Human, filter, shared.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not this");
            tracing::debug!(target: "plugin", "but this");
        });
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("DEBUG [agent] but this\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
        for wrong in ["", "loud", "info,loud", "plugin=loud"] {
            assert!(wrong.parse::<Filter>().is_err(), "{wrong}");
        }
    }
}
