//! Starts, watches, restarts and stops the process of one plugin. One task, which
//! owns the process: when the task is gone, so is the process.

use std::{
    future::pending,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use orchestrator_contract::{
    CallError, Event, PluginState, ViolationAction,
    frame::{Drain, Frame},
};
use orchestrator_sandbox::ExitStatus;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Command, Counters, Link, NodeParts, Then,
    launch::{Failure, Running, half_frame, launch},
    reader::End,
};
use crate::{
    PluginProblem,
    error::LifecycleError,
    health::FIRST_CHECK,
    lifecycle::now_ms,
    process::{DRAIN_AFTER_END, Process, describe},
    supervisor::{Restarts, Verdict},
};

pub(super) struct Supervisor {
    parts: NodeParts,
    counters: Arc<Counters>,
    link: watch::Sender<Link>,
    commands: mpsc::Receiver<Command>,
    restarts: Restarts,
}

/// What is to be done next.
enum Next {
    /// Start the process.
    Start,
    /// Wait until somebody asks for it.
    Rest,
    /// The plugin is stopped.
    Stop(Option<oneshot::Sender<()>>),
}

/// How the process came to its end.
enum Ending {
    /// By itself or for a fault. What went wrong, and what calls get, made of the
    /// process's last output.
    Fault(String, Cause),
    /// Because it was told to, however the process took that.
    Stopped(Stop),
}

/// The command to end.
struct Stop {
    /// How long the process may take to finish.
    grace: Duration,
    then: Then,
    /// Told when it has ended; nobody asked when the plugin is dropped.
    done: Option<oneshot::Sender<()>>,
}

enum Cause {
    /// It ended; how.
    Ended(String),
    /// It broke a rule or a limit.
    Error(CallError),
}

impl Ending {
    /// The same, with the error that explains why the process is gone, where there is one.
    fn explained(self, error: Option<CallError>) -> Self {
        match (self, error) {
            (Self::Fault(_, Cause::Ended(_)), Some(error)) => {
                Self::Fault(error.to_string(), Cause::Error(error))
            }
            (ending, _) => ending,
        }
    }
}

impl Supervisor {
    pub(super) fn new(
        parts: NodeParts,
        counters: Arc<Counters>,
        link: watch::Sender<Link>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let restarts = Restarts::new(parts.restart.clone());
        Self {
            parts,
            counters,
            link,
            commands,
            restarts,
        }
    }

    pub(super) async fn run(mut self) {
        let mut next = Next::Rest;
        loop {
            next = match next {
                Next::Rest => self.rest().await,
                Next::Start => self.serve().await,
                Next::Stop(done) => {
                    let message = "it has stopped".to_owned();
                    self.link
                        .send_replace(Link::Down(self.unavailable(&message)));
                    // Nobody may be waiting for the news.
                    let _ = done.map(|done| done.send(()));
                    return;
                }
            };
        }
    }

    /// Waits until somebody asks for the plugin.
    async fn rest(&mut self) -> Next {
        match self.commands.recv().await {
            Some(Command::Start) => {
                self.restarts.reset();
                Next::Start
            }
            Some(Command::End { grace, then, done }) => {
                let done = Some(done);
                self.ended(Stop { grace, then, done })
            }
            None => Next::Stop(None),
        }
    }

    /// There is no process any more, as somebody wanted.
    fn ended(&mut self, stop: Stop) -> Next {
        let next = match stop.then {
            Then::Never => return Next::Stop(stop.done),
            Then::Start(_) => {
                self.link.send_replace(Link::Starting);
                Next::Start
            }
            Then::Rest => {
                self.link.send_replace(Link::Idle);
                Next::Rest
            }
        };
        self.restarts.reset();
        // Nobody may be waiting for the news.
        let _ = stop.done.map(|done| done.send(()));
        next
    }

    /// Starts the process and stays with it until it has ended.
    async fn serve(&mut self) -> Next {
        self.link.send_replace(Link::Starting);
        if self.parts.life.state() == PluginState::Loaded {
            self.go(PluginState::Initialized, "its package is ready to run");
        }
        self.go(PluginState::Starting, "its process is started");
        let started = Instant::now();
        let waiting = Arc::clone(&self.counters.waiting);
        let launched = tokio::select! {
            launched = launch(&self.parts, waiting) => launched,
            stop = stop_command(&mut self.commands) => return self.ended(stop),
        };
        match launched {
            Ok(running) => {
                self.counters
                    .pid
                    .store(running.process.pid(), Ordering::Relaxed);
                self.counters.started_at.store(now_ms(), Ordering::Relaxed);
                self.stay_with(running, started).await
            }
            Err(Failure::Passing { reason, tail }) => {
                if !tail.is_empty() {
                    let plugin = self.parts.outlet.plugin();
                    tracing::warn!(%plugin, %reason, output = %tail, "a plugin did not start");
                }
                self.after_end(&reason, started).await
            }
            Err(Failure::Lasting { error, cause }) => {
                self.parts
                    .life
                    .fail(PluginState::Error, PluginProblem::new(&cause));
                self.link.send_replace(Link::Down(error));
                Next::Rest
            }
        }
    }

    /// Asks a process that has just started whether it is well, and stays with it
    /// until it has ended.
    async fn stay_with(&mut self, running: Running, started: Instant) -> Next {
        let first = tokio::select! {
            well = timeout(FIRST_CHECK, running.connection.health()) => {
                well.unwrap_or_else(|_| Err(format!("timeout after {FIRST_CHECK:?}")))
            }
            // Whoever accompanies it finds out why.
            _ = running.process.wait() => Ok(()),
            stop = stop_command(&mut self.commands) => {
                drop(running);
                self.gone();
                return self.ended(stop);
            }
        };
        if let Err(message) = first {
            let id = self.parts.outlet.plugin().to_string();
            let problem = PluginProblem::new(&LifecycleError::Health { id, message });
            let error = problem.to_call_error();
            running.end(|_| error.clone(), &error).await;
            self.gone();
            self.parts.life.fail(PluginState::Error, problem);
            // Last, so that who is told finds everything done.
            self.link.send_replace(Link::Down(error));
            return Next::Rest;
        }
        let ending = self.accompany(running).await;
        self.gone();
        match ending {
            Ending::Stopped(stop) => self.ended(stop),
            Ending::Fault(reason, _) => self.after_end(&reason, started).await,
        }
    }

    /// There is no process any more.
    fn gone(&self) {
        self.counters.pid.store(0, Ordering::Relaxed);
    }

    /// Lets calls in and waits for the end of the process.
    async fn accompany(&mut self, mut running: Running) -> Ending {
        // State first: who sees the link finds the plugin running.
        self.go(PluginState::Running, "it takes calls");
        self.link
            .send_replace(Link::Ready(Arc::clone(&running.connection)));
        let grace = self.parts.settings.cancel_grace;
        let fault = |error: CallError| Ending::Fault(error.to_string(), Cause::Error(error));
        let (process, connection) = (&running.process, &running.connection);
        let ending = tokio::select! {
            Some(end) = running.reader.join_next() => match end {
                Ok(End::Fault(error)) => fault(error),
                Ok(End::Closed { pending }) => closed(process, pending).await,
                Err(error) => fault(CallError::Panic { message: error.to_string() }),
            },
            // It stays as long as its end is open.
            Some(_) = running.writer.join_next() => closed(process, 0).await,
            status = process.wait() => exited(&mut running.reader, status).await,
            error = running.watch.violated() => fault(error),
            () = connection.overdue(grace) => fault(CallError::protocol(
                "ignored_cancel",
                format!("a cancelled call did not end within {grace:?}"),
            )),
            stop = stop_command(&mut self.commands) => Ending::Stopped(stop),
        };
        let ending = ending.explained(running.watch.killed_for_memory());
        if let Ending::Stopped(stop) = &ending {
            let mut grace = stop.grace;
            if let Then::Start(reason) = &stop.then {
                // Calls that come from here on wait for the next process.
                self.go(PluginState::Starting, reason);
                self.link.send_replace(Link::Starting);
            } else {
                // Its calls have ended by then.
                grace = grace.min(self.parts.settings.drain_grace);
            }
            drain(&mut running, grace).await;
        }
        self.finish(running, ending).await
    }

    /// Ends the process, whatever is left of it, and every call.
    async fn finish(&self, running: Running, ending: Ending) -> Ending {
        // Calls that come from here on must not find the connection.
        let reason = match &ending {
            Ending::Fault(reason, _) => reason.clone(),
            Ending::Stopped(_) => "it is stopping".to_owned(),
        };
        let after = self.unavailable(&reason);
        let starts_again =
            matches!(&ending, Ending::Stopped(stop) if matches!(stop.then, Then::Start(_)));
        if !starts_again {
            self.link.send_replace(Link::Down(after.clone()));
        }
        match &ending {
            Ending::Fault(_, Cause::Error(error)) => {
                if let CallError::ResourceLimit { resource, .. } = error
                    && resource == "output"
                {
                    let max = self.parts.settings.payload_bytes_max;
                    self.parts
                        .outlet
                        .violation("output", max + 1, max, ViolationAction::Kill);
                }
                running.end(|_| error.clone(), &after).await;
            }
            Ending::Fault(_, Cause::Ended(status)) => {
                let status = status.clone();
                running
                    .end(|output| CallError::Crash { status, output }, &after)
                    .await;
            }
            Ending::Stopped(_) => {
                let reason = "the plugin is stopped".to_owned();
                running
                    .end(|_| CallError::Cancelled { reason }, &after)
                    .await;
            }
        }
        ending
    }

    /// Decides when the process is started again, and waits until then.
    async fn after_end(&mut self, reason: &str, started: Instant) -> Next {
        // The command may have come in the same moment as the end.
        if let Some(stop) = stop_waiting(&mut self.commands) {
            return self.ended(stop);
        }
        self.parts.life.note_problem(reason);
        if self.parts.life.is_on_trial() {
            // Another one serves, and nobody waits for this one.
            self.link.send_replace(Link::Down(self.unavailable(reason)));
            self.go(PluginState::Error, reason);
            return Next::Rest;
        }
        match self.restarts.ended(started.elapsed(), fastrand::f64()) {
            Verdict::CrashLoop => {
                let problem = PluginProblem::new(&LifecycleError::CrashLoop {
                    limit: self.parts.restart.crash_loop_restarts,
                    window: self.parts.restart.crash_loop_window,
                    last: reason.to_owned(),
                });
                self.link.send_replace(Link::Down(problem.to_call_error()));
                self.parts.life.fail(PluginState::CrashLoop, problem);
                Next::Rest
            }
            Verdict::Restart(delay) => {
                let told = format!("{reason}; it is started again in {delay:.1?}");
                self.link.send_replace(Link::Down(self.unavailable(&told)));
                self.go(PluginState::Starting, &told);
                self.counters.restarts.fetch_add(1, Ordering::Relaxed);
                self.parts.outlet.emit(Event::PluginRestarted {
                    plugin: self.parts.outlet.plugin().clone(),
                    reason: reason.into(),
                    delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                });
                tokio::select! {
                    () = sleep(delay) => Next::Start,
                    stop = stop_command(&mut self.commands) => self.ended(stop),
                }
            }
        }
    }

    fn go(&self, state: PluginState, reason: &str) {
        // Refused while the plugin is being stopped, which then goes on.
        let _ = self.parts.life.go(state, reason);
    }

    fn unavailable(&self, why: &str) -> CallError {
        CallError::Unavailable {
            message: format!("plugin {}: {why}", self.parts.outlet.plugin()),
        }
    }
}

/// Waits for the command to stop; requests to start are met already. Dropping the
/// future loses no command.
async fn stop_command(commands: &mut mpsc::Receiver<Command>) -> Stop {
    loop {
        match commands.recv().await {
            Some(Command::Start) => {}
            Some(Command::End { grace, then, done }) => {
                let done = Some(done);
                return Stop { grace, then, done };
            }
            None => {
                let (grace, then, done) = (Duration::ZERO, Then::Never, None);
                return Stop { grace, then, done };
            }
        }
    }
}

/// The command to stop, if it has come; requests to start are met already.
fn stop_waiting(commands: &mut mpsc::Receiver<Command>) -> Option<Stop> {
    while let Ok(command) = commands.try_recv() {
        if let Command::End { grace, then, done } = command {
            let done = Some(done);
            return Some(Stop { grace, then, done });
        }
    }
    None
}

/// Asks the process to finish and end, and waits for that at most for `grace`.
/// Closing its connection and ending, in whatever order, is how it obeys; only a
/// broken rule or limit takes the rest of its time away.
async fn drain(running: &mut Running, grace: Duration) {
    let Running {
        process,
        connection,
        watch,
        reader,
        ..
    } = running;
    let drained = async {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        connection.send(Frame::Drain(Drain { grace_ms })).await;
        tokio::select! {
            _ = process.wait() => {
                // What it sent before that still counts.
                let _ = timeout(DRAIN_AFTER_END, reader.join_next()).await;
            }
            () = faulty(reader) => {}
            _ = watch.violated() => {}
        }
    };
    // However it ends, it has ended.
    let _ = timeout(grace, drained).await;
}

/// Resolves when the plugin broke a rule, and never when it only closed its end.
async fn faulty(reader: &mut JoinSet<End>) {
    match reader.join_next().await {
        None | Some(Ok(End::Closed { .. })) => pending().await,
        Some(Ok(End::Fault(_)) | Err(_)) => {}
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
