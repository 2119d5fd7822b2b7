//! What plugins wrote and what became of them, one line each, for `plugin logs`.
//!
//! The last lines of each plugin are kept. Who follows them reads from there, so that
//! a reader who is slow costs nothing and learns exactly how many lines it lost.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use jiff::Timestamp;
use orchestrator_contract::{Event, EventSink, LogLevel, PluginState, ViolationAction};
use orchestrator_engine::config::ServerConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};

use super::{App, plugins, problem::Problem, refusal::Refusal};

/// How many lines are on their way to one reader.
const BACKLOG_MAX: usize = 16;
/// How many lines of the past a reader gets who does not say.
const TAIL: usize = 100;

/// One line of a plugin's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogLine {
    /// Counts the plugin's lines since the service was started, from 1.
    seq: u64,
    ts: Timestamp,
    level: LogLevel,
    plugin: Arc<str>,
    /// `stdout`, `stderr`, `protocol`, or `host` for what became of the plugin.
    stream: &'static str,
    message: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// The last lines of every plugin.
pub(crate) struct PluginLogs {
    lines_max: usize,
    bytes_max: usize,
    of: Mutex<HashMap<Arc<str>, Ring>>,
    /// Counts the lines of all plugins.
    news: watch::Sender<u64>,
}

/// The last lines of one plugin.
#[derive(Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// The number of its newest line.
    last: u64,
}

/// Lines after a given one.
struct Batch {
    /// How many there were that are kept no longer.
    lost: u64,
    lines: Vec<LogLine>,
}

impl PluginLogs {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            lines_max: config.plugin_log_lines.get(),
            bytes_max: usize::try_from(config.plugin_log_bytes).unwrap_or(usize::MAX),
            of: Mutex::default(),
            news: watch::Sender::new(0),
        }
    }

    fn push(&self, mut line: LogLine) {
        {
            let mut of = self.lock();
            let ring = of.entry(Arc::clone(&line.plugin)).or_default();
            ring.last += 1;
            line.seq = ring.last;
            ring.bytes += line.message.len();
            ring.lines.push_back(line);
            while ring.lines.len() > self.lines_max || ring.bytes > self.bytes_max {
                let Some(oldest) = ring.lines.pop_front() else {
                    break;
                };
                ring.bytes -= oldest.message.len();
            }
        }
        self.news.send_modify(|lines| *lines += 1);
    }

    /// The lines of `plugin` after the one numbered `after`, at most `most`.
    fn after(&self, plugin: &str, after: u64, most: usize) -> Batch {
        let of = self.lock();
        let Some(ring) = of.get(plugin) else {
            let (lost, lines) = (0, Vec::new());
            return Batch { lost, lines };
        };
        let oldest = ring.lines.front().map_or(ring.last + 1, |line| line.seq);
        let lost = oldest.saturating_sub(after + 1);
        let new = ring.lines.iter().filter(|line| line.seq > after);
        let lines = new.take(most).cloned().collect();
        Batch { lost, lines }
    }

    /// The number of the line before the last `tail` of `plugin`.
    fn before_last(&self, plugin: &str, tail: usize) -> u64 {
        let of = self.lock();
        let Some(ring) = of.get(plugin) else { return 0 };
        let kept = ring.lines.len().min(tail) as u64;
        ring.last - kept
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Ring>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for PluginLogs {
    fn emit(&self, event: Event) {
        if let Some(line) = line_of(event) {
            self.push(line);
        }
    }
}

fn level_of(state: PluginState) -> LogLevel {
    match state {
        PluginState::Error | PluginState::CrashLoop => LogLevel::Error,
        _ => LogLevel::Info,
    }
}

fn line_of(event: Event) -> Option<LogLine> {
    let (mut run_id, mut trace_id) = (None, None);
    let (plugin, level, stream, message) = match event {
        Event::PluginLog {
            plugin,
            stream,
            level,
            message,
            run,
            trace,
        } => {
            run_id = run.map(|run| run.to_string());
            trace_id = trace.map(|trace| trace.trace_id.to_string());
            (plugin, level, stream.as_str(), message)
        }
        Event::PluginStateChanged {
            plugin,
            version,
            state,
            reason,
        } => {
            let level = level_of(state);
            let message = format!("version {version} is {}: {reason}", state.as_str());
            (plugin, level, "host", message.into())
        }
        Event::PluginHealthChanged {
            plugin,
            version,
            healthy,
            reason,
        } => {
            let (level, message) = match healthy {
                true => (LogLevel::Info, format!("version {version} is well")),
                false => (
                    LogLevel::Warn,
                    format!("version {version} is not well: {reason}"),
                ),
            };
            (plugin, level, "host", message.into())
        }
        Event::ResourceViolation {
            plugin,
            resource,
            current,
            limit,
            action,
        } => {
            let level = match action {
                ViolationAction::Warn | ViolationAction::Throttle => LogLevel::Warn,
                ViolationAction::Kill => LogLevel::Error,
            };
            let action = action.as_str();
            let message = format!("uses {current} of {resource}, more than {limit}: {action}");
            (plugin, level, "host", message.into())
        }
        _ => return None,
    };
    Some(LogLine {
        seq: 0,
        ts: Timestamp::now(),
        level,
        plugin: plugin.as_str().into(),
        stream,
        message,
        run_id,
        trace_id,
    })
}

/// The query of a plugin's log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Whether lines are sent as they come.
    #[serde(default)]
    follow: bool,
    /// How many of the last lines come first.
    tail: Option<usize>,
}

type EventResult = Result<SseEvent, std::convert::Infallible>;

/// `GET /api/v1/plugins/{id}/logs`
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = EventResult>>, Problem> {
    let Query(wanted) = query.map_err(Refusal::from)?;
    plugins::versions(&app, &id)?;
    let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
    let heartbeat = KeepAlive::new().interval(app.config.event_heartbeat);
    // Ends with the service, the client's end of the channel, or the lines.
    tokio::spawn(async move {
        let mut closing = app.closing.clone();
        let gone = sender.clone();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = gone.closed() => {}
            () = feed(&app.logs, &id, &wanted, sender) => {}
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok);
    Ok(Sse::new(events).keep_alive(heartbeat))
}

/// Sends lines until there are no more, or nobody takes them.
async fn feed(logs: &PluginLogs, plugin: &str, wanted: &Wanted, sender: mpsc::Sender<SseEvent>) {
    // Before anything is read, so that nothing falls between.
    let mut news = logs.news.subscribe();
    let mut last = logs.before_last(plugin, wanted.tail.unwrap_or(TAIL));
    loop {
        news.mark_unchanged();
        let batch = logs.after(plugin, last, BACKLOG_MAX);
        if batch.lost > 0 {
            let lost = SseEvent::default().event("lost");
            let body = json!({ "lines": batch.lost });
            if send(&sender, lost.json_data(body)).await.is_none() {
                return;
            }
            last += batch.lost;
        }
        let is_empty = batch.lines.is_empty();
        for line in batch.lines {
            let event = SseEvent::default().event("line");
            if send(&sender, event.json_data(&line)).await.is_none() {
                return;
            }
            last = line.seq;
        }
        if is_empty && (!wanted.follow || news.changed().await.is_err()) {
            return;
        }
    }
}

async fn send(sender: &mpsc::Sender<SseEvent>, event: Result<SseEvent, axum::Error>) -> Option<()> {
    sender.send(event.ok()?).await.ok()
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::LogStream;
    use orchestrator_engine::config::Config;

    use super::*;

    fn logs() -> PluginLogs {
        let mut server = Config::defaults().unwrap().server;
        server.plugin_log_lines = 4.try_into().unwrap();
        server.plugin_log_bytes = 20;
        PluginLogs::new(&server)
    }

    fn say(logs: &PluginLogs, plugin: &str, message: &str) {
        logs.emit(Event::PluginLog {
            plugin: plugin.into(),
            stream: LogStream::Stdout,
            level: LogLevel::Debug,
            message: message.into(),
            run: None,
            trace: None,
        });
    }

    fn messages(batch: &Batch) -> Vec<&str> {
        batch.lines.iter().map(|line| &*line.message).collect()
    }

    #[test]
    fn lines_are_kept_within_bounds_and_the_lost_ones_counted() {
        let logs = logs();
        for n in 1..=7 {
            say(&logs, "one", &n.to_string());
            say(&logs, "two", "x");
        }
        let all = logs.after("one", 0, 100);
        assert_eq!((all.lost, messages(&all)), (3, vec!["4", "5", "6", "7"]));
        let some = logs.after("one", 5, 1);
        assert_eq!((some.lost, messages(&some)), (0, vec!["6"]));
        assert_eq!(logs.before_last("one", 2), 5);
        assert_eq!(logs.before_last("one", 0), 7);
        assert_eq!(logs.before_last("nobody", 5), 0);

        say(&logs, "one", "eighteen bytes ...");
        let few = logs.after("one", 7, 100);
        assert_eq!(messages(&few), ["eighteen bytes ..."]);
        assert!(logs.after("one", 0, 100).lines.len() < 4, "bytes count too");
        say(&logs, "one", "longer than everything that is kept");
        let none = logs.after("one", 8, 100);
        assert_eq!((none.lost, none.lines.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_learns_how_many_lines_it_lost() {
        let logs = Arc::new(logs());
        let (sender, receiver) = mpsc::channel(1);
        let (feeding, wanted) = (
            Arc::clone(&logs),
            Wanted {
                follow: true,
                tail: Some(0),
            },
        );
        let feed = tokio::spawn(async move { feed(&feeding, "p", &wanted, sender).await });
        let mut events = ReceiverStream::new(receiver);
        say(&logs, "p", "1");
        while logs.news.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        let mut seen = Vec::new();
        for n in 2..=200 {
            say(&logs, "p", &n.to_string());
            tokio::task::yield_now().await;
        }
        say(&logs, "p", "end");
        while let Some(event) = events.next().await {
            let text = format!("{event:?}");
            seen.push(text);
            if seen.last().unwrap().contains("end") {
                break;
            }
        }
        feed.abort();
        assert!(seen.len() < 50, "{}", seen.len());
        assert!(seen.iter().any(|text| text.contains("lost")), "{seen:?}");
    }
}
