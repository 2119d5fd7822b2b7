//! The calls that a node works on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use orchestrator_contract::frame::Cancel;
use tokio::sync::Notify;

use crate::Context;

/// The calls that a node works on, and how many reconcile questions.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Mutex<Open>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Open {
    calls: HashMap<u64, Context>,
    reconciles: usize,
}

impl Open {
    fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.reconciles == 0
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
        let free = open.reconciles < max;
        open.reconciles += usize::from(free);
        free
    }

    pub(super) fn end_reconcile(&self) {
        let mut open = self.open();
        open.reconciles -= 1;
        self.note(&open);
    }

    /// Tells a call that it is no longer wanted; it may have ended already.
    pub(super) fn cancel(&self, cancel: Cancel) {
        if let Some(context) = self.open().calls.get(&cancel.call) {
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
