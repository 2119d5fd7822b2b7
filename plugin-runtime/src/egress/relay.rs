//! Moves bytes both ways between two sockets until both have said their last.

use std::{
    cell::RefCell,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{net::TcpStream, task::coop::consume_budget, time::sleep};

/// The most that is moved at a time.
const PIECE_BYTES: usize = 64 << 10;

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
async fn pump(from: &TcpStream, to: &TcpStream, counters: [&AtomicU64; 2]) -> io::Result<End> {
    loop {
        from.readable().await?;
        loop {
            let (bytes, rest) = match pass(from, to)? {
                Passed::Nothing => break,
                Passed::Some(bytes, rest) => (bytes, rest),
                Passed::Unwanted => return Ok(End::Unwanted),
                Passed::End => {
                    let passed = shutdown(to, Shutdown::Write).is_ok();
                    return Ok(if passed { End::Passed } else { End::Unwanted });
                }
            };
            if write_all(to, &rest).await.is_err() {
                return Ok(End::Unwanted);
            }
            for counter in counters {
                counter.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            // Where neither end ever has to wait, the others would.
            consume_budget().await;
        }
    }
}

/// What became of one attempt to move something.
enum Passed {
    /// There is nothing to read yet.
    Nothing,
    /// So many bytes were read; these of them are still to be written.
    Some(usize, Vec<u8>),
    /// The other end takes no more.
    Unwanted,
    /// This end has said its last.
    End,
}

/// Moves what there is without waiting. The bytes go through memory that all connections on
/// this thread share: one that waits costs none, and what many use stays in the cache.
fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<Passed> {
    thread_local! {
        static PIECE: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE_BYTES]);
    }
    PIECE.with_borrow_mut(|piece| {
        let bytes = match from.try_read(piece) {
            Ok(0) => return Ok(Passed::End),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Passed::Nothing),
            Err(error) => return Err(error),
        };
        let read = piece.get(..bytes).unwrap_or_default();
        let written = match to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Ok(Passed::Unwanted),
        };
        let rest = read.get(written..).unwrap_or_default();
        Ok(Passed::Some(bytes, rest.to_vec()))
    })
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
