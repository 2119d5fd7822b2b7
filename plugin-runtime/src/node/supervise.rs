//! Starts, watches, restarts and stops the process of one plugin. One task, which
//! owns the process: when the task is gone, so is the process.

mod ending;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use orchestrator_contract::{CallError, Event, PluginState, ViolationAction};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, Counters, Link, NodeParts, Then,
    launch::{Failure, Running, launch},
};
use crate::{
    PluginProblem,
    error::LifecycleError,
    health::FIRST_CHECK,
    supervisor::{Restarts, Verdict},
};
use ending::{Cause, Ending, Stop, drain, fault, stop_command, stop_command_anyway, stop_waiting};

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
    Stop(Option<Stop>),
}

/// What becomes of calls that come before the next start.
#[derive(Clone, Copy)]
enum Calls {
    Wait,
    Fail,
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
                Next::Stop(stop) => {
                    let message = "it has stopped".to_owned();
                    self.link
                        .send_replace(Link::Down(self.unavailable(&message)));
                    if let Some(stop) = stop {
                        stop.tell_done();
                    }
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
                let done = vec![done];
                let stop = Stop { grace, then, done };
                match stop.then {
                    // There is no process that could be well.
                    Then::Recover { .. } => {
                        stop.tell_done();
                        Next::Rest
                    }
                    _ => self.ended(stop),
                }
            }
            None => Next::Stop(None),
        }
    }

    /// There is no process any more, as somebody wanted.
    fn ended(&mut self, stop: Stop) -> Next {
        let next = match stop.then {
            Then::Never => return Next::Stop(Some(stop)),
            Then::Start(_) | Then::Recover { .. } => {
                self.link.send_replace(Link::Starting);
                Next::Start
            }
            Then::Rest => {
                self.link.send_replace(Link::Idle);
                Next::Rest
            }
        };
        self.restarts.reset();
        stop.tell_done();
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
        let launched = match self.launch().await {
            Ok(launched) => launched,
            Err(stop) => return self.ended(stop),
        };
        match launched {
            Ok(running) => {
                self.counters.has_started(running.process.pid());
                self.stay_with(running, started).await
            }
            Err(Failure::Passing { reason, tail }) => {
                if !tail.is_empty() {
                    let plugin = self.parts.outlet.plugin();
                    tracing::warn!(%plugin, %reason, output = %tail, "a plugin did not start");
                }
                self.after_end(&reason, started.elapsed(), Calls::Fail)
                    .await
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

    /// Starts the process. Where it is told to stop meanwhile, there is none after that.
    async fn launch(&mut self) -> Result<Result<Running, Failure>, Stop> {
        let waiting = Arc::clone(&self.counters.waiting);
        let given_up = CancellationToken::new();
        let mut launching = std::pin::pin!(launch(&self.parts, waiting, &given_up));
        tokio::select! {
            launched = &mut launching => Ok(launched),
            stop = stop_command_anyway(&mut self.commands) => {
                given_up.cancel();
                // It may have come up in the same moment.
                if let Ok(running) = launching.await {
                    let error = self.unavailable("it is stopping");
                    running.end(|_| error.clone(), &error).await;
                }
                Err(stop)
            }
        }
    }

    /// Asks a process that has just started whether it is well, and stays with it
    /// until it has ended.
    async fn stay_with(&mut self, mut running: Running, started: Instant) -> Next {
        let ending = match self.first_check(&mut running).await {
            Ok(Ok(())) => self.accompany(&mut running).await,
            Ok(Err(message)) => return self.unwell(running, message).await,
            Err(ending) => ending,
        };
        let ending = self.finish(running, ending).await;
        self.gone();
        let stop = match ending {
            Ending::Fault(reason, _) => {
                return self
                    .after_end(&reason, started.elapsed(), Calls::Fail)
                    .await;
            }
            Ending::Stopped(stop) => stop,
        };
        let Then::Recover { reason, well_for } = stop.then.clone() else {
            return self.ended(stop);
        };
        stop.tell_done();
        self.after_end(&reason, well_for, Calls::Wait).await
    }

    /// What a process says of itself that has just started; how it ends where it comes
    /// to an end instead.
    async fn first_check(&mut self, running: &mut Running) -> Result<Result<(), String>, Ending> {
        let connection = Arc::clone(&running.connection);
        tokio::select! {
            well = timeout(FIRST_CHECK, connection.health()) => {
                Ok(well.unwrap_or_else(|_| Err(format!("timeout after {FIRST_CHECK:?}"))))
            }
            ending = fault(running, self.parts.settings.cancel_grace) => Err(ending),
            stop = stop_command_anyway(&mut self.commands) => Err(Ending::Stopped(stop)),
        }
    }

    /// It has started and is not well: another start would end the same.
    async fn unwell(&self, running: Running, message: String) -> Next {
        let id = self.parts.outlet.plugin().to_string();
        let problem = PluginProblem::new(&LifecycleError::Health { id, message });
        let error = problem.to_call_error();
        running.end(|_| error.clone(), &error).await;
        self.gone();
        self.parts.life.fail(PluginState::Error, problem);
        // Last, so that who is told finds everything done.
        self.link.send_replace(Link::Down(error));
        Next::Rest
    }

    /// There is no process any more.
    fn gone(&self) {
        self.counters.pid.store(0, Ordering::Relaxed);
    }

    /// Lets calls in and waits for the end of the process.
    async fn accompany(&mut self, running: &mut Running) -> Ending {
        // State first: who sees the link finds the plugin running.
        self.go(PluginState::Running, "it takes calls");
        self.link
            .send_replace(Link::Ready(Arc::clone(&running.connection)));
        let settings = &self.parts.settings;
        let (cancel_grace, settle) = (settings.cancel_grace, settings.drain_grace);
        let mut stop = tokio::select! {
            ending = fault(running, cancel_grace) => return ending,
            stop = stop_command(&mut self.commands) => stop,
        };
        match &stop.then {
            Then::Start(reason) | Then::Recover { reason, .. } => {
                // Calls that come from here on wait for the next process.
                self.go(PluginState::Starting, reason);
                self.link.send_replace(Link::Starting);
            }
            // Its calls have ended by then.
            Then::Rest | Then::Never => stop.grace = stop.grace.min(settle),
        }
        Ending::Stopped(drain(running, &mut self.commands, stop, settle).await)
    }

    /// Ends the process, whatever is left of it, and every call.
    async fn finish(&self, running: Running, ending: Ending) -> Ending {
        // Calls that come from here on must not find the connection.
        let reason = match &ending {
            Ending::Fault(reason, _) => reason.clone(),
            Ending::Stopped(_) => "it is stopping".to_owned(),
        };
        let after = self.unavailable(&reason);
        let starts_again = matches!(&ending, Ending::Stopped(stop)
            if matches!(stop.then, Then::Start(_) | Then::Recover { .. }));
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

    /// Decides when the process, which was well for `ran`, is started again, and waits
    /// until then.
    async fn after_end(&mut self, reason: &str, ran: Duration, calls: Calls) -> Next {
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
        match self.restarts.ended(ran, fastrand::f64()) {
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
                self.link.send_replace(match calls {
                    Calls::Wait => Link::Starting,
                    Calls::Fail => Link::Down(self.unavailable(&told)),
                });
                self.go(PluginState::Starting, &told);
                self.counters.restarts.fetch_add(1, Ordering::Relaxed);
                self.parts.outlet.emit(Event::PluginRestarted {
                    plugin: self.parts.outlet.plugin().clone(),
                    reason: reason.into(),
                    delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                });
                tokio::select! {
                    () = sleep(delay) => Next::Start,
                    stop = stop_command_anyway(&mut self.commands) => self.ended(stop),
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
