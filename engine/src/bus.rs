//! Tells everybody what happens, without waiting for anybody.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use orchestrator_contract::{Event, EventSink};
use tokio::sync::broadcast;
use tokio_stream::{
    Stream,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};

/// How many events a slow listener may fall behind before it loses the oldest.
const BACKLOG_MAX: usize = 4_096;

/// One event, or how many were lost to slowness.
#[derive(Clone, Debug, PartialEq)]
pub enum EventItem {
    /// Something happened.
    Event(Event),
    /// The listener was too slow; this many events are gone.
    Lagged(u64),
}

/// Everything that happens from the moment of subscription on. Ends when the
/// engine is gone.
#[derive(Debug)]
pub struct EventStream(BroadcastStream<Event>);

impl Stream for EventStream {
    type Item = EventItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventItem>> {
        Pin::new(&mut self.0).poll_next(cx).map(|item| {
            item.map(|item| match item {
                Ok(event) => EventItem::Event(event),
                Err(BroadcastStreamRecvError::Lagged(lost)) => EventItem::Lagged(lost),
            })
        })
    }
}

/// Hands every event to the sinks, in their order, and to every subscriber.
#[derive(Clone)]
pub(crate) struct Bus(Arc<Ends>);

struct Ends {
    sinks: Vec<Arc<dyn EventSink>>,
    subscribers: broadcast::Sender<Event>,
}

impl Bus {
    pub(crate) fn new(sinks: Vec<Arc<dyn EventSink>>) -> Self {
        Self(Arc::new(Ends {
            sinks,
            subscribers: broadcast::Sender::new(BACKLOG_MAX),
        }))
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream(BroadcastStream::new(self.0.subscribers.subscribe()))
    }
}

impl EventSink for Bus {
    fn emit(&self, event: Event) {
        for sink in &self.0.sinks {
            sink.emit(event.clone());
        }
        // An error only says that nobody listens.
        drop(self.0.subscribers.send(event));
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn commit(events: u64) -> Event {
        Event::JournalCommitted {
            events,
            duration_us: 1,
        }
    }

    #[tokio::test]
    async fn a_slow_listener_learns_how_much_it_missed() {
        let bus = Bus::new(Vec::new());
        let mut stream = bus.subscribe();
        for number in 0..BACKLOG_MAX as u64 + 3 {
            bus.emit(commit(number));
        }
        drop(bus);

        assert_eq!(stream.next().await, Some(EventItem::Lagged(3)));
        assert_eq!(stream.next().await, Some(EventItem::Event(commit(3))));
        assert_eq!(stream.collect::<Vec<_>>().await.len(), BACKLOG_MAX - 1);
    }
}
