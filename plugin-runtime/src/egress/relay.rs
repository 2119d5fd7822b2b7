//! Moves bytes both ways between two sockets until both have said their last.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{net::TcpStream, task::coop::consume_budget, time::sleep};

/// What is moved at a time while there is little to move, and while there is much.
const LITTLE_BYTES: usize = 16 << 10;
const MUCH_BYTES: usize = 256 << 10;

/// Moves bytes both ways between `client` and `server`, and counts them: those from the
/// client first. The end of one direction is passed on, and the other goes on.
///
/// Returns when both directions have ended, when one end was reset, and when for `idle`
/// nothing has moved. What was no ordinary end is passed on as none: both are reset.
pub(super) async fn relay(
    client: &TcpStream,
    server: &TcpStream,
    counters: (&AtomicU64, &AtomicU64),
    idle: Duration,
) {
    let moved = AtomicU64::new(0);
    let both = async {
        let there = pump(client, server, [counters.0, &moved]);
        let back = pump(server, client, [counters.1, &moved]);
        tokio::try_join!(there, back)
    };
    let is_over = tokio::select! {
        ended = both => matches!(ended, Ok((End::Passed, End::Passed))),
        () = nothing_moves(&moved, idle) => false,
    };
    if !is_over {
        for end in [client, server] {
            // Fails only when it is closed already.
            let _ = end.set_zero_linger();
        }
    }
}

/// How one direction ended.
enum End {
    /// The one end has said its last, and the other knows.
    Passed,
    /// The other end takes no more. It may have said something before that, so the other
    /// direction goes on until it has ended too.
    Unwanted,
}

async fn nothing_moves(moved: &AtomicU64, idle: Duration) {
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        sleep(idle).await;
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Moves what comes from `from` to `to` until its end, and passes that on.
///
/// A buffer is there only while there is something to move, so that a connection that
/// waits costs none.
async fn pump(from: &TcpStream, to: &TcpStream, counters: [&AtomicU64; 2]) -> io::Result<End> {
    let mut size = LITTLE_BYTES;
    loop {
        from.readable().await?;
        let mut buffer = Vec::with_capacity(size);
        loop {
            buffer.clear();
            let bytes = match from.try_read_buf(&mut buffer) {
                Ok(0) => {
                    let passed = shutdown(to, Shutdown::Write).is_ok();
                    return Ok(if passed { End::Passed } else { End::Unwanted });
                }
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let Ok(()) = write_all(to, &buffer).await else {
                return Ok(End::Unwanted);
            };
            for counter in counters {
                counter.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            // Where neither end ever has to wait, the others would.
            consume_budget().await;
            size = if bytes < LITTLE_BYTES {
                LITTLE_BYTES
            } else {
                MUCH_BYTES
            };
            if buffer.capacity() < size {
                buffer = Vec::with_capacity(size);
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
