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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orchestrator_contract::{
        Criticality, NoEvents, NoHost, Payload, PhaseCall, RunId, SessionId, TraceContext,
        frame::{FrameDecoder, PAYLOAD_PER_FRAME},
    };
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;
    use crate::{
        outlet::Outlet,
        settings::{LogSettings, NodeSettings},
    };

    fn connection() -> (Arc<Connection>, Outgoing) {
        let (events, host) = (Arc::new(NoEvents), Arc::new(NoHost));
        let outlet = Outlet::new("p".into(), events, host, &LogSettings::default());
        Connection::new(Arc::new(outlet), NodeSettings::default(), Arc::default())
    }

    fn call(input: Payload) -> PhaseCall {
        PhaseCall {
            run: RunId::from_parts(1, 1),
            step: "s".into(),
            plugin: "p".into(),
            phase: "x".into(),
            attempt: 1,
            tenant: None,
            criticality: Criticality::Critical,
            deadline: None,
            idempotency_key: "k".into(),
            trace: TraceContext::from_random(1, 1, false),
            session: SessionId::from_parts(1, 1),
            input,
        }
    }

    /// The first frames that come out.
    async fn frames(mut stream: tokio::io::DuplexStream, count: usize) -> Vec<Frame> {
        let mut decoder = FrameDecoder::new();
        let mut frames = Vec::new();
        while frames.len() < count {
            match decoder.next().unwrap() {
                Some(frame) => frames.push(frame),
                None => assert!(stream.read_buf(decoder.buffer()).await.unwrap() > 0),
            }
        }
        frames
    }

    /// A call given up before anything was written is still sent first: a plugin must
    /// never be told to cancel a call it has not seen.
    #[tokio::test(start_paused = true)]
    async fn cancel_comes_behind_its_call_and_its_chunks() {
        let (connection, queue) = connection();
        connection.add_credit(1).unwrap();
        let input = Payload::text("x".repeat(2 * PAYLOAD_PER_FRAME));
        let given_up = timeout(
            Duration::from_millis(1),
            Arc::clone(&connection).call(call(input)),
        );
        assert!(given_up.await.is_err());
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let writer = tokio::spawn(write(connection, queue, ours));
        let seen = timeout(Duration::from_secs(5), frames(theirs, 3))
            .await
            .unwrap();
        let names: Vec<_> = seen.iter().map(Frame::name).collect();
        assert_eq!(names, ["Call", "Chunk", "Cancel"]);
        writer.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_header_is_too_long_fails_alone() {
        let (connection, queue) = connection();
        connection.add_credit(2).unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let writer = tokio::spawn(write(Arc::clone(&connection), queue, ours));
        let mut long = call(Payload::null());
        long.idempotency_key = "k".repeat(70_000).into();
        let error = Arc::clone(&connection).call(long).await.unwrap_err();
        assert_eq!(error.kind(), orchestrator_contract::ErrorKind::InvalidInput);
        let other = tokio::spawn(connection.call(call(Payload::null())));
        let seen = timeout(Duration::from_secs(5), frames(theirs, 1))
            .await
            .unwrap();
        assert_eq!(seen[0].name(), "Call");
        other.abort();
        writer.abort();
    }
}
