//! What plugins wrote and what became of them, one line each, for `plugin logs`.
//!
//! The last lines of each plugin are kept. Who follows them reads from there, so that
//! a reader who is slow costs nothing and learns exactly how many lines it lost.

mod line;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use jiff::Timestamp;
use orchestrator_contract::{Event, EventSink};
use orchestrator_engine::config::ServerConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};

use self::line::LogLine;
use super::{App, plugins, problem::Problem, refusal::Refusal};

/// How many lines are on their way to one reader.
const BACKLOG_MAX: usize = 16;
/// How many lines of the past a reader gets who does not say.
const TAIL: usize = 100;

/// The last lines of every plugin.
pub(crate) struct PluginLogs {
    lines_max: usize,
    bytes_max: usize,
    of: Mutex<HashMap<Arc<str>, Ring>>,
}

/// The last lines of one plugin.
#[derive(Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// The number of its newest line.
    last: u64,
    /// Wakes those who follow this plugin, and nobody else.
    news: watch::Sender<()>,
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
        }
    }

    fn push(&self, mut line: LogLine) {
        let mut of = self.lock();
        let ring = of.entry(Arc::clone(&line.plugin)).or_default();
        ring.last += 1;
        // Under the lock, so that times are in the order of the lines.
        (line.seq, line.ts) = (ring.last, Timestamp::now());
        ring.bytes += line.message.len();
        ring.lines.push_back(line);
        while ring.lines.len() > self.lines_max || ring.bytes > self.bytes_max {
            let Some(oldest) = ring.lines.pop_front() else {
                break;
            };
            ring.bytes -= oldest.message.len();
        }
        ring.news.send_replace(());
    }

    /// Tells of every line of `plugin` from now on that there is one.
    fn news(&self, plugin: &str) -> watch::Receiver<()> {
        let mut of = self.lock();
        of.entry(plugin.into()).or_default().news.subscribe()
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
        if let Some(line) = LogLine::of(event) {
            self.push(line);
        }
    }
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
        let (closing, gone) = (app.closing.clone(), sender.clone());
        tokio::select! {
            () = gone.closed() => {}
            _ = feed(&app.logs, &id, &wanted, closing, sender) => {}
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok);
    Ok(Sse::new(events).keep_alive(heartbeat))
}

/// Sends lines until there are no more, then that this was all. Nothing when nobody
/// takes them.
async fn feed(
    logs: &PluginLogs,
    plugin: &str,
    wanted: &Wanted,
    mut closing: watch::Receiver<bool>,
    sender: mpsc::Sender<SseEvent>,
) -> Option<()> {
    // Before anything is read, so that nothing falls between.
    let mut news = logs.news(plugin);
    let newest = || logs.before_last(plugin, 0);
    let mut last = logs.before_last(plugin, wanted.tail.unwrap_or(TAIL));
    // The number of the last line there will be, once that is known.
    let mut end = (!wanted.follow).then(newest);
    while end.is_none_or(|end| last < end) {
        news.mark_unchanged();
        let batch = logs.after(plugin, last, BACKLOG_MAX);
        let is_empty = batch.lost == 0 && batch.lines.is_empty();
        if batch.lost > 0 {
            let lost = SseEvent::default().event("lost");
            send(&sender, lost.json_data(json!({ "lines": batch.lost }))).await?;
            last += batch.lost;
        }
        for line in batch.lines {
            let event = SseEvent::default().event("line");
            send(&sender, event.json_data(&line)).await?;
            last = line.seq;
        }
        if end.is_none() && *closing.borrow() {
            end = Some(newest());
        } else if is_empty {
            tokio::select! {
                changed = news.changed() => changed.ok()?,
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    }
    // Without it a reader could not tell the end from a service that was killed.
    let event = SseEvent::default().event("end");
    send(&sender, event.json_data(json!({ "lines": last }))).await
}

async fn send(sender: &mpsc::Sender<SseEvent>, event: Result<SseEvent, axum::Error>) -> Option<()> {
    sender.send(event.ok()?).await.ok()
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::{LogLevel, LogStream};
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

    /// What a reader gets who takes what it can, up to the end of the stream.
    async fn read(logs: &Arc<PluginLogs>, follow: bool, end: watch::Receiver<bool>) -> Feed {
        let (sender, receiver) = mpsc::channel(1);
        let (logs, tail) = (Arc::clone(logs), Some(0));
        let wanted = Wanted { follow, tail };
        let news = logs.news("p");
        let task = tokio::spawn({
            let logs = Arc::clone(&logs);
            async move { feed(&logs, "p", &wanted, end, sender).await }
        });
        let followers = 1 + usize::from(follow);
        while follow && logs.lock()["p"].news.receiver_count() < followers {
            tokio::task::yield_now().await;
        }
        drop(news);
        Feed { task, receiver }
    }

    struct Feed {
        task: tokio::task::JoinHandle<Option<()>>,
        receiver: mpsc::Receiver<SseEvent>,
    }

    impl Feed {
        /// Everything up to the end, as it is sent.
        async fn all(mut self) -> Vec<String> {
            let mut seen = Vec::new();
            while let Some(event) = self.receiver.recv().await {
                seen.push(format!("{event:?}"));
            }
            self.task.await.unwrap();
            seen
        }
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_learns_how_many_lines_it_lost() {
        let logs = Arc::new(logs());
        let (close, closing) = watch::channel(false);
        let feed = read(&logs, true, closing).await;
        for n in 1..=200 {
            say(&logs, "p", &n.to_string());
            tokio::task::yield_now().await;
        }
        say(&logs, "p", "last");
        close.send_replace(true);
        let seen = feed.all().await;
        assert!(seen.len() < 50, "{}", seen.len());
        assert!(seen.iter().any(|text| text.contains("lost")), "{seen:?}");
        // What was said before the service ends is sent all the same.
        let [.., last, end] = &seen[..] else {
            panic!("{seen:?}")
        };
        assert!(
            last.contains("last") && end.contains("event: end"),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn a_reader_who_does_not_follow_is_told_the_end() {
        let logs = Arc::new(logs());
        say(&logs, "p", "1");
        let (_close, closing) = watch::channel(false);
        let seen = read(&logs, false, closing).await.all().await;
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].contains("event: end"), "{seen:?}");
    }

    #[test]
    fn a_line_wakes_those_who_follow_its_plugin_and_nobody_else() {
        let logs = logs();
        let (mut own, mut other) = (logs.news("one"), logs.news("two"));
        for follower in [&mut own, &mut other] {
            follower.mark_unchanged();
        }
        say(&logs, "one", "hello");
        assert!(own.has_changed().unwrap());
        assert!(!other.has_changed().unwrap());
    }
}
