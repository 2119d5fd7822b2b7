//! What is done about each frame from the host.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    Payload, PhaseReply, Reconciled,
    frame::{CallHeader, Cancel, Chunk, Frame, HealthCheck, Reconcile, ReconcileStatus},
};
use tokio::time::{Instant, sleep_until};

use super::{
    Link, NodeError,
    calls::Calls,
    incoming::Incoming,
    state::{Restoring, give, restore},
};
use crate::{
    Context, Error, Input, Plugin, Reply, Setup, context::Channel, exec::INPUT_BYTES_MAX,
    serve::Served, unwind,
};

/// Reconcile questions that are worked on at once; further ones are answered
/// with "unknown".
const RECONCILES_MAX: usize = 64;

/// A node's side of one connection.
pub(super) struct Connection<P> {
    served: Arc<Served<P>>,
    link: Arc<Link>,
    setup: Arc<Setup>,
    calls: Arc<Calls>,
    receiving: HashMap<u64, Receiving>,
    /// A state that has not arrived in full; one at a time.
    restoring: Option<Restoring>,
    /// When the host stops waiting for open calls, once it said so.
    drain_until: Option<Instant>,
}

/// A call whose input has not arrived in full.
struct Receiving {
    header: CallHeader,
    input: BytesMut,
}

impl<P: Plugin> Connection<P> {
    pub(super) fn new(served: Arc<Served<P>>, link: Arc<Link>, setup: Setup) -> Self {
        Self {
            served,
            link,
            setup: Arc::new(setup),
            calls: Arc::default(),
            receiving: HashMap::new(),
            restoring: None,
            drain_until: None,
        }
    }

    /// Takes frames until the host closes its end, or asked for a drain and no
    /// call is open. Calls that are open when it is dropped end with the
    /// runtime.
    pub(super) async fn listen(&mut self, incoming: &mut Incoming) -> Result<(), NodeError> {
        let calls = self.calls.clone();
        loop {
            while let Some(frame) = incoming.ready()? {
                self.handle(frame)?;
            }
            let drained = self.drain_until.is_some() && self.receiving.is_empty();
            tokio::select! {
                more = incoming.fill() => if !more? {
                    return Ok(());
                },
                () = calls.idle(), if drained => return Ok(()),
                () = reached(self.drain_until) => return Ok(()),
            }
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<(), NodeError> {
        match frame {
            Frame::Call(header, input) => return self.call(header, input),
            Frame::Chunk(chunk, piece) => return self.chunk(chunk, &piece),
            Frame::Cancel(cancel) => self.cancel(cancel),
            Frame::Reconcile(question) => self.reconcile(question),
            Frame::HealthCheck(question) => self.health(question),
            Frame::GetState(question) => give(&self.served, &self.link, &self.calls, question.call),
            Frame::RestoreState(header, state) => {
                let restoring = Restoring::new(header, &state);
                self.restore(restoring)?;
            }
            Frame::HostResult(answer) => self.link.answered(answer),
            Frame::Drain(drain) => {
                let grace = Duration::from_millis(drain.grace_ms);
                self.drain_until = Instant::now().checked_add(grace);
            }
            other => return Err(NodeError::Unwelcome(other.name())),
        }
        Ok(())
    }

    fn call(&mut self, header: CallHeader, input: Bytes) -> Result<(), NodeError> {
        let slots = self.served.info.concurrent_calls as usize;
        if self.calls.count() + self.receiving.len() >= slots {
            return Err(NodeError::OverCredit);
        }
        let (call, length) = (header.call, header.length);
        let arrived = input.len() as u64;
        if arrived > length {
            return Err(NodeError::LongInput { call, length });
        }
        if arrived == length {
            self.start(header, input);
        } else if length > INPUT_BYTES_MAX {
            // Its chunks find nobody and are dropped.
            let limit = INPUT_BYTES_MAX >> 20;
            self.refuse(
                call,
                Error::invalid_input(format_args!("more than {limit} MiB")),
            );
        } else {
            let mut whole = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
            whole.extend_from_slice(&input);
            let input = whole;
            self.receiving.insert(call, Receiving { header, input });
        }
        Ok(())
    }

    fn chunk(&mut self, Chunk { call }: Chunk, piece: &[u8]) -> Result<(), NodeError> {
        if let Some(mut restoring) = self.restoring.take_if(|it| it.is_of(call)) {
            restoring.add(piece);
            return self.restore(restoring);
        }
        // A call that was cancelled meanwhile is gone.
        let Some(receiving) = self.receiving.get_mut(&call) else {
            return Ok(());
        };
        receiving.input.extend_from_slice(piece);
        let length = receiving.header.length;
        let arrived = receiving.input.len() as u64;
        if arrived > length {
            return Err(NodeError::LongInput { call, length });
        }
        if arrived == length
            && let Some(Receiving { header, input }) = self.receiving.remove(&call)
        {
            self.start(header, input.freeze());
        }
        Ok(())
    }

    fn cancel(&mut self, cancel: Cancel) {
        match self.receiving.remove(&cancel.call) {
            Some(_) => self.refuse(cancel.call, no_longer_wanted()),
            None => self.calls.cancel(cancel),
        }
    }

    /// Ends a call that was not started.
    fn refuse(&self, call: u64, error: Error) {
        let link = self.link.clone();
        tokio::spawn(async move { link.reply(call, Err(error), false).await });
    }

    fn start(&self, header: CallHeader, input: Bytes) {
        let call = header.call;
        let input = Input::new(Payload::new(header.content_type.clone(), input));
        let channel = Channel::Node(self.link.clone());
        let context = Context::new(header, self.setup.clone(), channel);
        self.calls.start(call, context.clone());
        let (served, link, calls) = (self.served.clone(), self.link.clone(), self.calls.clone());
        tokio::spawn(async move {
            let outcome = answer(&served, &link, call, input, &context).await;
            let alone = calls.count() == 1;
            link.reply(call, outcome.map(PhaseReply::from), alone).await;
            calls.end(call);
        });
    }

    fn health(&self, HealthCheck { check }: HealthCheck) {
        let (served, link, setup) = (self.served.clone(), self.link.clone(), self.setup.clone());
        tokio::spawn(async move {
            let well = unwind::catch(served.plugin.health(&setup)).await.flatten();
            link.health(check, well.err().map(|error| error.to_string()));
        });
    }

    fn restore(&mut self, restoring: Restoring) -> Result<(), NodeError> {
        match restoring.is_whole()? {
            true => restore(&self.served, &self.link, &self.calls, restoring),
            false => self.restoring = Some(restoring),
        }
        Ok(())
    }

    fn reconcile(&self, question: Reconcile) {
        let known = self
            .served
            .info
            .check_phase(question.phase.as_str())
            .is_ok();
        let counted = known && self.calls.start_reconcile(RECONCILES_MAX);
        let (served, link, calls) = (self.served.clone(), self.link.clone(), self.calls.clone());
        let setup = self.setup.clone();
        tokio::spawn(async move {
            let Reconcile {
                call,
                phase,
                idempotency_key,
            } = question;
            if !counted {
                return link.reconciled(call, ReconcileStatus::Unknown, None).await;
            }
            let asked = served
                .plugin
                .reconcile(phase.as_str(), &idempotency_key, &setup);
            // A panic is no answer, so the plugin cannot tell.
            let (status, reply) = match unwind::catch(asked).await {
                Ok(Reconciled::Done(reply)) => (ReconcileStatus::Done, Some(reply)),
                Ok(Reconciled::NotDone) => (ReconcileStatus::NotDone, None),
                Ok(Reconciled::Unknown) | Err(_) => (ReconcileStatus::Unknown, None),
            };
            link.reconciled(call, status, reply).await;
            calls.end_question();
        });
    }
}

async fn answer<P: Plugin>(
    served: &Served<P>,
    link: &Link,
    call: u64,
    input: Input,
    context: &Context,
) -> Result<Reply, Error> {
    served.info.check_phase(context.phase())?;
    let work = unwind::catch(served.plugin.call(context.phase(), input, context));
    let mut work = pin!(work);
    if let Poll::Ready(outcome) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return outcome.flatten();
    }
    // A call that ends at its first poll says all with its result.
    link.accepted(call);
    tokio::select! {
        biased;
        outcome = work => outcome.flatten(),
        () = context.cancellation().expired() => Err(no_longer_wanted()),
    }
}

fn no_longer_wanted() -> Error {
    Error::cancelled("the host no longer wants the answer")
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
