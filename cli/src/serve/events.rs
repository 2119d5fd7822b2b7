//! A run's events as they happen, as
//! [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html).
//!
//! What is in the journal has an id, its sequence number: a client that comes
//! back with `Last-Event-ID` gets what it missed, nothing twice. Progress and log
//! lines of the moment have none; whoever was away has missed them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::sse::{Event as SseEvent, KeepAlive, Sse},
};
use orchestrator_contract::{Event, RunId};
use orchestrator_engine::{
    EngineError, EventItem,
    journal::{RecordBody, RecordView},
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use super::{App, problem::Problem, runs::run_id};
use crate::run_record;

/// How many events wait for a client that is slow to read.
const BACKLOG_MAX: usize = 64;
/// When a client whose connection broke should come back.
const RECONNECT: Duration = Duration::from_secs(1);

type EventResult = Result<SseEvent, Infallible>;

/// `GET /api/v1/runs/{id}/events`
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl tokio_stream::Stream<Item = EventResult>>, Problem> {
    let run = run_id(&id)?;
    // A run that does not exist is an answer, not a stream.
    app.engine.history().summary(run).await?;
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
    let heartbeat = KeepAlive::new().interval(app.config.event_heartbeat);
    // Ends with the run, the service, or the client's end of the channel.
    tokio::spawn(async move {
        Feed {
            app,
            run,
            last,
            sender,
        }
        .run()
        .await
    });
    let events = ReceiverStream::new(receiver).map(Ok);
    Ok(Sse::new(events).keep_alive(heartbeat))
}

struct Feed {
    app: Arc<App>,
    run: RunId,
    last: u64,
    sender: mpsc::Sender<SseEvent>,
}

/// Why a feed ends.
struct Ended;

impl Feed {
    async fn run(mut self) {
        let mut closing = self.app.closing.clone();
        let sender = self.sender.clone();
        let feed = async {
            let retry = SseEvent::default().retry(RECONNECT);
            if self.send(retry).await.is_ok() {
                let Err(Ended) = self.follow().await;
            }
        };
        tokio::select! {
            // Open streams must not hold up the end of the service.
            _ = closing.wait_for(|closing| *closing) => {}
            () = sender.closed() => {}
            () = feed => {}
        }
    }

    async fn follow(&mut self) -> Result<Infallible, Ended> {
        // Subscribed before the journal is read, so that nothing falls between.
        let mut live = self.app.engine.events();
        let mut growth = self.app.growth.of(self.run);
        loop {
            self.replay().await?;
            loop {
                let news = tokio::select! {
                    news = live.next() => news,
                    grown = growth.changed() => {
                        if grown.is_err() {
                            growth = self.app.growth.of(self.run);
                        }
                        break;
                    }
                };
                match news {
                    None => return Err(Ended),
                    Some(EventItem::Lagged(lost)) => {
                        self.app.engine.telemetry().events_dropped(lost);
                        self.tell("lagged", &json!({ "lost": lost })).await?;
                        break;
                    }
                    Some(EventItem::Event(event)) if event.run() == Some(self.run) => {
                        match &event {
                            Event::StepProgress { .. } => {
                                self.tell("step.progress", &event).await?;
                            }
                            Event::PluginLog { .. } => self.tell("plugin.log", &event).await?,
                            _ => break,
                        }
                    }
                    Some(EventItem::Event(_)) => {}
                }
            }
        }
    }

    /// Sends what the journal has and the client has not.
    async fn replay(&mut self) -> Result<(), Ended> {
        let records = match self.records().await {
            Ok(records) => records,
            Err(error) => {
                let body = json!({ "message": error.to_string() });
                self.tell("error", &body).await?;
                return Err(Ended);
            }
        };
        for record in &records {
            let event = SseEvent::default()
                .id(record.seq.to_string())
                .event(record.body.kind());
            let event = event
                .json_data(run_record::json(record))
                .map_err(|_| Ended)?;
            self.send(event).await?;
            self.last = record.seq;
            if matches!(record.body, RecordBody::RunFinished { .. }) {
                return Err(Ended);
            }
        }
        Ok(())
    }

    async fn records(&self) -> Result<Vec<RecordView>, EngineError> {
        let history = self.app.engine.history();
        match history.summary(self.run).await?.last_seq > self.last {
            true => history.records(self.run, self.last).await,
            false => Ok(Vec::new()),
        }
    }

    /// Sends something that is not in the journal.
    async fn tell<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Ended> {
        let event = SseEvent::default().event(name);
        self.send(event.json_data(value).map_err(|_| Ended)?).await
    }

    async fn send(&self, event: SseEvent) -> Result<(), Ended> {
        self.sender.send(event).await.map_err(|_| Ended)
    }
}
