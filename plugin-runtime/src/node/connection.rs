//! One connection to one process: callers on one side, a reader and a writer task
//! on the other.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use orchestrator_contract::{
    CallError, PhaseCall, PhaseName, PhaseReply, Reconciled,
    frame::{CallHeader, Frame, PAYLOAD_PER_FRAME, Reconcile, ReconcileStatus},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    answer::{Answer, Question},
    calls::CallTable,
};
use crate::{
    exec::{Waiting, remaining_ms},
    logs::Origin,
    outlet::Outlet,
    settings::NodeSettings,
};

/// Frames that may wait for the writer.
const OUTGOING_MAX: usize = 64;

/// One connection to one process.
pub(super) struct Connection {
    pub(super) outlet: Arc<Outlet>,
    pub(super) settings: NodeSettings,
    table: Mutex<CallTable>,
    /// Calls that the plugin is ready to take.
    credit: Semaphore,
    outgoing: mpsc::Sender<Frame>,
    /// Calls that wait for credit, of all connections of the plugin.
    waiting: Arc<AtomicU64>,
    /// Calls were given up: the writer has to tell the plugin …
    pub(super) untold: Notify,
    /// … and the supervisor has to see to it that they end.
    abandoned: Notify,
}

/// What the writer task works on.
pub(super) type Outgoing = mpsc::Receiver<Frame>;

impl Connection {
    pub(super) fn new(
        outlet: Arc<Outlet>,
        settings: NodeSettings,
        waiting: Arc<AtomicU64>,
    ) -> (Arc<Self>, Outgoing) {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let connection = Self {
            outlet,
            table: Mutex::new(CallTable::new(settings.payload_bytes_max)),
            settings,
            credit: Semaphore::new(0),
            outgoing,
            waiting,
            untold: Notify::new(),
            abandoned: Notify::new(),
        };
        (Arc::new(connection), queue)
    }

    /// Sends a call and waits for its reply. Dropping the future cancels the call:
    /// the plugin is told, and keeps its credit until it answers.
    pub(super) async fn call(self: Arc<Self>, call: PhaseCall) -> Result<PhaseReply, CallError> {
        let input = call.input.bytes.clone();
        let max = self.settings.payload_bytes_max;
        if input.len() as u64 > max {
            return Err(CallError::InvalidInput {
                message: format!("{} bytes, at most {max} are sent to a plugin", input.len()),
            });
        }
        let credit = self
            .take_credit(call.deadline.map(Instant::from_std))
            .await?;
        let room = self.outgoing.reserve().await.map_err(|_| self.gone())?;
        let question = Question::Call {
            origin: Origin::of(&call),
            session: call.session,
        };
        let open = self.open(question)?;
        credit.forget();
        let mut rest = input;
        let first = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
        let length = (first.len() + rest.len()) as u64;
        room.send(Frame::Call(header(open.id, call, length), first));
        while !rest.is_empty() && !self.table().is_done(open.id) {
            let piece = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
            let chunk = Frame::Chunk(orchestrator_contract::frame::Chunk { call: open.id }, piece);
            // Fails when the connection ends, and then the call ends too.
            let _ = self.outgoing.send(chunk).await;
        }
        match open.await? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Reconciled(..) => Err(wrong_answer()),
        }
    }

    /// Asks what became of an earlier call.
    pub(super) async fn reconcile(
        self: Arc<Self>,
        phase: PhaseName,
        idempotency_key: String,
    ) -> Result<Reconciled, CallError> {
        let credit = self.take_credit(None).await?;
        let room = self.outgoing.reserve().await.map_err(|_| self.gone())?;
        let open = self.open(Question::Reconcile)?;
        credit.forget();
        room.send(Frame::Reconcile(Reconcile {
            call: open.id,
            phase,
            idempotency_key,
        }));
        Ok(match open.await? {
            Answer::Reconciled(ReconcileStatus::Done, output) => {
                Reconciled::Done(PhaseReply::new(output))
            }
            Answer::Reconciled(ReconcileStatus::NotDone, _) => Reconciled::NotDone,
            Answer::Reconciled(ReconcileStatus::Unknown, _) => Reconciled::Unknown,
            Answer::Reply(_) => return Err(wrong_answer()),
        })
    }

    /// Puts a frame that belongs to no call into the queue.
    pub(super) async fn send(&self, frame: Frame) {
        // Fails when the connection ends, and then nobody wants the frame.
        let _ = self.outgoing.send(frame).await;
    }

    /// The plugin takes `calls` more calls.
    ///
    /// # Errors
    ///
    /// When that is more than the host allows; the connection has to end then.
    pub(super) fn add_credit(&self, calls: u32) -> Result<(), CallError> {
        let max = u64::from(self.settings.slots_max);
        let given = self.credit.available_permits() as u64 + self.table().with_plugin() as u64;
        let total = given + u64::from(calls);
        if total > max {
            return Err(CallError::protocol(
                "over_credit",
                format!("credit for {total} calls at once, at most {max} are allowed"),
            ));
        }
        self.credit.add_permits(calls as usize);
        Ok(())
    }

    /// Waits until a call that was given up has not ended in time.
    pub(super) async fn overdue(&self, grace: Duration) {
        loop {
            let due = self.table().first_overdue(grace);
            match due {
                None => self.abandoned.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
            }
        }
    }

    /// Ends every open call with `error`; calls that come later get `after`.
    pub(super) fn close(&self, error: &CallError, after: &CallError) {
        let wakers = self.table().close(error, after);
        self.credit.close();
        for waker in wakers {
            waker.wake();
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, CallTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_credit(
        &self,
        deadline: Option<Instant>,
    ) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(credit) = self.credit.try_acquire() {
            return Ok(credit);
        }
        let limit = u64::from(self.settings.waiting_max);
        if self.waiting.load(Ordering::Relaxed) >= limit {
            return Err(CallError::Overloaded { limit });
        }
        let _waiting = Waiting::count(&self.waiting);
        let acquired = match deadline {
            Some(deadline) => {
                let acquired = timeout_at(deadline, self.credit.acquire()).await;
                acquired
                    .map_err(|_| self.unavailable("it took no further call until the deadline"))?
            }
            None => self.credit.acquire().await,
        };
        acquired.map_err(|_| self.gone())
    }

    fn open(self: &Arc<Self>, question: Question) -> Result<OpenCall, CallError> {
        let id = self.table().open(question)?;
        let connection = Arc::clone(self);
        let ended = false;
        Ok(OpenCall {
            connection,
            id,
            ended,
        })
    }

    fn gone(&self) -> CallError {
        self.unavailable("its process has just ended")
    }

    fn unavailable(&self, why: &str) -> CallError {
        CallError::Unavailable {
            message: format!("plugin {}: {why}", self.outlet.plugin()),
        }
    }
}

fn wrong_answer() -> CallError {
    CallError::protocol("wrong_answer", "the answer is not one to this question")
}

fn header(id: u64, call: PhaseCall, length: u64) -> CallHeader {
    CallHeader {
        call: id,
        timeout_ms: remaining_ms(&call),
        run: call.run,
        step: call.step,
        phase: call.phase,
        attempt: call.attempt,
        tenant: call.tenant.map(|tenant| tenant.to_string()),
        criticality: call.criticality,
        idempotency_key: call.idempotency_key.to_string(),
        traceparent: call.trace,
        session: call.session,
        content_type: call.input.content_type,
        length,
    }
}

/// The end of an open call. Dropping it gives the call up.
struct OpenCall {
    connection: Arc<Connection>,
    id: u64,
    ended: bool,
}

impl Future for OpenCall {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let end = self.connection.table().poll(self.id, context);
        self.ended = end.is_ready();
        end
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.ended && self.connection.table().abandon(self.id, Instant::now()) {
            self.connection.untold.notify_one();
            self.connection.abandoned.notify_one();
        }
    }
}
