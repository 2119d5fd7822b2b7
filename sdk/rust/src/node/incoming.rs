//! Frames from the host.

use std::{hint, io::ErrorKind, sync::Arc};

use orchestrator_contract::{
    frame::{Frame, FrameDecoder},
    patience::{LOOKS, Patience, ROUNDS},
};
use tokio::{task::yield_now, time::Instant};

use super::{NodeError, socket::Socket};

/// How much is read at once, at most.
const READ_BYTES: usize = 64 * 1024;

/// Frames from the host.
pub(super) struct Incoming {
    socket: Arc<Socket>,
    decoder: FrameDecoder,
    space: Box<[u8]>,
    patience: Patience,
}

impl Incoming {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            decoder: FrameDecoder::new(),
            space: vec![0; READ_BYTES].into(),
            patience: Patience::default(),
        }
    }

    /// Waits for bytes; `false` at the end of the stream. Dropping it loses
    /// nothing.
    pub(super) async fn fill(&mut self) -> Result<bool, NodeError> {
        let read = match self.patience.looks() {
            true => match self.look().await {
                Some(read) => read,
                None => self.socket.read(&mut self.space).await?,
            },
            false => {
                let asleep = Instant::now();
                let read = self.socket.read(&mut self.space).await?;
                self.patience.slept(asleep.elapsed());
                read
            }
        };
        if read > 0 {
            self.decoder.push(&self.space[..read]);
            return Ok(true);
        }
        match self.decoder.pending() {
            0 => Ok(false),
            bytes => Err(NodeError::HalfFrame(bytes)),
        }
    }

    /// Looks for bytes for a while. The calls that were read before run first.
    async fn look(&mut self) -> Option<usize> {
        for _ in 0..ROUNDS {
            yield_now().await;
            for _ in 0..LOOKS {
                match self.socket.try_read(&mut self.space) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => hint::spin_loop(),
                    Err(_) => return None,
                    Ok(read) => {
                        self.patience.found();
                        return Some(read);
                    }
                }
            }
        }
        self.patience.in_vain();
        None
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
