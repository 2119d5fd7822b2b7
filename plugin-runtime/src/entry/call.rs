//! A call in flight.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use orchestrator_contract::{CallError, PhaseReply};

use super::Entry;
use crate::BoxFuture;

/// Counts a call while it lives.
pub(super) struct InFlight(Arc<Entry>);

impl InFlight {
    pub(super) fn enter(entry: &Arc<Entry>) -> Self {
        entry.calls.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(entry))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// A call in flight. Dropping it cancels the call: a process of kind `exec` is
/// ended, a plugin of kind `node` is told.
#[must_use = "a call does nothing until it is awaited"]
pub struct CallFuture {
    answer: Result<BoxFuture<'static, Result<PhaseReply, CallError>>, Option<CallError>>,
    _in_flight: InFlight,
}

impl CallFuture {
    pub(super) fn new(
        answer: BoxFuture<'static, Result<PhaseReply, CallError>>,
        in_flight: InFlight,
    ) -> Self {
        Self {
            answer: Ok(answer),
            _in_flight: in_flight,
        }
    }

    pub(super) fn refused(error: CallError, in_flight: InFlight) -> Self {
        Self {
            answer: Err(Some(error)),
            _in_flight: in_flight,
        }
    }
}

impl Future for CallFuture {
    type Output = Result<PhaseReply, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.answer {
            Ok(answer) => answer.as_mut().poll(context),
            Err(refusal) => match refusal.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}
