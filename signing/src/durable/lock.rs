//! Keeping other processes out, and waiting for them a while.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How often a lock is asked for that somebody has.
const TURN: Duration = Duration::from_millis(2);

/// Tries again while somebody has the lock, up to `patience`.
#[expect(
    clippy::disallowed_methods,
    reason = "everything here blocks, as the crate says"
)]
pub(super) fn patiently<T>(
    patience: Duration,
    attempt: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    let mut left = patience;
    loop {
        match attempt() {
            Err(error) if is_locked(&error) && !left.is_zero() => {
                thread::sleep(TURN);
                left = left.saturating_sub(TURN);
            }
            done => return done,
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted)
}

/// Keeps other processes of this program out until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the descriptor unlocks")] File);

impl Lock {
    /// Waits for whoever has it, up to `patience`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when somebody has it still.
    pub(crate) fn wait(path: &Path, patience: Duration) -> io::Result<Self> {
        patiently(patience, || Self::acquire(path))
    }

    /// Never waits: whoever comes second is told so.
    pub(crate) fn acquire(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}
