//! Frames on their way to a plugin: their order, their bounds, and who writes them.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf, BytesMut};
use orchestrator_contract::frame::{Frame, FrameError};
use tokio::sync::Notify;

use super::socket::Socket;

/// Above this, who adds a frame waits first.
const FULL_BYTES: usize = 512 << 10;
/// A buffer that grew larger is not kept.
const KEEP_BYTES: usize = 1 << 20;

/// Frames on their way to a plugin, already encoded. They leave in the order in
/// which they were added: written by whoever adds one that nothing waits ahead of,
/// and otherwise by the writer, which sends all that gathered at once.
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
    /// The writer has bytes that come before all of these.
    writing: bool,
    closed: bool,
}

/// When a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// At once, when nothing is ahead of it and the socket has room.
    Now,
    /// With what others add before the writer's turn.
    Gathered,
}

/// The connection has ended.
#[derive(Debug)]
pub(super) struct Closed;

impl Outbox {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            queue: Mutex::default(),
            ready: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Resolves when there is room for more. Who adds a frame in the same poll keeps
    /// the bound to within a frame a thread. Dropping the future has no effect.
    ///
    /// # Errors
    ///
    /// When the connection has ended, and then nobody wants frames.
    pub(super) async fn room(&self) -> Result<(), Closed> {
        while !self.has_room()? {
            let mut room = std::pin::pin!(self.room.notified());
            // Listens before it looks again, so that no room is missed.
            room.as_mut().enable();
            if !self.has_room()? {
                room.await;
            }
        }
        Ok(())
    }

    fn has_room(&self) -> Result<bool, Closed> {
        let queue = self.queue();
        match queue.closed {
            true => Err(Closed),
            false => Ok(queue.bytes.len() < FULL_BYTES),
        }
    }

    /// Adds a frame behind all others. Never waits, also not for a full socket.
    ///
    /// # Errors
    ///
    /// When the frame is too long; nothing is added then.
    pub(super) fn push(&self, frame: &Frame, leave: Leave) -> Result<(), FrameError> {
        let mut queue = self.queue();
        if queue.closed {
            return Ok(());
        }
        let first = queue.bytes.is_empty();
        frame.encode(&mut queue.bytes)?;
        if first && !queue.writing && leave == Leave::Now {
            queue.write(&self.socket);
        }
        if first && !queue.bytes.is_empty() {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Drops what waits and lets go whoever waits.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.bytes = BytesMut::new();
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// Writes what is not written at once. Ends when the outbox is closed.
    ///
    /// # Errors
    ///
    /// When the other end is closed.
    pub(super) async fn write(&self) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while self.take(&mut batch).await {
            self.socket.write_all(&batch).await?;
            match batch.capacity() > KEEP_BYTES {
                true => batch = BytesMut::new(),
                false => batch.clear(),
            }
        }
        Ok(())
    }

    /// Waits for bytes and moves all of them into `batch`, which must be empty;
    /// `false` when closed. What was in the batch before must have been written.
    async fn take(&self, batch: &mut BytesMut) -> bool {
        loop {
            {
                let mut queue = self.queue();
                if queue.closed {
                    return false;
                }
                queue.writing = !queue.bytes.is_empty();
                if queue.writing {
                    std::mem::swap(&mut queue.bytes, batch);
                    break;
                }
            }
            self.ready.notified().await;
        }
        self.room.notify_waiters();
        true
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Writes what the socket takes. An error is left for the writer to meet.
    fn write(&mut self, socket: &Socket) {
        match socket.try_write(&self.bytes) {
            Ok(count) if count == self.bytes.len() => self.bytes.clear(),
            Ok(count) => self.bytes.advance(count),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use orchestrator_contract::frame::{Chunk, FrameDecoder};
    use rustix::net::sockopt::set_socket_send_buffer_size;
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// An outbox whose socket takes a few kilobytes, and the other end.
    fn outbox() -> (Arc<Outbox>, tokio::net::UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        set_socket_send_buffer_size(&ours, 1).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = Arc::new(Socket::new(ours).unwrap());
        let theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
        (Arc::new(Outbox::new(socket)), theirs)
    }

    fn chunk(call: u64, bytes: usize) -> Frame {
        let fill = call as u8;
        Frame::Chunk(Chunk { call }, vec![fill; bytes].into())
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
    async fn a_frame_leaves_at_once_or_with_others() {
        let (outbox, mut theirs) = outbox();
        outbox.push(&chunk(1, 10), Leave::Now).unwrap();
        assert_eq!(frames(&mut theirs, 1).await, [chunk(1, 10)]);
        outbox.push(&chunk(2, 10), Leave::Gathered).unwrap();
        // Something is ahead of it now.
        outbox.push(&chunk(3, 10), Leave::Now).unwrap();
        let mut space = [0];
        assert!(theirs.try_read(&mut space).is_err(), "nobody wrote yet");
        let writer = write(&outbox);
        let both = [chunk(2, 10), chunk(3, 10)];
        assert_eq!(frames(&mut theirs, 2).await, both);
        outbox.close();
        timeout(PATIENCE, writer).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_a_full_socket_did_not_take_follows_in_order() {
        let (outbox, mut theirs) = outbox();
        outbox.push(&chunk(1, 100_000), Leave::Now).unwrap();
        let left = outbox.queue().bytes.len();
        assert!((1..100_000).contains(&left), "{left} bytes are left");
        outbox.push(&chunk(2, 10), Leave::Now).unwrap();
        let writer = write(&outbox);
        tokio::task::yield_now().await;
        outbox.push(&chunk(3, 10), Leave::Now).unwrap();
        let all = [chunk(1, 100_000), chunk(2, 10), chunk(3, 10)];
        assert!(frames(&mut theirs, 3).await == all, "the stream is garbled");
        drop(theirs);
        outbox.push(&chunk(4, 10), Leave::Now).unwrap();
        let gone = timeout(PATIENCE, writer).await.unwrap().unwrap();
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn frames_of_many_threads_stay_whole_and_each_ones_in_order() {
        const THREADS: u64 = 4;
        const FRAMES: u64 = 500;
        let (outbox, mut theirs) = outbox();
        let writer = write(&outbox);
        for thread in 0..THREADS {
            let outbox = Arc::clone(&outbox);
            tokio::spawn(async move {
                for n in 0..FRAMES {
                    let leave = match (n + thread) % 3 {
                        0 => Leave::Gathered,
                        _ => Leave::Now,
                    };
                    outbox.room().await.unwrap();
                    let call = (thread << 32) + n;
                    outbox.push(&chunk(call, n as usize * 5), leave).unwrap();
                }
            });
        }
        let mut next = [0; THREADS as usize];
        for frame in frames(&mut theirs, (THREADS * FRAMES) as usize).await {
            let Frame::Chunk(Chunk { call }, bytes) = frame else {
                panic!("{frame:?}");
            };
            let (thread, n) = ((call >> 32) as usize, call & 0xffff_ffff);
            assert_eq!(n, next[thread], "thread {thread}");
            assert_eq!(bytes.len() as u64, n * 5);
            next[thread] += 1;
        }
        outbox.close();
        timeout(PATIENCE, writer).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_full_outbox_makes_wait_until_it_is_written_or_closed() {
        let (outbox, mut theirs) = outbox();
        outbox.push(&chunk(1, FULL_BYTES), Leave::Gathered).unwrap();
        let waiting = timeout(Duration::from_millis(50), outbox.room()).await;
        assert!(waiting.is_err(), "there was no room");
        let writer = write(&outbox);
        let (room, _) = tokio::join!(timeout(PATIENCE, outbox.room()), frames(&mut theirs, 1));
        room.unwrap().unwrap();
        writer.abort();
        outbox.push(&chunk(2, FULL_BYTES), Leave::Gathered).unwrap();
        let (room, ()) = tokio::join!(timeout(PATIENCE, outbox.room()), async {
            tokio::task::yield_now().await;
            outbox.close();
        });
        assert!(room.unwrap().is_err());
    }
}
