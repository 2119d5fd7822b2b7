//! The calls that are open on one connection: which answer belongs to whom, and
//! which answers are faults. Plain data; the connection puts a lock around it.

use std::{
    mem,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    CallError, Payload, PhaseReply, SessionId,
    frame::{ReconcileStatus, ResultHeader},
};
use slab::Slab;
use tokio::time::Instant;

use crate::logs::Origin;

/// Payloads up to this size are copied out of the read buffer, so that a small
/// output that is kept does not keep a large buffer.
const COPY_BYTES: usize = 16 << 10;
/// How much of a long output is made room for before its bytes arrive.
const RESERVE_BYTES: u64 = 1 << 20;
/// The bits of a call's number that name its place in the table.
const SLOT_BITS: u32 = 16;

/// What a plugin answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Reply(PhaseReply),
    Reconciled(ReconcileStatus, Payload),
}

/// What was asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Call { origin: Origin, session: SessionId },
    Reconcile,
}

/// The calls that are open on one connection.
#[derive(Debug)]
pub(super) struct CallTable {
    open: Slab<OpenCall>,
    /// Counts every call of the connection; numbers are never used twice.
    sequence: u64,
    payload_max: u64,
    /// Calls given up whose plugin has not been told yet.
    untold: Vec<u64>,
    closed: Option<CallError>,
}

#[derive(Debug)]
struct OpenCall {
    id: u64,
    question: Question,
    state: State,
    partial: Option<Partial>,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Done(Result<Answer, CallError>),
    /// Given up by its caller; the plugin still has it.
    Abandoned(Instant),
}

/// An output of which more is to come.
#[derive(Debug)]
struct Partial {
    header: ResultHeader,
    bytes: BytesMut,
    received: u64,
}

/// What a number stands for that no open call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The call has ended.
    Ended,
    /// There never was such a call.
    Never,
}

impl CallTable {
    pub(super) fn new(payload_max: u64) -> Self {
        Self {
            open: Slab::new(),
            sequence: 0,
            payload_max,
            untold: Vec::new(),
            closed: None,
        }
    }

    /// How many calls the plugin has.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens a call and returns its number.
    ///
    /// # Errors
    ///
    /// Why the connection has ended, when it has.
    pub(super) fn open(&mut self, question: Question) -> Result<u64, CallError> {
        if let Some(error) = &self.closed {
            return Err(error.clone());
        }
        self.sequence += 1;
        let slot = self.open.vacant_entry();
        let id = (self.sequence << SLOT_BITS) | slot.key() as u64;
        slot.insert(OpenCall {
            id,
            question,
            state: State::Waiting(None),
            partial: None,
        });
        Ok(id)
    }

    /// What an open call asked.
    pub(super) fn question(&self, id: u64) -> Result<&Question, Missing> {
        let call = self.open.get(slot_of(id)).filter(|call| call.id == id);
        call.map(|call| &call.question)
            .ok_or_else(|| self.missing(id))
    }

    /// Takes a result, or its beginning. Returns whom to wake.
    ///
    /// # Errors
    ///
    /// When the plugin broke a rule; the connection has to end then.
    pub(super) fn result(
        &mut self,
        header: ResultHeader,
        payload: Bytes,
    ) -> Result<Option<Waker>, CallError> {
        let (id, length, max) = (header.call, header.length, self.payload_max);
        if let Err(missing) = self.question(id) {
            return Err(missing.fault(id, "result"));
        }
        let call = &mut self.open[slot_of(id)];
        if call.partial.is_some() {
            return Err(Missing::Ended.fault(id, "result"));
        }
        if length > max {
            return Err(CallError::ResourceLimit {
                resource: "output".to_owned(),
                message: format!("an output of {length} bytes, {max} allowed"),
            });
        }
        let received = payload.len() as u64;
        if received > length || (header.error.is_some() && length > 0) {
            return Err(mismatch(id, length, received));
        }
        if received == length {
            return Ok(self.finish(id, header, payload));
        }
        let mut bytes = BytesMut::new();
        if !matches!(call.state, State::Abandoned(_)) {
            bytes.reserve(usize::try_from(length.min(RESERVE_BYTES)).unwrap_or_default());
            bytes.extend_from_slice(&payload);
        }
        call.partial = Some(Partial {
            header,
            bytes,
            received,
        });
        Ok(None)
    }

    /// Takes more of an output. Returns whom to wake.
    ///
    /// # Errors
    ///
    /// When the plugin broke a rule; the connection has to end then.
    pub(super) fn chunk(&mut self, id: u64, payload: &Bytes) -> Result<Option<Waker>, CallError> {
        if let Err(missing) = self.question(id) {
            return Err(missing.fault(id, "chunk"));
        }
        let call = &mut self.open[slot_of(id)];
        let Some(mut partial) = call.partial.take() else {
            return Err(CallError::protocol(
                "unexpected_chunk",
                format!("a chunk for call {id} before its result"),
            ));
        };
        partial.received += payload.len() as u64;
        let length = partial.header.length;
        if partial.received > length {
            return Err(mismatch(id, length, partial.received));
        }
        if !matches!(call.state, State::Abandoned(_)) {
            partial.bytes.extend_from_slice(payload);
        }
        if partial.received < length {
            call.partial = Some(partial);
            return Ok(None);
        }
        Ok(self.finish(id, partial.header, partial.bytes.freeze()))
    }

    /// Ends a call without an answer of the plugin, before it was told of the call.
    pub(super) fn fail(&mut self, id: u64, error: CallError) -> Option<Waker> {
        let call = self
            .open
            .get_mut(slot_of(id))
            .filter(|call| call.id == id)?;
        match mem::replace(&mut call.state, State::Done(Err(error))) {
            State::Waiting(waker) => waker,
            State::Done(_) => None,
            State::Abandoned(_) => {
                self.open.remove(slot_of(id));
                None
            }
        }
    }

    /// Gives out the end of a call, once.
    pub(super) fn poll(
        &mut self,
        id: u64,
        context: &Context<'_>,
    ) -> Poll<Result<Answer, CallError>> {
        let Some(call) = self.open.get_mut(slot_of(id)).filter(|call| call.id == id) else {
            return Poll::Pending;
        };
        match &mut call.state {
            State::Waiting(Some(waker)) => waker.clone_from(context.waker()),
            State::Waiting(none) => *none = Some(context.waker().clone()),
            State::Abandoned(_) => {}
            State::Done(_) => {
                let call = self.open.remove(slot_of(id));
                if let State::Done(end) = call.state {
                    return Poll::Ready(end);
                }
            }
        }
        Poll::Pending
    }

    /// Whether a call has ended, so that nothing more has to be sent for it.
    pub(super) fn is_done(&self, id: u64) -> bool {
        let call = self.open.get(slot_of(id)).filter(|call| call.id == id);
        call.is_none_or(|call| matches!(call.state, State::Done(_)))
    }

    /// The caller gives the call up. Returns whether the plugin has to be told.
    pub(super) fn abandon(&mut self, id: u64, now: Instant) -> bool {
        let Some(call) = self.open.get_mut(slot_of(id)).filter(|call| call.id == id) else {
            return false;
        };
        if matches!(call.state, State::Done(_)) {
            self.open.remove(slot_of(id));
            return false;
        }
        call.state = State::Abandoned(now);
        if let Some(partial) = &mut call.partial {
            partial.bytes = BytesMut::new();
        }
        self.untold.push(id);
        true
    }

    /// The calls given up since this was last asked that the plugin still has.
    pub(super) fn take_untold(&mut self) -> Vec<u64> {
        let mut untold = mem::take(&mut self.untold);
        untold.retain(|id| self.question(*id).is_ok());
        untold
    }

    /// When the first of the calls that were given up must have ended.
    pub(super) fn first_overdue(&self, grace: Duration) -> Option<Instant> {
        let given_up = self.open.iter().filter_map(|(_, call)| match call.state {
            State::Abandoned(since) => Some(since + grace),
            _ => None,
        });
        given_up.min()
    }

    /// Ends every call with `error`. Returns whom to wake.
    pub(super) fn close(&mut self, error: &CallError, after: &CallError) -> Vec<Waker> {
        if self.closed.is_some() {
            return Vec::new();
        }
        self.closed = Some(after.clone());
        let mut wakers = Vec::new();
        self.open.retain(|_, call| {
            match mem::replace(&mut call.state, State::Abandoned(Instant::now())) {
                State::Waiting(waker) => {
                    wakers.extend(waker);
                    call.state = State::Done(Err(error.clone()));
                    true
                }
                done @ State::Done(_) => {
                    call.state = done;
                    true
                }
                State::Abandoned(_) => false,
            }
        });
        wakers
    }

    fn finish(&mut self, id: u64, header: ResultHeader, payload: Bytes) -> Option<Waker> {
        let call = &mut self.open[slot_of(id)];
        let end = answer(&call.question, header, payload);
        match mem::replace(&mut call.state, State::Done(end)) {
            State::Waiting(waker) => waker,
            State::Done(_) => None,
            State::Abandoned(_) => {
                self.open.remove(slot_of(id));
                None
            }
        }
    }

    fn missing(&self, id: u64) -> Missing {
        match (1..=self.sequence).contains(&(id >> SLOT_BITS)) {
            true => Missing::Ended,
            false => Missing::Never,
        }
    }
}

impl Missing {
    /// The rule that a plugin breaks when it answers such a call.
    pub(super) fn fault(self, id: u64, frame: &str) -> CallError {
        match self {
            Self::Ended => CallError::protocol(
                "second_reply",
                format!("a {frame} for call {id}, which has ended"),
            ),
            Self::Never => CallError::protocol(
                "unknown_call",
                format!("a {frame} for call {id}, which was never made"),
            ),
        }
    }
}

fn slot_of(id: u64) -> usize {
    (id & ((1 << SLOT_BITS) - 1)) as usize
}

fn mismatch(id: u64, length: u64, received: u64) -> CallError {
    CallError::protocol(
        "length_mismatch",
        format!("the output of call {id} has {received} bytes or more, its result says {length}"),
    )
}

fn answer(question: &Question, header: ResultHeader, payload: Bytes) -> Result<Answer, CallError> {
    if let Some(error) = header.error {
        return Err(as_plugins_own(error));
    }
    let bytes = match payload.len() <= COPY_BYTES {
        true => Bytes::copy_from_slice(&payload),
        false => payload,
    };
    let output = Payload::new(header.content_type, bytes);
    match (question, header.reconcile) {
        (Question::Call { .. }, None) => Ok(Answer::Reply(PhaseReply {
            output,
            metadata: header.metadata,
            usage: header.usage,
        })),
        (Question::Reconcile, Some(status)) => Ok(Answer::Reconciled(status, output)),
        (Question::Call { .. }, Some(_)) => Err(CallError::protocol(
            "wrong_answer",
            "a call was answered like a reconcile question",
        )),
        (Question::Reconcile, None) => Err(CallError::protocol(
            "wrong_answer",
            "a reconcile question was answered like a call",
        )),
    }
}

/// A plugin speaks for itself. Kinds that say what the host did, and that policies
/// would therefore treat as no fault of the plugin, become what they mean when a
/// plugin says them.
fn as_plugins_own(error: CallError) -> CallError {
    let message = error.to_string();
    match error {
        CallError::RateLimited { retry_after_ms } | CallError::CircuitOpen { retry_after_ms } => {
            CallError::PluginTransient {
                message,
                retry_after_ms: Some(retry_after_ms),
            }
        }
        CallError::Overloaded { .. }
        | CallError::Unavailable { .. }
        | CallError::Timeout { .. } => CallError::transient(message),
        CallError::Crash { .. } | CallError::Protocol { .. } => CallError::Unknown { message },
        own => own,
    }
}
