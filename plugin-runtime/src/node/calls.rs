//! The calls that are open on one connection: which answer belongs to whom, and
//! which answers are faults. Plain data; the connection puts a lock around it.

use std::{
    mem,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{CallError, frame::ResultHeader};
use slab::Slab;
use tokio::time::Instant;

use super::answer::{Answer, Question, answer};

/// How much of a long output is made room for before its bytes arrive.
const RESERVE_BYTES: u64 = 1 << 20;
/// The bits of a call's number that name its place in the table.
const SLOT_BITS: u32 = 16;

/// The calls that are open on one connection.
#[derive(Debug)]
pub(super) struct CallTable {
    open: Slab<OpenCall>,
    /// Counts every call of the connection; numbers are never used twice.
    sequence: u64,
    payload_max: u64,
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
            closed: None,
        }
    }

    /// How many calls are open, also those whose answer waits to be taken.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// How many calls the plugin has. One that it has answered is no longer
    /// its, also while the answer waits to be taken.
    pub(super) fn with_plugin(&self) -> usize {
        let answered = |call: &OpenCall| matches!(call.state, State::Done(_));
        self.open.iter().filter(|(_, call)| !answered(call)).count()
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

    /// What a call asked that the plugin has not answered yet.
    pub(super) fn question(&self, id: u64) -> Result<&Question, Missing> {
        let call = self.open.get(slot_of(id)).filter(|call| call.id == id);
        match call {
            Some(call) if !matches!(call.state, State::Done(_)) => Ok(&call.question),
            _ => Err(self.missing(id)),
        }
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

    /// Forgets a call that the plugin was never told of.
    pub(super) fn withdraw(&mut self, id: u64) {
        if self.open.get(slot_of(id)).is_some_and(|call| call.id == id) {
            self.open.remove(slot_of(id));
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
        true
    }

    /// When the first of the calls that were given up must have ended.
    pub(super) fn first_overdue(&self, grace: Duration) -> Option<Instant> {
        let given_up = self.open.iter().filter_map(|(_, call)| match call.state {
            // Who does not answer that in time goes on serving.
            State::Abandoned(_) if matches!(call.question, Question::State) => None,
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use orchestrator_contract::{ErrorKind, TraceContext};

    use super::*;
    use crate::logs::Origin;

    fn call() -> Question {
        let origin = Origin {
            run: "00000000000000000000000001".parse().unwrap(),
            step: "s".into(),
            trace: TraceContext::from_random(1, 1, false),
        };
        let session = "00000000000000000000000002".parse().unwrap();
        Question::Call { origin, session }
    }

    fn rule(error: &CallError) -> &str {
        match error {
            CallError::Protocol { rule, .. } => rule,
            other => panic!("{other:?}"),
        }
    }

    fn output(table: &mut CallTable, id: u64) -> Bytes {
        match table.poll(id, &Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Answer::Reply(reply))) => reply.output.bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_never_used_twice_although_places_are() {
        let mut table = CallTable::new(100);
        let first = table.open(call()).unwrap();
        table
            .result(ResultHeader::of(first, 1), Bytes::from_static(b"1"))
            .unwrap();
        assert_eq!(output(&mut table, first), "1");
        let second = table.open(call()).unwrap();
        assert_eq!(slot_of(first), slot_of(second));
        assert_ne!(first, second);
        let late = table
            .result(ResultHeader::of(first, 0), Bytes::new())
            .unwrap_err();
        assert_eq!(rule(&late), "second_reply");
        let never = table.result(ResultHeader::of(second + (1 << 20), 0), Bytes::new());
        assert_eq!(rule(&never.unwrap_err()), "unknown_call");
    }

    #[test]
    fn a_second_result_is_a_fault_even_before_the_first_was_fetched() {
        let mut table = CallTable::new(100);
        let id = table.open(call()).unwrap();
        table
            .result(ResultHeader::of(id, 1), Bytes::from_static(b"1"))
            .unwrap();
        let again = table.result(ResultHeader::of(id, 1), Bytes::from_static(b"2"));
        assert_eq!(rule(&again.unwrap_err()), "second_reply");
        assert_eq!(output(&mut table, id), "1");
    }

    #[test]
    fn chunks_make_up_an_output_of_exactly_the_stated_length() {
        let mut table = CallTable::new(6);
        let id = table.open(call()).unwrap();
        let early = table.chunk(id, &Bytes::from_static(b"x")).unwrap_err();
        assert_eq!(rule(&early), "unexpected_chunk");
        table
            .result(ResultHeader::of(id, 6), Bytes::from_static(b"ab"))
            .unwrap();
        table.chunk(id, &Bytes::from_static(b"cd")).unwrap();
        table.chunk(id, &Bytes::from_static(b"ef")).unwrap();
        assert_eq!(output(&mut table, id), "abcdef");

        let id = table.open(call()).unwrap();
        table
            .result(ResultHeader::of(id, 2), Bytes::from_static(b"a"))
            .unwrap();
        let long = table.chunk(id, &Bytes::from_static(b"bc")).unwrap_err();
        assert_eq!(rule(&long), "length_mismatch");
        let huge = table.open(call()).unwrap();
        let huge = table
            .result(ResultHeader::of(huge, 7), Bytes::new())
            .unwrap_err();
        assert_eq!(huge.kind(), ErrorKind::ResourceLimit);
    }

    #[test]
    fn a_call_given_up_keeps_its_place_until_the_plugin_answers() {
        let mut table = CallTable::new(100);
        let (id, other) = (table.open(call()).unwrap(), table.open(call()).unwrap());
        let now = Instant::now();
        assert!(table.abandon(id, now));
        let grace = Duration::from_secs(1);
        assert_eq!(table.first_overdue(grace), Some(now + grace));
        table
            .result(ResultHeader::of(id, 4), Bytes::from_static(b"ab"))
            .unwrap();
        assert_eq!(table.with_plugin(), 2);
        table.chunk(id, &Bytes::from_static(b"cd")).unwrap();
        assert_eq!((table.with_plugin(), table.first_overdue(grace)), (1, None));
        // Answered before its caller left: nobody has to be told.
        table
            .result(ResultHeader::of(other, 0), Bytes::new())
            .unwrap();
        assert!(!table.abandon(other, now));
        assert_eq!(table.with_plugin(), 0);
    }

    #[test]
    fn closing_ends_what_waits_and_keeps_what_was_answered() {
        let mut table = CallTable::new(100);
        let (done, open) = (table.open(call()).unwrap(), table.open(call()).unwrap());
        table
            .result(ResultHeader::of(done, 1), Bytes::from_static(b"1"))
            .unwrap();
        let (why, after) = (CallError::transient("why"), CallError::transient("after"));
        table.close(&why, &after);
        assert_eq!(output(&mut table, done), "1");
        let ended = table.poll(open, &Context::from_waker(Waker::noop()));
        assert_eq!(ended, Poll::Ready(Err(why)));
        assert_eq!(table.open(call()), Err(after));
    }
}
