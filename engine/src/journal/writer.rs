//! The one thread of this process that writes the file.
//!
//! It takes whatever has come in while the last transaction was on its way to
//! the disk, makes that one transaction, and answers everybody in it. There is
//! no timer: the disk sets the pace, and nobody waits longer than it takes.

mod thread;

use std::sync::{Arc, OnceLock};

use orchestrator_contract::EventSink;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use thread::Thread;

use super::{
    append::Batch,
    blobs::BlobStore,
    error::AppendError,
    owner::{Owner, Owners},
    settings::JournalSettings,
};

/// What a request weighs in its group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// One request, which becomes durable with its whole group or not at all.
trait Job: Send {
    fn cost(&self) -> Cost;
    /// Writes. May be called again after the group was rolled back.
    fn apply(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    /// Answers, once the group is durable or has failed.
    fn settle(self: Box<Self>, outcome: Result<(), &AppendError>);
}

struct Task<W, T> {
    cost: Cost,
    work: W,
    answer: Option<T>,
    waiter: oneshot::Sender<Result<T, AppendError>>,
}

impl<W, T> Job for Task<W, T>
where
    W: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn cost(&self) -> Cost {
        self.cost
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        self.answer = Some((self.work)(batch)?);
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), &AppendError>) {
        let answer = match (outcome, self.answer) {
            (Ok(()), Some(answer)) => Ok(answer),
            (Err(error), _) => Err(error.clone()),
            (Ok(()), None) => Err(ended()),
        };
        // Nobody waits for a dropped ticket.
        let _ = self.waiter.send(answer);
    }
}

enum Message {
    Job(Box<dyn Job>),
    Stop(oneshot::Sender<()>),
}

/// Hands requests to the thread. Clones share it; it ends after the last one
/// is dropped and everything they handed over is written.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    /// Why the thread takes nothing any more.
    poison: Poison,
}

/// The error that every request gets from some moment on.
type Poison = Arc<OnceLock<AppendError>>;

/// A request's answer, some time later.
pub(super) type Answer<T> = oneshot::Receiver<Result<T, AppendError>>;

/// What the thread works with.
pub(super) struct Tools {
    pub(super) connection: Connection,
    pub(super) settings: JournalSettings,
    pub(super) blobs: BlobStore,
    pub(super) owner: Owner,
    pub(super) owners: Owners,
    pub(super) events: Arc<dyn EventSink>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(tools: Tools) -> std::io::Result<Self> {
        let (queue, incoming) = mpsc::channel(tools.settings.queue_max.max(1));
        let poison = Poison::default();
        let thread = Thread::new(tools, Arc::clone(&poison));
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || thread.run(incoming))?;
        Ok(Self { queue, poison })
    }

    /// Hands over a request in the order of the calls. Waits while the queue
    /// is full; dropped before it answers, the request is not handed over.
    pub(super) async fn hand_over<T, W>(
        &self,
        cost: Cost,
        work: W,
    ) -> Result<Answer<T>, AppendError>
    where
        T: Send + 'static,
        W: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let room = self.queue.reserve().await.map_err(|_| ended())?;
        let (waiter, answer) = oneshot::channel();
        room.send(Message::Job(Box::new(Task {
            cost,
            work,
            answer: None,
            waiter,
        })));
        Ok(answer)
    }

    /// [`Self::hand_over`], and waits for the answer.
    pub(super) async fn write<T, W>(&self, cost: Cost, work: W) -> Result<T, AppendError>
    where
        T: Send + 'static,
        W: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        answered(self.hand_over(cost, work).await?).await
    }

    /// Whether requests are taken.
    pub(super) fn health(&self) -> Result<(), AppendError> {
        match self.poison.get() {
            Some(error) => Err(error.clone()),
            None if self.queue.is_closed() => Err(ended()),
            None => Ok(()),
        }
    }

    /// How many requests wait.
    pub(super) fn queued(&self) -> u64 {
        (self.queue.max_capacity() - self.queue.capacity()) as u64
    }

    /// Ends the thread once everything handed over so far is written, and
    /// waits for that. Requests that come later are refused.
    pub(super) async fn stop(&self) {
        let (waiter, done) = oneshot::channel();
        if self.queue.send(Message::Stop(waiter)).await.is_ok() {
            // An error means that it has ended already.
            let _ = done.await;
        }
    }
}

/// Waits for an answer.
pub(super) async fn answered<T>(answer: Answer<T>) -> Result<T, AppendError> {
    answer.await.unwrap_or_else(|_| Err(ended()))
}

fn ended() -> AppendError {
    AppendError::Unavailable {
        reason: "it was closed".to_owned(),
        poisoned: true,
    }
}
