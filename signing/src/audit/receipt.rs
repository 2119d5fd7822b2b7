//! Tells one caller when its record is durable.

use std::{
    future::Future,
    path::Path,
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
    is_answered: bool,
    waker: Option<Waker>,
}

/// Resolves to the record's number once it is durable: await it, or
/// [`wait`](Receipt::wait). Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "the record is durable only when this says so"]
pub struct Receipt(Arc<Slot>);

/// The writer's end. One that is dropped unkept, as when the writer panics,
/// tells whoever waits that nothing was recorded.
#[derive(Debug)]
pub(super) struct Promise {
    slot: Arc<Slot>,
    /// The folder of the log.
    log: Arc<Path>,
}

pub(super) fn promise(log: &Arc<Path>) -> (Promise, Receipt) {
    let slot = Arc::new(Slot::default());
    let promise = Promise {
        slot: Arc::clone(&slot),
        log: Arc::clone(log),
    };
    (promise, Receipt(slot))
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the one answer; what comes later changes nothing.
    fn answer(&self, answer: impl FnOnce() -> Result<u64, AuditError>) {
        let waker = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.is_answered, true) {
                return;
            }
            state.answer = Some(answer());
            state.waker.take()
        };
        self.ready.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Promise {
    pub(super) fn keep(self, answer: Result<u64, AuditError>) {
        self.slot.answer(|| answer);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.slot.answer(|| {
            Err(AuditError::NotRecorded {
                path: self.log.display().to_string(),
                reason: "what writes the log has stopped".to_owned(),
            })
        });
    }
}

impl Receipt {
    /// Blocks until the record is durable.
    ///
    /// # Errors
    ///
    /// When it is not, and will not become so: it may be recorded again. After
    /// [`AuditError::Uncertain`] alone it may be there all the same.
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
