//! The calls that a node works on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use orchestrator_contract::frame::Cancel;
use tokio::sync::{Notify, oneshot};

use crate::Context;

/// The calls that a node works on, and how many questions of the host.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Mutex<Open>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Open {
    calls: HashMap<u64, Context>,
    questions: usize,
    states: HashMap<u64, oneshot::Sender<()>>,
}

impl Open {
    fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.questions == 0
    }
}

impl Calls {
    pub(super) fn count(&self) -> usize {
        self.open().calls.len()
    }

    pub(super) fn start(&self, call: u64, context: Context) {
        self.open().calls.insert(call, context);
    }

    pub(super) fn end(&self, call: u64) {
        let mut open = self.open();
        open.calls.remove(&call);
        self.note(&open);
    }

    /// Counts one more reconcile question unless `max` are open.
    pub(super) fn start_reconcile(&self, max: usize) -> bool {
        let mut open = self.open();
        let free = open.questions < max;
        open.questions += usize::from(free);
        free
    }

    /// Counts a question about the state. What is returned ends when the host takes
    /// the question back.
    pub(super) fn start_state(&self, call: u64) -> oneshot::Receiver<()> {
        let (taken_back, is_taken_back) = oneshot::channel();
        let mut open = self.open();
        open.questions += 1;
        open.states.insert(call, taken_back);
        is_taken_back
    }

    pub(super) fn end_state(&self, call: u64) {
        self.open().states.remove(&call);
        self.end_question();
    }

    pub(super) fn end_question(&self) {
        let mut open = self.open();
        open.questions -= 1;
        self.note(&open);
    }

    /// Tells a call that it is no longer wanted; it may have ended already.
    pub(super) fn cancel(&self, cancel: Cancel) {
        let mut open = self.open();
        open.states.remove(&cancel.call);
        if let Some(context) = open.calls.get(&cancel.call) {
            context.cancellation().cancel(cancel.mode);
        }
    }

    /// Resolves when nothing is open. Dropping it has no effect.
    pub(super) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Listens before it looks, so that no end is missed.
            idle.as_mut().enable();
            if self.open().is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn note(&self, open: &Open) {
        if open.is_empty() {
            self.idle.notify_waiters();
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
