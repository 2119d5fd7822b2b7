//! The one thread of this process that writes the file.
//!
//! It takes whatever has come in while the last transaction was on its way to
//! the disk, makes that one transaction, and answers everybody in it. There is
//! no timer: the disk sets the pace, and nobody waits longer than it takes.

mod probe;
mod thread;

use std::{path::PathBuf, sync::Arc};

use orchestrator_contract::EventSink;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use thread::Thread;

use super::{
    append::{Around, Batch},
    condition::{Condition, Trouble},
    error::AppendError,
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
        // What was committed was applied before, so there is an answer.
        let Self { answer, waiter, .. } = *self;
        let answer = outcome.map(|()| answer).map_err(AppendError::clone);
        if let Some(answer) = answer.transpose() {
            // Nobody waits for a dropped ticket.
            let _ = waiter.send(answer);
        }
    }
}

enum Message {
    Job(Box<dyn Job>),
    /// Something else than a write has failed.
    Look,
    Stop(oneshot::Sender<()>),
}

/// Hands requests to the thread. Clones share it; it ends after the last one
/// is dropped and everything they handed over is written.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    condition: Condition,
}

/// A request's answer, some time later.
pub(super) struct Answer<T> {
    receiver: oneshot::Receiver<Result<T, AppendError>>,
    condition: Condition,
}

impl<T> Answer<T> {
    /// Waits for it.
    pub(super) async fn get(self) -> Result<T, AppendError> {
        let answer = self.receiver.await;
        answer.unwrap_or_else(|_| Err(self.condition.closed()))
    }
}

/// What the thread works with.
pub(super) struct Tools {
    pub(super) connection: Connection,
    /// The database's write-ahead log.
    pub(super) log: PathBuf,
    pub(super) settings: JournalSettings,
    pub(super) around: Around,
    pub(super) events: Arc<dyn EventSink>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(tools: Tools) -> std::io::Result<Self> {
        let (queue, incoming) = mpsc::channel(tools.settings.queue_max.max(1));
        let condition = tools.around.condition.clone();
        let thread = Thread::new(tools);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || thread.run(incoming))?;
        Ok(Self { queue, condition })
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
        let room = self.queue.reserve().await;
        let room = room.map_err(|_| self.condition.closed())?;
        let (waiter, receiver) = oneshot::channel();
        room.send(Message::Job(Box::new(Task {
            cost,
            work,
            answer: None,
            waiter,
        })));
        let condition = self.condition.clone();
        Ok(Answer {
            receiver,
            condition,
        })
    }

    /// [`Self::hand_over`], and waits for the answer.
    pub(super) async fn write<T, W>(&self, cost: Cost, work: W) -> Result<T, AppendError>
    where
        T: Send + 'static,
        W: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.hand_over(cost, work).await?.get().await
    }

    /// Whether the last write succeeded, and another would be taken.
    pub(super) fn health(&self) -> Result<(), Trouble> {
        if self.queue.is_closed() {
            self.condition.closed();
        }
        self.condition.trouble().map_or(Ok(()), Err)
    }

    /// Takes note that something could not be stored beside the database, and
    /// has the thread find out when it can be again.
    pub(super) fn storage_failed(&self, reason: String) -> AppendError {
        let (error, _) = self.condition.failed(reason, false);
        // A queue without room is looked through anyway.
        let _ = self.queue.try_send(Message::Look);
        error
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
