//! Bytes from a plugin: read, made into frames, and given to whom they belong.

use std::io;

use orchestrator_contract::{
    CallError, LogStream,
    frame::{Frame, FrameDecoder, HostCall},
    patience::Patience,
};

use super::{answer::Question, calls::Missing, connection::Connection, socket::Socket};

/// How much is read at once, at most.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Bytes from a plugin and where they go. Whoever holds its lock may read: mostly the
/// reader's task, and a caller who looks for its answer itself.
#[derive(Debug)]
pub(super) struct Intake {
    decoder: FrameDecoder,
    space: Box<[u8]>,
    /// What only the reader's task can see to; nothing more is read before that.
    left: Option<Left>,
    pub(super) patience: Patience,
}

/// What only the reader's task can see to.
#[derive(Debug)]
pub(super) enum Left {
    Question(HostCall),
    /// The plugin broke a rule.
    Fault(CallError),
}

/// What one read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing is there.
    Nothing,
    /// Not looked, since something is left to the reader's task. Whether there is
    /// anything nobody knows.
    Left,
    /// All there was.
    All,
    /// As much as fits; more may be there.
    Full,
    /// The end of the stream, which an error means too.
    End,
}

impl Intake {
    /// Goes on where the handshake stopped.
    pub(super) fn new(decoder: FrameDecoder) -> Self {
        Self {
            decoder,
            space: vec![0; READ_BYTES].into(),
            left: None,
            patience: Patience::default(),
        }
    }

    /// Reads once, without waiting; not at all while something is left.
    pub(super) fn read(&mut self, socket: &Socket) -> Read {
        if self.left.is_some() {
            return Read::Left;
        }
        match socket.try_read(&mut self.space) {
            Ok(0) => Read::End,
            Ok(count) => {
                self.decoder.push(&self.space[..count]);
                match count < self.space.len() {
                    true => Read::All,
                    false => Read::Full,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::End,
        }
    }

    /// Gives out what was read, up to the first thing that is left to the reader's
    /// task. Says whether there is such a thing.
    pub(super) fn give_out(&mut self, connection: &Connection) -> bool {
        while self.left.is_none() {
            let next = self.decoder.next();
            let given = match next {
                Ok(None) => return false,
                Ok(Some(frame)) => give(connection, frame),
                Err(error) => Err(CallError::protocol(error.rule(), error.to_string())),
            };
            self.left = match given {
                Ok(question) => question.map(Left::Question),
                Err(fault) => Some(Left::Fault(fault)),
            };
        }
        true
    }

    pub(super) fn take_left(&mut self) -> Option<Left> {
        self.left.take()
    }

    /// How many bytes wait for the rest of their frame.
    pub(super) fn pending(&self) -> usize {
        self.decoder.pending()
    }
}

/// Gives a frame to whom it belongs; a question to the host is returned.
fn give(connection: &Connection, frame: Frame) -> Result<Option<HostCall>, CallError> {
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
        Frame::HostCall(question) => return Ok(Some(question)),
        Frame::Health(health) => connection.told_health(health)?,
        frame @ (Frame::Hello(_)
        | Frame::Welcome(_)
        | Frame::Call(..)
        | Frame::Cancel(_)
        | Frame::Drain(_)
        | Frame::Reconcile(_)
        | Frame::HealthCheck(_)
        | Frame::HostResult(_)
        | Frame::GetState(_)
        | Frame::RestoreState(..)) => return Err(unexpected(&frame)),
        // The contract may learn further frames; until they are handled here they
        // are as good as unknown.
        frame => return Err(unexpected(&frame)),
    }
    Ok(None)
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
pub(super) fn belongs(
    connection: &Connection,
    call: u64,
    frame: &str,
) -> Result<Option<Question>, CallError> {
    match connection.table().question(call) {
        Ok(question) => Ok(Some(question.clone())),
        Err(Missing::Ended) => Ok(None),
        Err(missing @ Missing::Never) => Err(missing.fault(call, frame)),
    }
}
