//! Tells one caller when its record is durable.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use super::error::AuditError;

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<u64, AuditError>>,
    waker: Option<Waker>,
}

/// Resolves to the record's number once it is durable: await it, or
/// [`wait`](Receipt::wait). Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "the record is durable only when this says so"]
pub struct Receipt(Arc<Slot>);

/// The writer's end.
#[derive(Debug)]
pub(super) struct Promise(Arc<Slot>);

pub(super) fn promise() -> (Promise, Receipt) {
    let slot = Arc::new(Slot::default());
    (Promise(Arc::clone(&slot)), Receipt(slot))
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    pub(super) fn keep(self, answer: Result<u64, AuditError>) {
        let waker = {
            let mut state = self.0.lock();
            state.answer = Some(answer);
            state.waker.take()
        };
        self.0.ready.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Receipt {
    /// Blocks until the record is durable.
    ///
    /// # Errors
    ///
    /// When it is not, and will not become so: it may be recorded again.
    pub fn wait(self) -> Result<u64, AuditError> {
        let mut state = self.0.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                return answer;
            }
            state = self
                .0
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Receipt {
    type Output = Result<u64, AuditError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match state.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
