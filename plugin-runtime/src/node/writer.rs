//! Sends frames: as many as wait in one write.

use std::{io, sync::Arc};

use bytes::BytesMut;
use orchestrator_contract::{
    CallError,
    frame::{Cancel, CancelMode, Frame, FrameError},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::connection::{Connection, Outgoing};

/// No further frame is put into a write that is as long as this.
const WRITE_BYTES: usize = 256 << 10;
/// A buffer that grew larger is not kept.
const KEEP_BYTES: usize = 1 << 20;

/// Sends what is in `queue` until the connection ends.
///
/// # Errors
///
/// When the other end is closed.
pub(super) async fn write(
    connection: Arc<Connection>,
    mut queue: Outgoing,
    mut stream: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        // What was given up by now was put into the queue before, so a `Cancel`
        // behind all that waits there comes behind its `Call`.
        let (cancelled, first) = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => (Vec::new(), Some(frame)),
                None => return Ok(()),
            },
            () = connection.untold.notified() => (connection.table().take_untold(), None),
        };
        let mut ahead = queue.len();
        if let Some(frame) = first {
            encode(&connection, &frame, &mut buffer);
        }
        while buffer.len() < WRITE_BYTES || (ahead > 0 && !cancelled.is_empty()) {
            let Ok(frame) = queue.try_recv() else { break };
            ahead = ahead.saturating_sub(1);
            encode(&connection, &frame, &mut buffer);
            if buffer.len() >= WRITE_BYTES {
                flush(&mut stream, &mut buffer).await?;
            }
        }
        for call in cancelled {
            let mode = CancelMode::Cooperative;
            encode(
                &connection,
                &Frame::Cancel(Cancel { call, mode }),
                &mut buffer,
            );
        }
        flush(&mut stream, &mut buffer).await?;
    }
}

async fn flush(stream: &mut (impl AsyncWrite + Unpin), buffer: &mut BytesMut) -> io::Result<()> {
    if !buffer.is_empty() {
        stream.write_all(buffer).await?;
    }
    match buffer.capacity() > KEEP_BYTES {
        true => *buffer = BytesMut::new(),
        false => buffer.clear(),
    }
    Ok(())
}

/// Appends a frame. A call whose header does not fit a frame fails; other frames of
/// the host have headers that fit.
fn encode(connection: &Connection, frame: &Frame, buffer: &mut BytesMut) {
    let Err(error) = frame.encode(buffer) else {
        return;
    };
    match frame {
        Frame::Call(header, _) => fail(connection, header.call, &error),
        Frame::Reconcile(question) => fail(connection, question.call, &error),
        frame => {
            let (plugin, frame) = (connection.outlet.plugin(), frame.name());
            tracing::warn!(%plugin, frame, %error, "a frame could not be sent");
        }
    }
}

fn fail(connection: &Connection, call: u64, error: &FrameError) {
    let message = format!("the call cannot be sent: {error}");
    let waker = connection
        .table()
        .fail(call, CallError::InvalidInput { message });
    if let Some(waker) = waker {
        waker.wake();
    }
}
