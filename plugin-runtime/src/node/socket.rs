//! The host's end of the socket to a plugin.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

/// The host's end of the socket to a plugin.
///
/// It is registered for reading alone. Were it registered for writing too, the
/// kernel would wake this process whenever the plugin has read something.
#[derive(Debug)]
pub(super) struct Socket {
    stream: AsyncFd<UnixStream>,
    /// The same socket under the number that [`Self::write_all`] waits with.
    twin: UnixStream,
}

impl Socket {
    /// Needs a tokio runtime.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let twin = stream.try_clone()?;
        let stream = register(stream, Interest::READABLE)?;
        Ok(Self { stream, twin })
    }

    /// Waits until there may be something to read. Whoever then finds nothing more
    /// clears what this returns, or the next wait ends at once.
    pub(super) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, UnixStream>> {
        self.stream.readable().await
    }

    /// Waits for bytes and reads them; 0 at the end of the stream. Dropping the
    /// future loses nothing.
    pub(super) async fn read(&self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.readable().await?;
            let read = self.try_read(space);
            match &read {
                // Less than fits is all there was, as far as the kernel has told.
                Ok(count) if *count < space.len() => ready.clear_ready(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
                _ => {}
            }
            return read;
        }
    }

    /// Reads what is there; 0 at the end of the stream, an error of kind
    /// `WouldBlock` when nothing is there.
    pub(super) fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        match retry(|| self.stream.get_ref().read(space)) {
            // A plugin that ends before it has read everything is gone like any other.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
            read => read,
        }
    }

    /// Writes as much as there is room for; an error of kind `WouldBlock` when
    /// there is none.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| self.stream.get_ref().write(bytes))
    }

    /// Writes all of `bytes`. Dropping the future leaves them half written.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut room: Option<AsyncFd<BorrowedFd<'_>>> = None;
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let room = match &mut room {
                        Some(room) => room,
                        none => none.insert(register(self.twin.as_fd(), Interest::WRITABLE)?),
                    };
                    room.writable().await?.clear_ready();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that change or close their descriptor; both that \
              are registered here keep theirs"
)]
fn register<T: AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
