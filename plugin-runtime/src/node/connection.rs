//! One connection to one process, as its callers see it.
//!
//! A call that is alone goes the short way: its caller writes the frame itself and
//! looks for the answer for a while before it sleeps. Calls that come together share
//! one write by the writer's task and one read by the reader's.

use std::{
    hint,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use orchestrator_contract::{
    CallError, PhaseCall, PhaseName, PhaseReply, Reconciled,
    frame::{
        CallHeader, Cancel, CancelMode, Chunk, Frame, FrameDecoder, GetState, Health, HealthCheck,
        Hello, PAYLOAD_PER_FRAME, Reconcile, ReconcileStatus, RestoreState,
    },
    patience::{LOOKS, ROUNDS},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    task::{coop::consume_budget, yield_now},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    answer::{Answer, Question},
    calls::CallTable,
    intake::{Intake, Read},
    outbox::{Leave, Outbox},
    socket::Socket,
};
use crate::{
    exec::{Waiting, remaining_ms},
    logs::{Origin, escape},
    outlet::Outlet,
    settings::NodeSettings,
};

/// How much is kept of what a plugin says is wrong with it.
const PROBLEM_BYTES_MAX: usize = 1024;

/// One connection to one process.
pub(super) struct Connection {
    pub(super) outlet: Arc<Outlet>,
    pub(super) settings: NodeSettings,
    pub(super) socket: Arc<Socket>,
    pub(super) outbox: Outbox,
    intake: Mutex<Intake>,
    table: Mutex<CallTable>,
    /// Calls that the plugin is ready to take.
    credit: Semaphore,
    /// Calls that wait for credit, of all connections of the plugin.
    waiting: Arc<AtomicU64>,
    /// A caller read something that the reader's task has to see to.
    pub(super) left: Notify,
    /// Questions about its health so far; nothing when it answers none.
    checks: Option<AtomicU64>,
    /// Its last answer to one.
    health: watch::Sender<Health>,
    /// Whether the process hands on what it has, and takes what another had.
    pub(super) keeps_state: bool,
    /// Calls were given up, and the supervisor has to see to it that they end.
    abandoned: Notify,
}

impl Connection {
    /// Goes on with a socket and what its handshake read.
    pub(super) fn new(
        outlet: Arc<Outlet>,
        settings: NodeSettings,
        waiting: Arc<AtomicU64>,
        socket: Socket,
        decoder: FrameDecoder,
        hello: &Hello,
    ) -> Arc<Self> {
        let socket = Arc::new(socket);
        Arc::new(Self {
            outlet,
            table: Mutex::new(CallTable::new(settings.payload_bytes_max)),
            settings,
            outbox: Outbox::new(Arc::clone(&socket)),
            socket,
            intake: Mutex::new(Intake::new(decoder)),
            credit: Semaphore::new(0),
            waiting,
            left: Notify::new(),
            checks: hello.health.then(AtomicU64::default),
            health: watch::Sender::new(Health {
                check: 0,
                problem: None,
            }),
            keeps_state: hello.state,
            abandoned: Notify::new(),
        })
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
        self.outbox.room().await.map_err(|_| self.gone())?;
        let question = Question::Call {
            origin: Origin::of(&call),
            session: call.session,
        };
        let open = self.open(question)?;
        let mut rest = input;
        let first = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
        let length = (first.len() + rest.len()) as u64;
        let frame = Frame::Call(header(open.id, call, length), first);
        let leave = match open.alone && rest.is_empty() {
            true => Leave::Now,
            false => Leave::Gathered,
        };
        let open = self.ask(open, credit, &frame, leave)?;
        self.send_rest(open.id, rest).await;
        let answer = match leave {
            Leave::Now => self.answer_alone(open).await,
            Leave::Gathered => open.await,
        };
        match answer? {
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
        self.outbox.room().await.map_err(|_| self.gone())?;
        let open = self.open(Question::Reconcile)?;
        let frame = Frame::Reconcile(Reconcile {
            call: open.id,
            phase,
            idempotency_key,
        });
        let open = self.ask(open, credit, &frame, Leave::Gathered)?;
        Ok(match open.await? {
            Answer::Reconciled(ReconcileStatus::Done, output) => {
                Reconciled::Done(PhaseReply::new(output))
            }
            Answer::Reconciled(ReconcileStatus::NotDone, _) => Reconciled::NotDone,
            Answer::Reconciled(ReconcileStatus::Unknown, _) => Reconciled::Unknown,
            Answer::Reply(_) => return Err(wrong_answer()),
        })
    }

    /// Asks whether it is well, and waits for its answer. Who answers no such
    /// question is well. Spends no credit, so that a busy plugin can answer.
    pub(super) async fn health(&self) -> Result<(), String> {
        let Some(checks) = &self.checks else {
            return Ok(());
        };
        let check = checks.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.health.subscribe();
        self.send(Frame::HealthCheck(HealthCheck { check })).await;
        // A later answer says more than the one that was asked for.
        let answer = told.wait_for(|health| health.check >= check).await;
        match answer.map(|health| health.problem.clone()) {
            Ok(None) => Ok(()),
            Ok(Some(problem)) => Err(problem),
            Err(_) => Err("its process has just ended".to_owned()),
        }
    }

    /// The plugin says whether it is well.
    ///
    /// # Errors
    ///
    /// When nobody asked.
    pub(super) fn told_health(&self, mut health: Health) -> Result<(), CallError> {
        let asked = self.checks.as_ref();
        let asked = asked.map_or(0, |checks| checks.load(Ordering::Relaxed));
        if health.check == 0 || health.check > asked {
            let message = format!("there was no health check {}", health.check);
            return Err(CallError::protocol("unknown_check", message));
        }
        let bound = |problem: String| escape(problem.as_bytes(), PROBLEM_BYTES_MAX);
        health.problem = health.problem.map(bound);
        self.health.send_replace(health);
        Ok(())
    }

    /// Asks for what the next process needs to go on. Dropping the future gives the
    /// question up.
    pub(super) async fn get_state(self: Arc<Self>) -> Result<Bytes, CallError> {
        let credit = self.take_credit(None).await?;
        self.outbox.room().await.map_err(|_| self.gone())?;
        let open = self.open(Question::State)?;
        let frame = Frame::GetState(GetState { call: open.id });
        let open = self.ask(open, credit, &frame, Leave::Gathered)?;
        match open.await? {
            Answer::Reply(reply) => Ok(reply.output.bytes),
            Answer::Reconciled(..) => Err(wrong_answer()),
        }
    }

    /// Lets the process go on with what an earlier one had. Dropping the future gives
    /// the question up.
    pub(super) async fn restore_state(
        self: Arc<Self>,
        mut state: Bytes,
        from_version: String,
    ) -> Result<(), CallError> {
        let credit = self.take_credit(None).await?;
        self.outbox.room().await.map_err(|_| self.gone())?;
        let open = self.open(Question::State)?;
        let header = RestoreState {
            call: open.id,
            from_version,
            length: state.len() as u64,
        };
        let first = state.split_to(state.len().min(PAYLOAD_PER_FRAME));
        let frame = Frame::RestoreState(header, first);
        let open = self.ask(open, credit, &frame, Leave::Gathered)?;
        self.send_rest(open.id, state).await;
        open.await.map(drop)
    }

    /// Sends a frame that belongs to no call.
    pub(super) async fn send(&self, frame: Frame) {
        if self.outbox.room().await.is_err() {
            return;
        }
        if let Err(error) = self.outbox.push(&frame, Leave::Gathered) {
            let (plugin, frame) = (self.outlet.plugin(), frame.name());
            tracing::warn!(%plugin, frame, %error, "a frame could not be sent");
        }
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
        self.outbox.close();
        for waker in wakers {
            waker.wake();
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, CallTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever holds this may take the table's lock, not the other way round.
    pub(super) fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the frame that begins a call. One that cannot be sent costs no credit.
    fn ask(
        &self,
        open: OpenCall,
        credit: SemaphorePermit<'_>,
        frame: &Frame,
        leave: Leave,
    ) -> Result<OpenCall, CallError> {
        if let Err(error) = self.outbox.push(frame, leave) {
            open.withdraw();
            let message = format!("the call cannot be sent: {error}");
            return Err(CallError::InvalidInput { message });
        }
        credit.forget();
        Ok(open)
    }

    /// Sends what did not fit the first frame, a piece at a time so that other
    /// calls' frames pass in between.
    async fn send_rest(&self, call: u64, mut rest: Bytes) {
        while !rest.is_empty() && !self.table().is_done(call) {
            // When the connection has ended, so has the call.
            if self.outbox.room().await.is_err() {
                return;
            }
            let piece = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
            let chunk = Frame::Chunk(Chunk { call }, piece);
            // A piece is made to fit.
            let _ = self.outbox.push(&chunk, Leave::Gathered);
        }
    }

    /// Waits for the end of a call that is alone. Looks for it for a while where that
    /// pays; whatever this does not find the reader's task takes.
    async fn answer_alone(&self, open: OpenCall) -> Result<Answer, CallError> {
        // Who always finds what it looks for never waits, and would never let other
        // tasks run.
        consume_budget().await;
        if self.intake().patience.looks() {
            self.look(open.id).await;
            return open.await;
        }
        let asleep = Instant::now();
        let answer = open.await;
        self.intake().patience.slept(asleep.elapsed());
        answer
    }

    /// Looks for the end of a call for a while. Dropping the future loses nothing.
    async fn look(&self, call: u64) {
        for _ in 0..ROUNDS {
            for _ in 0..LOOKS {
                let read = self.take_in();
                if self.table().is_done(call) {
                    return self.intake().patience.found();
                }
                match read {
                    Read::End => return,
                    Read::Nothing => hint::spin_loop(),
                    // The reader's task has to run first.
                    Read::Left => break,
                    Read::All | Read::Full => {}
                }
            }
            yield_now().await;
        }
        self.intake().patience.in_vain();
    }

    /// Reads what is there and gives it to whom it belongs, unless somebody else is
    /// at it.
    fn take_in(&self) -> Read {
        let Ok(mut intake) = self.intake.try_lock() else {
            return Read::Nothing;
        };
        let read = intake.read(&self.socket);
        if matches!(read, Read::All | Read::Full) && intake.give_out(self) {
            self.left.notify_one();
        }
        read
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
        let mut table = self.table();
        let id = table.open(question)?;
        Ok(OpenCall {
            connection: Arc::clone(self),
            id,
            alone: table.count() == 1,
            ended: false,
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
    /// No other call was open when it was opened.
    alone: bool,
    ended: bool,
}

impl OpenCall {
    /// Forgets a call that the plugin has not been told of.
    fn withdraw(mut self) {
        self.ended = true;
        self.connection.table().withdraw(self.id);
    }
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
        if self.ended || !self.connection.table().abandon(self.id, Instant::now()) {
            return;
        }
        let cancel = Frame::Cancel(Cancel {
            call: self.id,
            mode: CancelMode::Cooperative,
        });
        // Always fits. It waits for no room: there is at most one for each call.
        let _ = self.connection.outbox.push(&cancel, Leave::Gathered);
        self.connection.abandoned.notify_one();
    }
}

#[cfg(test)]
mod tests;
