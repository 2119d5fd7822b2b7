//! Keeps a slow reader of the log from slowing anything else down.

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    thread,
    time::Duration,
};

/// Lines that wait to be written; further ones are lost, and counted.
const BACKLOG_LINES: usize = 4_096;
/// How long the end of a process waits for the last lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
const FLUSH_POLL: Duration = Duration::from_millis(10);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it has been written.
    Flush(SyncSender<()>),
}

/// A writer that hands whole lines to a thread and never waits for it. What the
/// thread cannot take is refused with [`io::ErrorKind::WouldBlock`].
#[derive(Clone, Debug)]
pub struct Background(SyncSender<Message>);

/// Waits for the lines handed over so far, when asked and when dropped, though
/// for no longer than a second.
#[derive(Debug)]
pub struct Flush(SyncSender<Message>);

/// Starts a thread that writes to `writer`: a terminal that was paused or a log
/// daemon that hangs must not stop the calls that have something to say.
///
/// # Errors
///
/// When the operating system gives no thread.
pub fn background<W: Write + Send + 'static>(writer: W) -> io::Result<(Background, Flush)> {
    let (sender, receiver) = mpsc::sync_channel(BACKLOG_LINES);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(&receiver, writer))?;
    Ok((Background(sender.clone()), Flush(sender)))
}

fn write_all<W: Write>(receiver: &Receiver<Message>, mut writer: W) {
    for message in receiver {
        match message {
            Message::Line(line) => {
                if writer.write_all(&line).is_err() {
                    super::lose_line();
                }
            }
            Message::Flush(written) => drop(written.send(())),
        }
    }
}

impl Write for Background {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Message::Line(line.to_vec())) {
            Ok(()) => Ok(line.len()),
            Err(TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Flush {
    /// Waits until the lines handed over so far are written, or a second has
    /// passed.
    pub fn flush(&self) {
        let (written, wait) = mpsc::sync_channel(1);
        let rounds = FLUSH_PATIENCE.as_millis() / FLUSH_POLL.as_millis();
        let mut message = Some(Message::Flush(written));
        for _ in 0..rounds {
            if let Some(waiting) = message.take() {
                match self.0.try_send(waiting) {
                    Ok(()) => {}
                    Err(TrySendError::Full(back)) => message = Some(back),
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
            match wait.recv_timeout(FLUSH_POLL) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_handed_over_is_written_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (mut background, flush) = background(writer).unwrap();
        for number in 0..100 {
            background
                .write_all(format!("{number}\n").as_bytes())
                .unwrap();
        }
        drop(flush);
        let mut written = vec![0; 290];
        reader.read_exact(&mut written).unwrap();
        assert!(written.ends_with(b"98\n99\n"));
    }

    /// The reader takes nothing, as a terminal does that was paused.
    #[test]
    fn a_reader_that_hangs_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut background, flush) = background(writer).unwrap();
        let line = [b'x'; 1_024];
        let refused = (0..2 * BACKLOG_LINES)
            .filter(|_| background.write_all(&line).is_err())
            .count();
        assert!(refused > BACKLOG_LINES / 2, "{refused}");
        drop(flush);
        drop(reader);
    }
}
