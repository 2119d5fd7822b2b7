//! A connection whose client may be slow to read, but not for ever.
//!
//! Two limits, because either alone can be played with: one for a client that
//! takes nothing at all, one for a client that takes so little that it never
//! has what was sent to it. A stream of events may go on as long as its client
//! keeps up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// How slow a client may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// With taking anything.
    pub(super) idle: Duration,
    /// With taking all there is.
    pub(super) whole: Duration,
}

/// How far a client is behind.
#[derive(Debug)]
struct Pace {
    patience: Patience,
    behind: Option<Behind>,
}

#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Instant,
    last_took: Instant,
}

impl Pace {
    /// The client takes nothing right now; returns until when that is borne.
    fn stuck(&mut self, now: Instant) -> Instant {
        let behind = *self.behind.get_or_insert(Behind {
            since: now,
            last_took: now,
        });
        (behind.last_took + self.patience.idle).min(behind.since + self.patience.whole)
    }

    /// The client took something.
    fn took(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(behind) = &mut self.behind {
            behind.last_took = now();
        }
    }

    /// The client took everything.
    fn has_all(&mut self) {
        self.behind = None;
    }
}

/// A stream whose writes fail once its reader was too slow.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    /// Made for the first client that makes us wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        Self {
            stream,
            pace: Pace {
                patience,
                behind: None,
            },
            timer: None,
        }
    }

    /// What a write comes to, in time.
    fn paced<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.pace.took(Instant::now);
            return written;
        }
        let deadline = self.pace.stuck(Instant::now());
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.paced(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever flushes has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        let flushed = ready!(self.paced(context, flushed));
        self.pace.has_all();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.paced(context, closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::sleep,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Room for 8 bytes, 3 s to take something, 10 s to take everything.
    fn pair() -> (Paced<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(8);
        let patience = Patience {
            idle: 3 * SECOND,
            whole: 10 * SECOND,
        };
        (Paced::new(near, patience), far)
    }

    /// Writes and flushes; returns how that ended and how long it took.
    async fn send(near: &mut Paced<DuplexStream>, bytes: &[u8]) -> (io::Result<()>, Duration) {
        let begun = Instant::now();
        let sent = async {
            near.write_all(bytes).await?;
            near.flush().await
        };
        (sent.await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut near, _far) = pair();
        let (sent, took) = send(&mut near, &[0; 9]).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(took.as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_little_is_given_up_later() {
        let (mut near, mut far) = pair();
        tokio::spawn(async move {
            loop {
                sleep(2 * SECOND).await;
                far.read_u8().await.unwrap();
            }
        });
        let (sent, took) = send(&mut near, &[0; 100]).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(took.as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_up_may_take_any_time() {
        let (mut near, mut far) = pair();
        tokio::spawn(async move {
            let mut buffer = [0; 9];
            loop {
                sleep(2 * SECOND).await;
                far.read_exact(&mut buffer).await.unwrap();
            }
        });
        for _ in 0..20 {
            send(&mut near, &[0; 9]).await.0.unwrap();
            sleep(5 * SECOND).await;
        }
    }
}
