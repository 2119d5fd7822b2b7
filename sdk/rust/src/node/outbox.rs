//! Frames on their way to the host.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use orchestrator_contract::frame::{Credit, Frame, FrameError};
use tokio::sync::Notify;

/// Above this, who can wait does, and who cannot is refused.
const FULL_BYTES: usize = 512 * 1024;

/// Frames on their way to the host, already encoded. What gathers between two
/// writes leaves in one.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    ready: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    /// Credit that was not written yet, so that a batch carries it once.
    credit: u32,
    closed: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.credit == 0
    }
}

impl Outbox {
    /// Adds a frame. Whoever sends much waits for [`Self::room`] first.
    ///
    /// # Errors
    ///
    /// When the frame is too long; nothing is added then.
    pub(super) fn push(&self, frame: &Frame) -> Result<(), FrameError> {
        self.change(|queue| frame.encode(&mut queue.bytes))
    }

    /// Adds a frame unless too much waits already; says whether it did.
    pub(super) fn offer(&self, frame: &Frame) -> bool {
        self.change(|queue| {
            queue.bytes.len() < FULL_BYTES && frame.encode(&mut queue.bytes).is_ok()
        })
    }

    /// Allows the host `calls` more calls.
    pub(super) fn credit(&self, calls: u32) {
        self.change(|queue| queue.credit += calls);
    }

    /// Lets [`Self::take`] end once everything is taken.
    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.ready.notify_one();
    }

    /// Resolves when there is room for more. Dropping it has no effect.
    pub(super) async fn room(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Listens before it looks, so that no room is missed.
            room.as_mut().enable();
            if self.queue().bytes.len() < FULL_BYTES {
                return;
            }
            room.await;
        }
    }

    /// Waits for bytes and moves all of them into `batch`, which must be empty;
    /// `false` when closed and empty. For one caller at a time.
    pub(super) async fn take(&self, batch: &mut BytesMut) -> bool {
        loop {
            {
                let mut queue = self.queue();
                if !queue.is_empty() {
                    std::mem::swap(&mut queue.bytes, batch);
                    let calls = std::mem::take(&mut queue.credit);
                    if calls > 0 {
                        // A header of one number always fits.
                        let _ = Frame::Credit(Credit { calls }).encode(batch);
                    }
                    break;
                }
                if queue.closed {
                    return false;
                }
            }
            self.ready.notified().await;
        }
        self.room.notify_waiters();
        true
    }

    fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let was_empty = queue.is_empty();
        let outcome = change(&mut queue);
        if was_empty && !queue.is_empty() {
            self.ready.notify_one();
        }
        outcome
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orchestrator_contract::frame::{Chunk, FrameDecoder};
    use tokio::time::timeout;

    use super::*;

    fn chunk(bytes: usize) -> Frame {
        Frame::Chunk(Chunk { call: 1 }, vec![0; bytes].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_carries_everything_and_its_credit_once() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(&chunk(1)).unwrap();
            outbox.credit(1);
        }
        let mut batch = BytesMut::new();
        assert!(outbox.take(&mut batch).await);
        let mut decoder = FrameDecoder::new();
        decoder.push(&batch);
        for _ in 0..3 {
            assert_eq!(decoder.next().unwrap(), Some(chunk(1)));
        }
        let credit = Frame::Credit(Credit { calls: 3 });
        assert_eq!(decoder.next().unwrap(), Some(credit));
        assert_eq!(decoder.pending(), 0);

        batch.clear();
        let waiting = timeout(Duration::from_secs(1), outbox.take(&mut batch)).await;
        assert!(waiting.is_err(), "nothing was there to take");
        outbox.close();
        assert!(!outbox.take(&mut batch).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_outbox_makes_some_wait_and_refuses_others() {
        let outbox = Outbox::default();
        assert!(outbox.offer(&chunk(FULL_BYTES)));
        assert!(!outbox.offer(&chunk(1)));
        let waiting = timeout(Duration::from_secs(1), outbox.room()).await;
        assert!(waiting.is_err(), "there was no room");
        let mut batch = BytesMut::new();
        let (_, taken) = tokio::join!(outbox.room(), outbox.take(&mut batch));
        assert!(taken);
        assert!(outbox.offer(&chunk(1)));
    }
}
