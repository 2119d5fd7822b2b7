//! Takes frames from a plugin and gives each to whom it belongs.

use std::{io, sync::Arc};

use orchestrator_contract::{
    CallError, HostCallError, LogStream, SessionId,
    frame::{Frame, FrameDecoder, HEADER_MAX, HostCall, HostResult},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::JoinSet,
};

use super::{answer::Question, calls::Missing, connection::Connection};

/// Room made for one read.
const READ_BYTES: usize = 64 << 10;
/// Less room than this is not worth a read.
const READ_BYTES_MIN: usize = 8 << 10;
/// Questions of one plugin to the host that may be open at once.
const HOST_CALLS_MAX: usize = 256;
/// The largest answer to such a question: a header with some room for its frame.
const HOST_ANSWER_MAX: usize = HEADER_MAX - 1024;

/// Why nothing more comes from a plugin.
#[derive(Debug)]
pub(super) enum End {
    /// The other end was closed, with this many bytes of an unfinished frame.
    Closed { pending: usize },
    /// The plugin broke a rule.
    Fault(CallError),
}

/// Takes frames until the stream ends or a rule is broken.
pub(super) async fn read(
    connection: Arc<Connection>,
    mut decoder: FrameDecoder,
    mut stream: impl AsyncRead + Unpin,
) -> End {
    let mut questions = JoinSet::new();
    loop {
        match take_frames(&connection, &mut decoder, &mut questions) {
            Ok(()) => {}
            Err(fault) => return End::Fault(fault),
        }
        match fill(&mut decoder, &mut stream).await {
            Ok(1..) => {}
            // An error means that the other end is gone.
            Ok(0) | Err(_) => {
                return End::Closed {
                    pending: decoder.pending(),
                };
            }
        }
    }
}

/// Reads once. Returns 0 at the end of the stream.
pub(super) async fn fill(
    decoder: &mut FrameDecoder,
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<usize> {
    let buffer = decoder.buffer();
    if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
        buffer.reserve(READ_BYTES);
    }
    stream.read_buf(buffer).await
}

fn take_frames(
    connection: &Arc<Connection>,
    decoder: &mut FrameDecoder,
    questions: &mut JoinSet<()>,
) -> Result<(), CallError> {
    while questions.try_join_next().is_some() {}
    loop {
        let next = decoder.next();
        match next.map_err(|error| CallError::protocol(error.rule(), error.to_string()))? {
            Some(frame) => take(connection, frame, questions)?,
            None => return Ok(()),
        }
    }
}

fn take(
    connection: &Arc<Connection>,
    frame: Frame,
    questions: &mut JoinSet<()>,
) -> Result<(), CallError> {
    match frame {
        Frame::Result(header, payload) => {
            let waker = connection.table().result(header, payload)?;
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Frame::Chunk(chunk, payload) => {
            let waker = connection.table().chunk(chunk.call, &payload)?;
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Frame::Credit(credit) => connection.add_credit(credit.calls)?,
        Frame::Accepted(accepted) => {
            belongs(connection, accepted.call, "accepted")?;
        }
        Frame::Progress(progress) => {
            if let Some(Question::Call { origin, .. }) =
                belongs(connection, progress.call, "progress")?
            {
                connection
                    .outlet
                    .progress(&origin, progress.percent, &progress.message);
            }
        }
        Frame::Log(log) => {
            let question = match log.call {
                Some(call) => belongs(connection, call, "log")?,
                None => None,
            };
            let origin = match &question {
                Some(Question::Call { origin, .. }) => Some(origin),
                _ => None,
            };
            connection
                .outlet
                .log(LogStream::Protocol, log.level, &log.message, origin);
        }
        Frame::HostCall(question) => ask(connection, question, questions)?,
        frame @ (Frame::Hello(_)
        | Frame::Welcome(_)
        | Frame::Call(..)
        | Frame::Cancel(_)
        | Frame::Drain(_)
        | Frame::Reconcile(_)
        | Frame::HostResult(_)) => return Err(unexpected(&frame)),
        // The contract may learn further frames; until they are handled here they
        // are as good as unknown.
        frame => return Err(unexpected(&frame)),
    }
    Ok(())
}

pub(super) fn unexpected(frame: &Frame) -> CallError {
    let name = frame.name();
    CallError::protocol(
        "unexpected_frame",
        format!("a {name} frame is not expected here"),
    )
}

/// What an open call asked; nothing for one that has ended, since words about it may
/// have been on their way.
fn belongs(connection: &Connection, call: u64, frame: &str) -> Result<Option<Question>, CallError> {
    match connection.table().question(call) {
        Ok(question) => Ok(Some(question.clone())),
        Err(Missing::Ended) => Ok(None),
        Err(missing @ Missing::Never) => Err(missing.fault(call, frame)),
    }
}

/// Lets the host answer a question in a task of its own.
fn ask(
    connection: &Arc<Connection>,
    question: HostCall,
    questions: &mut JoinSet<()>,
) -> Result<(), CallError> {
    if questions.len() >= HOST_CALLS_MAX {
        return Err(CallError::protocol(
            "too_many_host_calls",
            format!("more than {HOST_CALLS_MAX} questions to the host at once"),
        ));
    }
    let session = match belongs(connection, question.call, "host call")? {
        Some(Question::Call { session, .. }) => Some(session),
        Some(Question::Reconcile) | None => None,
    };
    let connection = Arc::clone(connection);
    questions.spawn(async move {
        let (value, error) = match answer(&connection, session, &question).await {
            Ok(value) => (value, None),
            Err(error) => (Value::Null, Some(error)),
        };
        let id = question.id;
        connection
            .send(Frame::HostResult(HostResult { id, value, error }))
            .await;
    });
    Ok(())
}

async fn answer(
    connection: &Connection,
    session: Option<SessionId>,
    question: &HostCall,
) -> Result<Value, HostCallError> {
    let refused = |message: &str| HostCallError::Refused {
        message: message.to_owned(),
    };
    let session = session.ok_or_else(|| refused("the call has ended"))?;
    let outlet = &connection.outlet;
    let request = question.request.clone();
    let value = outlet
        .host()
        .answer(outlet.plugin(), session, request)
        .await?;
    let length = serde_json::to_vec(&value).map_or(usize::MAX, |json| json.len());
    match length <= HOST_ANSWER_MAX {
        true => Ok(value),
        false => Err(refused("the answer is longer than a frame's header")),
    }
}
