//! The polite ways to ask a process to end.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Result;

/// Ctrl-C, `kill`, and the end of the terminal. From its making on, none of
/// them ends the process by itself.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever started us wants us to outlive the terminal, as
    /// `nohup` does.
    hangup: Option<Signal>,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// That the process ends.
    End,
    /// That it ends because its terminal is gone; or, of a service, that it
    /// reads its settings again.
    Hangup,
}

impl Signals {
    /// Begins to listen. Call it before whatever must not be torn apart.
    pub(crate) fn new() -> Result<Self> {
        let hangup = match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            _ = hangup => Asked::Hangup,
        }
    }
}

/// What a file size limit (`ulimit -f`) does to a process that does not say how it
/// wants to learn of it: it ends without a word. From now on, writes fail instead, and
/// whoever wrote says so. A plugin starts with what is usual.
pub(crate) fn outlive_size_limit() -> Result {
    /// SIGXFSZ on Linux.
    const SIZE_LIMIT: i32 = 25;
    let kind = SignalKind::from_raw(SIZE_LIMIT);
    if !is_ignored(kind) {
        // What listens stays when this is dropped; nobody needs to be told.
        drop(signal(kind)?);
    }
    Ok(())
}

/// Whether the process was started with this signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}
