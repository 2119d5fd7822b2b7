//! Reads a process's output to its end.

use std::sync::Arc;

use orchestrator_contract::{LogLevel, LogStream};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Origin, Tail, level::level_of, lines::Lines};
use crate::outlet::Outlet;

/// How much is read from a pipe at once; the size of a pipe's buffer.
pub(crate) const PIPE_READ_BYTES: usize = 64 << 10;

/// Reads `pipe` to its end, so that the process never blocks on a full pipe, and
/// turns what it reads into log lines. Dropping the future stops reading.
pub(crate) async fn drain(
    mut pipe: impl AsyncRead + Unpin,
    stream: LogStream,
    outlet: Arc<Outlet>,
    tail: Arc<Tail>,
    origin: Option<Origin>,
) {
    let default = match stream {
        LogStream::Stderr => LogLevel::Error,
        LogStream::Stdout | LogStream::Protocol => LogLevel::Info,
    };
    let mut lines = Lines::new(outlet.line_bytes_max());
    let mut buffer = vec![0; PIPE_READ_BYTES];
    let line = |line: &[u8], left_out: u64| {
        // Asked first, so that a flood costs no more than finding its line breaks.
        if (line.is_empty() && left_out == 0) || !outlet.admit(stream) {
            return;
        }
        let text = String::from_utf8_lossy(line);
        let (level, message) = level_of(&text, default);
        match left_out {
            0 => outlet.write(stream, level, &message, origin.as_ref()),
            more => {
                let message = format!("{message} … ({more} bytes left out)");
                outlet.write(stream, level, &message, origin.as_ref());
            }
        }
    };
    // An error means that the pipe is gone, which is an end too.
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        tail.push(&buffer[..count]);
        lines.push(&buffer[..count], line);
    }
    lines.end(line);
    outlet.flush_suppressed(stream);
}
