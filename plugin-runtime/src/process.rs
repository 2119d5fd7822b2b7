//! A native process on tokio's event loop.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use orchestrator_sandbox::{Child, ExitStatus, Signal, SpawnError, Spec, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
    runtime::Handle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long pipes and sockets are read after the process and its group are gone.
/// Only somebody who left the group can still hold them open.
pub(crate) const DRAIN_AFTER_END: Duration = Duration::from_millis(500);

/// A native process. Dropping it kills its process group; nothing of it stays.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts what `spec` describes. Dropping the future takes the start back.
    pub(crate) async fn start(spec: Spec) -> Result<Self, StartError> {
        let child = spawn(spec).await?;
        let pidfd = child.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its successor is `unsafe` for the sake of types that lie about their \
                      descriptor; an `OwnedFd` cannot, and only the sandbox has unsafe code"
        )]
        let ended = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self { child, ended })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for the end. What the process left behind in its group is killed.
    /// Giving up the wait loses nothing.
    pub(crate) async fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.ended.readable().await?.clear_ready();
            // Between the look and the clearing it may have ended.
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
        }
    }

    /// Kills the process group.
    pub(crate) fn kill(&self) {
        // Fails only when nothing is left to kill.
        let _ = self.child.kill_group();
    }

    /// Processor time, known once the end is.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.child.cpu_time()
    }

    /// Kills the process group and waits until it is gone.
    pub(crate) async fn end(&self) -> io::Result<ExitStatus> {
        self.kill();
        self.wait().await
    }

    /// Asks the process group to end, and kills it after `grace` or when `closing`
    /// is cancelled. Returns at once; the wait goes on in the background.
    pub(crate) fn end_in_background(self, grace: Duration, closing: CancellationToken) {
        let asked = self.child.signal_group(Signal::TERM).is_ok();
        match Handle::try_current() {
            Ok(runtime) if asked && !grace.is_zero() => {
                runtime.spawn(async move {
                    // Dropping the process kills it, whatever came of the wait.
                    let _ = closing
                        .run_until_cancelled(timeout(grace, self.wait()))
                        .await;
                });
            }
            _ => drop(self),
        }
    }
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("the host has no room for another process")]
    Host(#[from] io::Error),
}

/// An error with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

/// How a process ended, as a sentence fragment after "the plugin's process".
pub(crate) fn describe(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(code) => format!("exited with status {code}"),
        ExitStatus::Signaled { signal, .. } => format!("was killed by signal {signal}"),
    }
}

/// A pipe whose reading end is the host's.
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

/// A pipe whose writing end is the host's.
pub(crate) fn input_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((reader, pipe::Sender::from_owned_fd(writer)?))
}
