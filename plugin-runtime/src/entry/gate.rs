//! Who uses a plugin, and how calls are kept out of one that takes over.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::OwnedMutexGuard;

use super::Entry;

/// Keeps calls out of a plugin that is started. Dropped without a decision it ends
/// the plugin.
pub(crate) struct Gate {
    entry: Arc<Entry>,
    decided: bool,
    _starting: OwnedMutexGuard<()>,
}

impl Gate {
    /// Lets in the calls that wait, and all others.
    pub(crate) fn let_in(mut self) {
        self.decided = true;
    }

    /// Ends the plugin; calls that wait are made to `other`.
    pub(crate) fn send_to(self, other: &Arc<Entry>) {
        // Set once: nobody is let in after this.
        let _ = self.entry.instead.set(Arc::clone(other));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.decided {
            self.entry.close();
        }
        // Whoever waits goes on once the lock is given back, which comes after this.
        self.entry.gated.store(false, Ordering::Release);
    }
}

impl Entry {
    /// Lets no call in until what is returned says so. Calls wait.
    pub(crate) async fn gate(self: &Arc<Self>) -> Gate {
        let starting = Arc::clone(&self.starting).lock_owned().await;
        self.gated.store(true, Ordering::Release);
        Gate {
            entry: Arc::clone(self),
            decided: false,
            _starting: starting,
        }
    }

    /// Whether calls can be made without asking further.
    pub(super) fn lets_in(&self) -> bool {
        self.life.is_running() && !self.gated.load(Ordering::Acquire)
    }

    /// Counts a handle. Whoever calls this sees to it that the plugin can still be
    /// found meanwhile.
    pub(crate) fn used(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn no_longer_used(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Handles that count.
    pub(crate) fn users(&self) -> u64 {
        self.users.load(Ordering::Acquire)
    }

    /// Waits until no call is in flight.
    pub(crate) async fn idle(&self) {
        self.until(|| self.in_flight() == 0).await;
    }

    /// Waits until nobody holds a handle that counts.
    pub(crate) async fn unused(&self) {
        self.until(|| self.users() == 0).await;
    }

    /// Waits until it is out of use for good, or out of service.
    pub(crate) async fn done(&self) {
        let is_done = || self.users() == 0 && self.in_flight() == 0;
        self.until(|| is_done() || self.life.is_out_of_service())
            .await;
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            notified.as_mut().enable();
            if holds() {
                return;
            }
            notified.await;
        }
    }
}
