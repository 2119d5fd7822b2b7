//! Frames from the host.

use orchestrator_contract::frame::{Frame, FrameDecoder};
use tokio::{io::AsyncReadExt, net::unix::OwnedReadHalf};

use super::NodeError;

/// How much is read at once, at most.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this a read is not worth its system call.
const ROOM_BYTES_MIN: usize = 8 * 1024;

/// Frames from the host.
pub(super) struct Incoming {
    socket: OwnedReadHalf,
    decoder: FrameDecoder,
}

impl Incoming {
    pub(super) fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            decoder: FrameDecoder::new(),
        }
    }

    /// Waits for bytes; `false` at the end of the stream. Dropping it loses
    /// nothing.
    pub(super) async fn fill(&mut self) -> Result<bool, NodeError> {
        let buffer = self.decoder.buffer();
        if buffer.capacity() - buffer.len() < ROOM_BYTES_MIN {
            buffer.reserve(READ_BYTES);
        }
        if self.socket.read_buf(buffer).await? > 0 {
            return Ok(true);
        }
        match self.decoder.pending() {
            0 => Ok(false),
            bytes => Err(NodeError::HalfFrame(bytes)),
        }
    }

    /// The next frame of what has been read.
    pub(super) fn ready(&mut self) -> Result<Option<Frame>, NodeError> {
        Ok(self.decoder.next()?)
    }

    /// Waits for a frame; `None` at the end of the stream. Dropping it loses
    /// nothing.
    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, NodeError> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }
}
