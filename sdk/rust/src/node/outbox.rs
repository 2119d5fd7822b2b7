//! Frames on their way to the host.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, BytesMut};
use orchestrator_contract::frame::{Credit, Frame, FrameError};
use tokio::sync::Notify;

use super::socket::Socket;

/// Above this, who can wait does, and who cannot is refused.
const FULL_BYTES: usize = 512 * 1024;
/// A buffer that grew larger is not kept.
const KEEP_BYTES: usize = 1024 * 1024;

/// Frames on their way to the host, already encoded, in the order in which they
/// leave. What gathers between two writes leaves in one; the end of a call that is
/// alone is written by the call itself.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: Arc<Socket>,
    queue: Mutex<Queue>,
    ready: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    /// Credit that was not written yet, so that a batch carries it once.
    credit: u32,
    /// The writer has bytes that come before all of these.
    writing: bool,
    closed: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.credit == 0
    }

    fn encode_credit(&mut self) {
        let calls = std::mem::take(&mut self.credit);
        if calls > 0 {
            // A header of one number always fits.
            let _ = Frame::Credit(Credit { calls }).encode(&mut self.bytes);
        }
    }

    /// Writes what the socket takes. An error is left for the writer to meet.
    fn write(&mut self, socket: &Socket) {
        self.encode_credit();
        match socket.try_write(&self.bytes) {
            Ok(count) if count == self.bytes.len() => self.bytes.clear(),
            Ok(count) => self.bytes.advance(count),
            Err(_) => {}
        }
    }
}

impl Outbox {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            queue: Mutex::default(),
            ready: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Adds a frame. Whoever sends much waits for [`Self::room`] first.
    ///
    /// # Errors
    ///
    /// When the frame is too long; nothing is added then.
    pub(super) fn push(&self, frame: &Frame) -> Result<(), FrameError> {
        self.change(|queue| frame.encode(&mut queue.bytes))
    }

    /// Adds the frame that ends a call, and the credit for the next one. Both are
    /// written at once when nothing is ahead of them and the call is `alone`.
    ///
    /// # Errors
    ///
    /// When the frame is too long; nothing is added then.
    pub(super) fn push_end(&self, frame: &Frame, alone: bool) -> Result<(), FrameError> {
        self.change(|queue| {
            let first = queue.is_empty() && !queue.writing;
            frame.encode(&mut queue.bytes)?;
            queue.credit += 1;
            if first && alone {
                queue.write(&self.socket);
            }
            Ok(())
        })
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

    /// Lets [`Self::write`] end once everything is written.
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

    /// Writes what is not written at once. Ends when the outbox is closed and
    /// everything is written, and closes the socket for writing then.
    ///
    /// # Errors
    ///
    /// When the host has closed its end.
    pub(super) async fn write(&self) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while self.take(&mut batch).await {
            self.socket.write_all(&batch).await?;
            match batch.capacity() > KEEP_BYTES {
                true => batch = BytesMut::new(),
                false => batch.clear(),
            }
        }
        self.socket.shut_down()
    }

    /// Waits for bytes and moves all of them into `batch`, which must be empty;
    /// `false` when closed and empty. What was in the batch before must have been
    /// written.
    pub(super) async fn take(&self, batch: &mut BytesMut) -> bool {
        loop {
            {
                let mut queue = self.queue();
                queue.writing = !queue.is_empty();
                if queue.writing {
                    queue.encode_credit();
                    std::mem::swap(&mut queue.bytes, batch);
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
    use std::{os::unix::net::UnixStream, time::Duration};

    use orchestrator_contract::frame::{Chunk, FrameDecoder};
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// An outbox whose socket takes a few kilobytes, and the host's end.
    fn outbox() -> (Arc<Outbox>, tokio::net::UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = Arc::new(Socket::new(ours).unwrap());
        let theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
        (Arc::new(Outbox::new(socket)), theirs)
    }

    fn chunk(call: u64, bytes: usize) -> Frame {
        Frame::Chunk(Chunk { call }, vec![0; bytes].into())
    }

    fn credit(calls: u32) -> Frame {
        Frame::Credit(Credit { calls })
    }

    fn write(outbox: &Arc<Outbox>) -> tokio::task::JoinHandle<io::Result<()>> {
        let outbox = Arc::clone(outbox);
        tokio::spawn(async move { outbox.write().await })
    }

    async fn frames(stream: &mut tokio::net::UnixStream, count: usize) -> Vec<Frame> {
        let mut decoder = FrameDecoder::new();
        let read = async {
            let mut frames = Vec::new();
            while frames.len() < count {
                match decoder.next().unwrap() {
                    Some(frame) => frames.push(frame),
                    None => assert!(stream.read_buf(decoder.buffer()).await.unwrap() > 0),
                }
            }
            frames
        };
        timeout(PATIENCE, read).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_carries_everything_and_its_credit_once() {
        let (outbox, mut theirs) = outbox();
        outbox.push(&chunk(1, 1)).unwrap();
        for _ in 0..2 {
            outbox.push_end(&chunk(1, 1), false).unwrap();
        }
        // Something is ahead of it.
        outbox.push_end(&chunk(1, 1), true).unwrap();
        assert!(theirs.try_read(&mut [0]).is_err(), "nobody wrote yet");
        let writer = write(&outbox);
        let batch = frames(&mut theirs, 5).await;
        assert!(batch[..4].iter().all(|frame| *frame == chunk(1, 1)));
        assert_eq!(batch[4], credit(3));

        outbox.close();
        timeout(PATIENCE, writer).await.unwrap().unwrap().unwrap();
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_end_of_a_call_alone_leaves_at_once_with_its_credit() {
        let (outbox, mut theirs) = outbox();
        outbox.push_end(&chunk(1, 1), true).unwrap();
        assert_eq!(frames(&mut theirs, 2).await, [chunk(1, 1), credit(1)]);
        let writer = write(&outbox);
        let nothing = timeout(Duration::from_millis(20), theirs.read(&mut [0])).await;
        assert!(nothing.is_err(), "it was written twice");
        writer.abort();
    }

    #[tokio::test]
    async fn what_a_full_socket_did_not_take_follows_in_order() {
        let (outbox, mut theirs) = outbox();
        outbox.push_end(&chunk(1, 100_000), true).unwrap();
        let left = outbox.queue().bytes.len();
        assert!((1..100_000).contains(&left), "{left} bytes are left");
        let writer = write(&outbox);
        tokio::task::yield_now().await;
        // The writer has bytes that come first.
        outbox.push_end(&chunk(2, 10), true).unwrap();
        outbox.push(&chunk(3, 10)).unwrap();
        let all = frames(&mut theirs, 5).await;
        let parts = [
            chunk(1, 100_000),
            credit(1),
            chunk(2, 10),
            chunk(3, 10),
            credit(1),
        ];
        assert!(all == parts, "the stream is garbled");
        writer.abort();
    }

    #[tokio::test]
    async fn a_large_batch_leaves_no_large_buffer_behind() {
        let (outbox, mut theirs) = outbox();
        for _ in 0..4 {
            outbox.push(&chunk(1, FULL_BYTES)).unwrap();
        }
        let writer = write(&outbox);
        frames(&mut theirs, 4).await;
        // The writer's buffer and the queue's change places with every batch.
        for call in 2..4 {
            outbox.push(&chunk(call, 1)).unwrap();
            frames(&mut theirs, 1).await;
            let kept = outbox.queue().bytes.capacity();
            assert!(kept <= KEEP_BYTES, "{kept} bytes are kept");
        }
        writer.abort();
    }

    #[tokio::test]
    async fn a_full_outbox_makes_some_wait_and_refuses_others() {
        let (outbox, mut theirs) = outbox();
        assert!(outbox.offer(&chunk(1, FULL_BYTES)));
        assert!(!outbox.offer(&chunk(1, 1)));
        let waiting = timeout(Duration::from_millis(20), outbox.room()).await;
        assert!(waiting.is_err(), "there was no room");
        let writer = write(&outbox);
        let (room, _) = tokio::join!(timeout(PATIENCE, outbox.room()), frames(&mut theirs, 1));
        room.unwrap();
        assert!(outbox.offer(&chunk(1, 1)));
        writer.abort();
    }
}
