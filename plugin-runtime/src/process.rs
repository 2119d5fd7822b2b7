//! A native process on tokio's event loop.

use std::{io, os::fd::OwnedFd, time::Duration};

use orchestrator_sandbox::{Child, ExitStatus, Signal, SpawnError, Spec, Step, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{net::unix::pipe, runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long pipes and sockets are read after the process and all it started are gone.
/// Only somebody it handed them to can still hold them open.
pub(crate) const DRAIN_AFTER_END: Duration = Duration::from_millis(500);

/// A native process. Dropping it kills its process group; nothing of it stays, and
/// nothing that it started.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts what `spec` describes. Dropping the future takes the start back.
    pub(crate) async fn start(spec: Spec) -> Result<Self, StartError> {
        Ok(Self(spawn(spec).await?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits for the end. What the process left behind is killed. Giving up the wait
    /// loses nothing.
    pub(crate) async fn wait(&self) -> io::Result<ExitStatus> {
        self.0.ended().await
    }

    /// Kills the process group.
    pub(crate) fn kill(&self) {
        // Fails only when nothing is left to kill.
        let _ = self.0.kill_group();
    }

    /// Processor time, known once the end is.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.0.cpu_time()
    }

    /// Kills the process group and waits until it is gone.
    pub(crate) async fn end(&self) -> io::Result<ExitStatus> {
        self.kill();
        self.wait().await
    }

    /// Asks the process group to end, and kills it after `grace` or when `closing`
    /// is cancelled. Returns at once; the wait goes on in the background.
    pub(crate) fn end_in_background(self, grace: Duration, closing: CancellationToken) {
        let asked = self.0.signal_group(Signal::TERM).is_ok();
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

impl StartError {
    /// Whether it is the arguments or the environment that no process can be given.
    pub(crate) fn is_of_variables(&self) -> bool {
        match self {
            Self::Spawn(SpawnError::Invalid { .. }) => true,
            Self::Spawn(SpawnError::Child { step, source, .. }) => {
                *step == Step::Exec && source.kind() == io::ErrorKind::ArgumentListTooLong
            }
            _ => false,
        }
    }
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
