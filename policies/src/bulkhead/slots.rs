//! The slots of a bulkhead, and the queue for them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::BulkheadConfig;
use crate::{
    clock::{self, Instant},
    config::ConfigError,
    deadline::Deadline,
    refusal::Refusal,
};

/// The slots and the queue before them. Clones share both.
#[derive(Clone, Debug)]
pub struct Bulkhead(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: BulkheadConfig,
    slots: Arc<Semaphore>,
    queued: AtomicUsize,
}

/// What a bulkhead holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkheadSnapshot {
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls waiting.
    pub queued: usize,
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
struct Queued(Bulkhead);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wait for a slot. Waiting is the exception, so it may cost an allocation.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, Refusal>> + Send>>;

impl Bulkhead {
    /// A bulkhead with every slot free.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: BulkheadConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let slots = Arc::new(Semaphore::new(config.max_concurrent.get()));
        Ok(Self(Arc::new(Shared {
            config,
            slots,
            queued: AtomicUsize::new(0),
        })))
    }

    /// What it holds now.
    #[must_use]
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let limit = self.0.config.max_concurrent.get();
        BulkheadSnapshot {
            in_flight: limit - self.0.slots.available_permits(),
            queued: self.queued(),
        }
    }

    fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed)
    }

    /// Takes a free slot. Those who wait come first: a slot that they are due
    /// is not free.
    pub(super) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.slots).try_acquire_owned().ok()
    }

    fn overloaded(&self) -> Refusal {
        Refusal::Overloaded {
            limit: self.0.config.max_concurrent.get(),
            queued: self.queued(),
        }
    }

    fn join_queue(&self) -> Option<Queued> {
        let max = self.0.config.max_queue;
        self.0
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                (queued < max).then_some(queued + 1)
            })
            .ok()
            .map(|_| Queued(self.clone()))
    }

    /// Waits for a slot, at most until the caller leaves.
    pub(super) fn wait(&self, now: Instant, deadline: Deadline) -> Result<Wait, Refusal> {
        let patience = clock::after(now, self.0.config.max_wait);
        let until = deadline.at().min(patience);
        if until <= now {
            return Err(self.overloaded());
        }
        let Some(place) = self.join_queue() else {
            return Err(self.overloaded());
        };
        Ok(Box::pin(async move {
            let slot = Arc::clone(&place.0.0.slots).acquire_owned();
            match tokio::time::timeout(until - now, slot).await {
                Ok(Ok(slot)) => Ok(slot),
                // The semaphore is never closed, so time is up.
                Ok(Err(_)) | Err(_) => Err(place.0.overloaded()),
            }
        }))
    }
}
