//! A native process on tokio's event loop.

use std::{io, os::fd::OwnedFd, time::Duration};

use orchestrator_sandbox::{Child, ExitStatus, Group, Signal, SpawnError, Spec, Step, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{net::unix::pipe, runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    egress::{Egress, OpenEgress},
    program::Program,
};

/// How long pipes and sockets are read after the process and all it started are gone.
/// Only somebody it handed them to can still hold them open.
pub(crate) const DRAIN_AFTER_END: Duration = Duration::from_millis(500);

/// A native process. Dropping it kills its process group; nothing of it stays, and
/// nothing that it started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Its way out of a network of its own.
    _egress: Option<OpenEgress>,
}

impl Process {
    /// Starts what `spec` describes, a process of `program`, with a way out of its network
    /// where it has one of its own. Dropping the future takes the start back.
    pub(crate) async fn start(spec: Spec, program: &Program) -> Result<Self, StartError> {
        let mut child = spawn(spec).await?;
        if let Some((observer, lessons)) = child.take_observer().zip(program.lessons()) {
            lessons.attend(observer)?;
        }
        let (gateway, egress) = (child.take_gateway(), program.egress());
        let open = |(gateway, egress): (_, &Egress)| egress.open(gateway);
        let _egress = gateway.zip(egress).map(open).transpose()?;
        Ok(Self { child, _egress })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The control group that it and all it starts are in, where they have one.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.child.group()
    }

    /// Waits for the end. What the process left behind is killed. Giving up the wait
    /// loses nothing.
    pub(crate) async fn wait(&self) -> io::Result<ExitStatus> {
        self.child.ended().await
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
    /// is cancelled; at once where the request would reach all but the process itself. Returns at once; the wait goes on in the background.
    pub(crate) fn end_in_background(self, grace: Duration, closing: CancellationToken) {
        let asked = self.can_be_asked() && self.child.signal_group(Signal::TERM).is_ok();
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

    /// Whether the process takes a request to end. Process 1 of a namespace ignores those
    /// that it does not handle, and would go on without what it has started.
    fn can_be_asked(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        status.is_ok_and(|status| takes_requests(&status))
    }
}

/// Reads `/proc/<pid>/status`.
fn takes_requests(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let ids = field("NSpid:").unwrap_or_default().split_whitespace();
    let handled = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is_first = ids.skip(1).last() == Some("1");
    let request = 1 << (Signal::TERM.as_raw() - 1);
    !is_first || handled.is_some_and(|handled| handled & request > 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_namespace_takes_the_requests_that_it_handles() {
        let status =
            |ids: &str, handled: &str| format!("Name:\tp\nNSpid:\t{ids}\nSigCgt:\t{handled}\n");
        for (ids, handled, takes) in [
            ("700", "0000000000000000", true),
            ("1", "0000000000000000", true),
            ("700\t1", "0000000000000000", false),
            ("700\t1", "0000000000004000", true),
            ("700\t1", "0000000000000002", false),
            ("700\t12", "0000000000000000", true),
        ] {
            assert_eq!(
                takes_requests(&status(ids, handled)),
                takes,
                "{ids} {handled}"
            );
        }
    }
}
