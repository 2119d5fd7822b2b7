//! The slots of a bulkhead, and the queue for them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Sleep;

use super::BulkheadConfig;
use crate::{
    admission::Call,
    clock,
    config::ConfigError,
    permits::{Join, Permits, Ticket},
    refusal::Refusal,
    striped::{STRIPES, thread_number},
    sync::{AtomicU64, AtomicUsize, Ordering},
};

/// The slots and the queue before them. Clones share both.
#[derive(Clone, Debug)]
pub struct Bulkhead(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    permits: Permits,
    max_queue: AtomicUsize,
    /// In nanoseconds.
    max_wait: AtomicU64,
}

/// What a bulkhead holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkheadSnapshot {
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls waiting.
    pub queued: usize,
}

/// A slot that is taken, and free again when this is dropped.
#[derive(Debug)]
#[must_use = "the slot is free again when this is dropped"]
pub struct Slot(Bulkhead);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.leave(thread_number());
    }
}

/// A place in the queue, and how long it lasts. Waiting is the exception, so
/// it may cost an allocation.
#[derive(Debug)]
pub(super) struct Wait {
    ticket: Ticket,
    patience: Pin<Box<Sleep>>,
}

impl Bulkhead {
    /// A bulkhead with every slot free.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: BulkheadConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self(Arc::new(Shared {
            permits: Permits::new(config.max_concurrent.get(), 0, *STRIPES),
            max_queue: AtomicUsize::new(config.max_queue),
            max_wait: AtomicU64::new(clock::nanos(config.max_wait)),
        })))
    }

    /// Changes the bounds. Calls in flight and calls that wait stay: a lower
    /// limit holds once enough calls have ended, a shorter wait or queue is
    /// for calls to come.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; the bounds are then what they were.
    pub fn reconfigure(&self, config: BulkheadConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let (queue, wait) = (&self.0.max_queue, &self.0.max_wait);
        self.0.permits.resize(config.max_concurrent.get(), 0, || {
            queue.store(config.max_queue, Ordering::Relaxed);
            wait.store(clock::nanos(config.max_wait), Ordering::Relaxed);
        });
        Ok(())
    }

    /// What it holds now. Exact while no call enters or leaves.
    #[must_use]
    pub fn snapshot(&self) -> BulkheadSnapshot {
        BulkheadSnapshot {
            in_flight: self.0.permits.taken(),
            queued: self.0.permits.queued(),
        }
    }

    /// Takes a free slot without waiting, for work that is no tower service.
    /// Those who wait come first: a slot that they are due is not free.
    #[must_use]
    pub fn try_enter(&self) -> Option<Slot> {
        self.enter(thread_number()).then(|| Slot(self.clone()))
    }

    #[inline]
    pub(super) fn enter(&self, thread: usize) -> bool {
        self.0.permits.take(thread, 0)
    }

    #[inline]
    pub(super) fn leave(&self, thread: usize) {
        self.0.permits.give_back(thread);
    }

    fn overloaded(&self) -> Refusal {
        Refusal::Overloaded {
            limit: self.0.permits.limit(),
            queued: self.0.permits.queued(),
        }
    }

    /// Joins the queue for a call that found no slot, or takes one that came
    /// free meanwhile.
    pub(super) fn wait(
        &self,
        call: &mut Call,
        cx: &mut Context<'_>,
    ) -> Result<Option<Wait>, Refusal> {
        let max_queue = self.0.max_queue.load(Ordering::Relaxed);
        if max_queue == 0 {
            return Err(self.overloaded());
        }
        let max_wait = Duration::from_nanos(self.0.max_wait.load(Ordering::Relaxed));
        let left = (call.deadline().at() - clock::now()).min(max_wait);
        if left.is_zero() {
            return Err(self.overloaded());
        }
        match self.0.permits.join(max_queue, cx.waker()) {
            Join::Taken => Ok(None),
            Join::Full => Err(self.overloaded()),
            Join::Queued(ticket) => Ok(Some(Wait {
                ticket,
                patience: Box::pin(tokio::time::sleep(left)),
            })),
        }
    }

    /// Ready when the call has its slot, or has waited long enough.
    pub(super) fn poll_wait(
        &self,
        wait: &mut Wait,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if self.0.permits.is_served(wait.ticket, cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        ready!(wait.patience.as_mut().poll(cx));
        let refusal = self.overloaded();
        let left = self.0.permits.leave(wait.ticket);
        Poll::Ready(if left { Err(refusal) } else { Ok(()) })
    }

    /// Gives up a place in the queue, and the slot if there was one after all.
    #[cold]
    #[inline(never)]
    #[expect(
        clippy::boxed_local,
        reason = "it is dropped here, off the way of most calls"
    )]
    pub(super) fn give_up(&self, wait: Box<Wait>) {
        if !self.0.permits.leave(wait.ticket) {
            self.leave(thread_number());
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::num::NonZeroUsize;

    use loom::{model, thread};

    use super::*;

    /// Two operators, or one whose file is read again while a request comes.
    #[test]
    fn of_two_changes_at_once_one_holds_and_no_mixture() {
        model(|| {
            let config = |max_concurrent, max_queue, max_wait| BulkheadConfig {
                max_concurrent: NonZeroUsize::new(max_concurrent).unwrap(),
                max_queue,
                max_wait,
            };
            let waits = config(2, 9, Duration::from_nanos(1_000_000));
            let bulkhead = Bulkhead::new(waits.clone()).unwrap();
            let other = {
                let bulkhead = bulkhead.clone();
                thread::spawn(move || bulkhead.reconfigure(waits).unwrap())
            };
            bulkhead.reconfigure(config(1, 0, Duration::ZERO)).unwrap();
            other.join().unwrap();

            let limit = bulkhead.0.permits.limit();
            let queue = bulkhead.0.max_queue.load(Ordering::Relaxed);
            let wait = bulkhead.0.max_wait.load(Ordering::Relaxed);
            assert!([(1, 0, 0), (2, 9, 1_000_000)].contains(&(limit, queue, wait)));
        });
    }
}
