//! How a process comes to its end: by itself, for a fault, or because it was told to.

use std::{future::pending, io, time::Duration};

use orchestrator_contract::{
    CallError,
    frame::{Drain, Frame},
};
use orchestrator_sandbox::ExitStatus;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, timeout, timeout_at},
};

use super::super::{
    Command, Then,
    launch::{Running, half_frame},
    reader::End,
};
use crate::process::{DRAIN_AFTER_END, Process, describe};

/// How the process came to its end.
pub(super) enum Ending {
    /// By itself or for a fault. What went wrong, and what calls get, made of the
    /// process's last output.
    Fault(String, Cause),
    /// Because it was told to, however the process took that.
    Stopped(Stop),
}

pub(super) enum Cause {
    /// It ended; how.
    Ended(String),
    /// It broke a rule or a limit.
    Error(CallError),
}

impl Ending {
    /// The same, with the error that explains why the process is gone, where there is one.
    fn explained(self, error: Option<CallError>) -> Self {
        match (self, error) {
            (Self::Fault(_, Cause::Ended(_)), Some(error)) => Self::of(error),
            (ending, _) => ending,
        }
    }

    fn of(error: CallError) -> Self {
        Self::Fault(error.to_string(), Cause::Error(error))
    }
}

/// The command to end.
pub(super) struct Stop {
    /// How long the process may take to finish.
    pub(super) grace: Duration,
    pub(super) then: Then,
    /// Told when it has ended; nobody asked when the plugin is dropped.
    pub(super) done: Vec<oneshot::Sender<()>>,
}

impl Stop {
    pub(super) fn tell_done(self) {
        for done in self.done {
            // Nobody may be waiting for the news.
            let _ = done.send(());
        }
    }
}

/// Waits for the command to stop; requests to start are met already. Dropping the
/// future loses no command.
pub(super) async fn stop_command(commands: &mut mpsc::Receiver<Command>) -> Stop {
    loop {
        match commands.recv().await {
            Some(Command::Start) => {}
            Some(Command::End { grace, then, done }) => {
                let done = vec![done];
                return Stop { grace, then, done };
            }
            None => {
                let (grace, then, done) = (Duration::ZERO, Then::Never, Vec::new());
                return Stop { grace, then, done };
            }
        }
    }
}

/// The same where no process has served yet: that an earlier one was not well is met.
pub(super) async fn stop_command_anyway(commands: &mut mpsc::Receiver<Command>) -> Stop {
    loop {
        let stop = stop_command(commands).await;
        match stop.then {
            Then::Recover { .. } => stop.tell_done(),
            _ => return stop,
        }
    }
}

/// The command to stop, if it has come; requests to start are met already.
pub(super) fn stop_waiting(commands: &mut mpsc::Receiver<Command>) -> Option<Stop> {
    while let Ok(command) = commands.try_recv() {
        if let Command::End { grace, then, done } = command {
            let done = vec![done];
            let stop = Stop { grace, then, done };
            match stop.then {
                Then::Recover { .. } => stop.tell_done(),
                _ => return Some(stop),
            }
        }
    }
    None
}

/// Waits until the process has ended by itself or has to be ended.
pub(super) async fn fault(running: &mut Running, cancel_grace: Duration) -> Ending {
    let (process, connection) = (&running.process, &running.connection);
    let ending = tokio::select! {
        Some(end) = running.reader.join_next() => read_out(process, end).await,
        // It stays as long as the plugin's end is open; what came before still counts.
        Some(_) = running.writer.join_next() => {
            match timeout(DRAIN_AFTER_END, running.reader.join_next()).await {
                Ok(Some(end)) => read_out(process, end).await,
                Ok(None) | Err(_) => closed(process, 0).await,
            }
        }
        status = process.wait() => exited(&mut running.reader, status).await,
        error = running.watch.violated() => Ending::of(error),
        () = connection.overdue(cancel_grace) => Ending::of(CallError::protocol(
            "ignored_cancel",
            format!("a cancelled call did not end within {cancel_grace:?}"),
        )),
    };
    ending.explained(running.watch.killed_for_memory())
}

/// Asks the process to finish and end, and waits for that at most for the grace of
/// `stop`. Closing its connection and ending, in whatever order, is how it obeys; only
/// a broken rule or limit, or a command that leaves less, takes the rest of its time
/// away. Returns the command that counts in the end, for all who gave one.
pub(super) async fn drain(
    running: &mut Running,
    commands: &mut mpsc::Receiver<Command>,
    mut stop: Stop,
    settle: Duration,
) -> Stop {
    let mut until = Instant::now() + stop.grace;
    let grace_ms = u64::try_from(stop.grace.as_millis()).unwrap_or(u64::MAX);
    let mut drained = std::pin::pin!(drained(running, grace_ms));
    loop {
        tokio::select! {
            // However it ends, it has ended.
            _ = timeout_at(until, &mut drained) => return stop,
            other = stop_command(commands) => {
                let left = match other.then {
                    // Their calls have ended by then.
                    Then::Never | Then::Rest => other.grace.min(settle),
                    Then::Start(_) | Then::Recover { .. } => other.grace,
                };
                until = until.min(Instant::now() + left);
                stop = merged(stop, other);
            }
        }
    }
}

/// Both commands in one, told to all who gave them. To be stopped for good takes
/// precedence, then who came last; that it is not well is met by any of the others.
fn merged(mut first: Stop, second: Stop) -> Stop {
    first.done.extend(second.done);
    let stays = first.then == Then::Never || matches!(second.then, Then::Recover { .. });
    if !stays {
        first.then = second.then;
    }
    first
}

async fn drained(running: &mut Running, grace_ms: u64) {
    let Running {
        process,
        connection,
        watch,
        reader,
        ..
    } = running;
    connection.send(Frame::Drain(Drain { grace_ms })).await;
    tokio::select! {
        _ = process.wait() => {
            // What it sent before that still counts.
            let _ = timeout(DRAIN_AFTER_END, reader.join_next()).await;
        }
        () = faulty(reader) => {}
        _ = watch.violated() => {}
    }
}

/// Resolves when the plugin broke a rule, and never when it only closed its end.
async fn faulty(reader: &mut JoinSet<End>) {
    match reader.join_next().await {
        None | Some(Ok(End::Closed { .. })) => pending().await,
        Some(Ok(End::Fault(_)) | Err(_)) => {}
    }
}

/// There is nothing more to be read.
async fn read_out(process: &Process, end: Result<End, JoinError>) -> Ending {
    match end {
        Ok(End::Fault(error)) => Ending::of(error),
        Ok(End::Closed { pending }) => closed(process, pending).await,
        Err(error) => Ending::of(CallError::Panic {
            message: error.to_string(),
        }),
    }
}

/// The plugin closed its end. Mostly it has ended or is about to.
async fn closed(process: &Process, pending_bytes: usize) -> Ending {
    let status = timeout(DRAIN_AFTER_END, process.wait()).await;
    ended(status.ok(), pending_bytes)
}

/// The process has ended; what it sent before that still counts.
async fn exited(reader: &mut JoinSet<End>, status: io::Result<ExitStatus>) -> Ending {
    let rest = async {
        match reader.join_next().await {
            Some(end) => end,
            None => pending().await,
        }
    };
    match timeout(DRAIN_AFTER_END, rest).await {
        Ok(Ok(End::Fault(error))) => Ending::Fault(error.to_string(), Cause::Error(error)),
        Ok(Ok(End::Closed { pending })) => ended(Some(status), pending),
        Ok(Err(_)) | Err(_) => ended(Some(status), 0),
    }
}

fn ended(status: Option<io::Result<ExitStatus>>, pending_bytes: usize) -> Ending {
    // Somebody else's signal explains a frame that was cut off.
    let killed = matches!(status, Some(Ok(ExitStatus::Signaled { .. }) | Err(_)));
    if pending_bytes > 0 && !killed {
        let error = half_frame(pending_bytes);
        return Ending::Fault(error.to_string(), Cause::Error(error));
    }
    let ended = |how: String| Ending::Fault(format!("its process {how}"), Cause::Ended(how));
    match status {
        Some(Ok(status)) => ended(describe(status)),
        Some(Err(error)) => ended(format!("was lost: {error}")),
        None => {
            let error =
                CallError::protocol("connection_closed", "it closed its connection and goes on");
            Ending::Fault(error.to_string(), Cause::Error(error))
        }
    }
}
