//! A start that is under way.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::child::Child;
use crate::SpawnError;

type Started = Result<Child, SpawnError>;

/// A start that is under way. Await it, or [`wait`](Self::wait) in code that may
/// block. Dropping it takes the start back: a process that runs already is killed.
#[must_use = "dropping this kills the process"]
pub struct Pending(Arc<Slot>);

/// Where the spawner's thread leaves the result.
pub(super) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Waiting(Option<Waker>),
    Started(Box<Started>),
    /// The result has been taken, or nobody wants it.
    Over,
}

/// The spawner's end of a [`Pending`]. Dropping it without a result is an error
/// at the other end, so that nobody waits for ever.
pub(super) struct Reply {
    slot: Arc<Slot>,
    program: String,
}

impl Pending {
    /// A start nobody has taken on yet, and the end to answer it with.
    pub(super) fn new(program: String) -> (Self, Reply) {
        let slot = Arc::new(Slot {
            state: Mutex::new(State::Waiting(None)),
            changed: Condvar::new(),
        });
        (Self(Arc::clone(&slot)), Reply { slot, program })
    }

    /// Blocks the calling thread until the process runs.
    ///
    /// # Errors
    ///
    /// When the process did not start.
    pub fn wait(self) -> Result<Child, SpawnError> {
        let mut state = self.0.lock();
        loop {
            match mem::replace(&mut *state, State::Over) {
                State::Started(started) => return *started,
                waiting => *state = waiting,
            }
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Pending {
    type Output = Started;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Started> {
        let mut state = self.0.lock();
        match mem::replace(&mut *state, State::Over) {
            State::Started(started) => Poll::Ready(*started),
            State::Waiting(_) => {
                *state = State::Waiting(Some(context.waker().clone()));
                Poll::Pending
            }
            // Polled again after the result: there is nothing more to come.
            State::Over => Poll::Pending,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let unwanted = mem::replace(&mut *self.0.lock(), State::Over);
        // Outside the lock, since it may drop a child.
        drop(unwanted);
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Reply {
    /// Whether nobody waits for the result any more.
    pub(super) fn is_unwanted(&self) -> bool {
        matches!(*self.slot.lock(), State::Over)
    }

    /// Hands over the result. A child that nobody wants is dropped, and so killed.
    pub(super) fn send(self, started: Started) {
        self.slot.finish(started);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if matches!(*self.slot.lock(), State::Waiting(_)) {
            let source = std::io::Error::other("the spawner's thread has ended");
            let program = mem::take(&mut self.program);
            self.slot
                .finish(Err(SpawnError::NoProcess { program, source }));
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, started: Started) {
        let mut state = self.lock();
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Started(Box::new(started));
            drop(state);
            self.changed.notify_all();
            if let Some(waker) = waker {
                waker.wake();
            }
        } else {
            drop(state);
            drop(started);
        }
    }
}
