//! Plugins of kind `node`: one long-lived process that answers many calls at once.
//!
//! The process has one end of a socket pair as descriptor 3, whose number is in
//! `ORCHESTRATOR_NODE_FD`, and speaks the frames of [`orchestrator_contract::frame`]
//! on it; stdout and stderr are log. Credit is spent by a call and given anew by a
//! `Credit` frame, sent after the call's `Result`; credit and open calls together
//! are never more than `slots_max`.
//!
//! | file | what it does |
//! |---|---|
//! | `supervise.rs` | starts, watches, restarts and stops the process; one task |
//! | `supervise/ending.rs` | how a process comes to its end |
//! | `launch.rs` | one start: socket, pipes, handshake |
//! | `connection.rs` | callers' side of a connection |
//! | `handover.rs` | what one process hands on to the next |
//! | `calls.rs`, `answer.rs` | which answer belongs to whom, which are faults, what they mean |
//! | `outbox.rs` | frames to the plugin, written by their callers or by one task |
//! | `intake.rs`, `reader.rs` | frames from the plugin, read by callers or by one task |
//! | `socket.rs` | reads and writes without waiting, and waits |

mod answer;
mod calls;
mod connection;
mod handover;
mod intake;
mod launch;
mod outbox;
mod reader;
mod socket;
mod supervise;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, PhaseCall, PhaseName, PhaseReply, Reconciled, RunId, StepId,
};
use orchestrator_manifest::Manifest;
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use crate::{
    exec::Identity,
    lifecycle::Lifecycle,
    limits::Bounds,
    moment::Moment,
    monitor::Monitor,
    outlet::Outlet,
    output,
    program::Program,
    settings::{NodeSettings, RestartSettings},
};
use connection::Connection;
pub(crate) use handover::StateHolder;
use supervise::Supervisor;

/// Commands that may wait for the supervisor.
const COMMANDS_MAX: usize = 16;

/// Everything that runs a plugin of kind `node`.
pub(crate) struct NodeParts {
    pub(crate) program: Program,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) identity: Identity,
    pub(crate) config: Arc<Value>,
    pub(crate) grants: Vec<String>,
    pub(crate) host_version: String,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) life: Arc<Lifecycle>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) settings: NodeSettings,
    pub(crate) restart: RestartSettings,
    pub(crate) crash_output_bytes: u64,
}

/// A plugin of kind `node`.
pub(crate) struct Node {
    outlet: Arc<Outlet>,
    link: watch::Receiver<Link>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    supervisor: AbortHandle,
}

/// How a plugin can be reached right now.
#[derive(Clone)]
enum Link {
    /// Nobody has asked for it yet.
    Idle,
    /// Its process is being started.
    Starting,
    Ready(Arc<Connection>),
    /// There is no process, and calls get this.
    Down(CallError),
}

enum Command {
    /// Start unless it runs; after a crash loop or a refused start, try again.
    Start,
    /// Finish within the grace period and end.
    End {
        grace: Duration,
        then: Then,
        done: oneshot::Sender<()>,
    },
}

/// What follows when a process was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    /// It is started again at once, whatever its record, and why.
    Start(String),
    /// It was not well and is started again as if it had ended by itself.
    Recover {
        reason: String,
        /// How long it was well before.
        well_for: Duration,
    },
    /// The next call starts it.
    Rest,
    /// Nothing: the plugin is stopped.
    Never,
}

/// What others may know of the supervisor's work.
#[derive(Default)]
struct Counters {
    /// 0 while there is no process.
    pid: AtomicU32,
    /// When the last one was started.
    started_at: Mutex<Option<Moment>>,
    restarts: AtomicU64,
    /// Calls that wait for credit.
    waiting: Arc<AtomicU64>,
}

impl Counters {
    fn has_started(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        *self.started_at() = Some(Moment::now());
    }

    fn started_at(&self) -> MutexGuard<'_, Option<Moment>> {
        self.started_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Sets up the supervisor, which starts nothing until it is asked to. Needs a
    /// tokio runtime.
    pub(crate) fn new(parts: NodeParts) -> Self {
        let outlet = Arc::clone(&parts.outlet);
        let counters = Arc::new(Counters::default());
        let (link_sender, link) = watch::channel(Link::Idle);
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let supervisor = Supervisor::new(parts, Arc::clone(&counters), link_sender, received);
        let supervisor = tokio::spawn(supervisor.run()).abort_handle();
        Self {
            outlet,
            link,
            commands,
            counters,
            supervisor,
        }
    }

    /// Starts the process unless it runs, and waits until it takes calls. The start
    /// goes on when the future is dropped.
    pub(crate) async fn start(&self) -> Result<(), CallError> {
        self.connection().await.map(|_| ())
    }

    /// Asks for a start without waiting for it, also after a crash loop.
    pub(crate) fn request_start(&self) {
        // A full queue holds such a request already.
        let _ = self.commands.try_send(Command::Start);
    }

    /// Calls the plugin. Dropping the future cancels the call.
    pub(crate) async fn call(&self, call: PhaseCall) -> Result<PhaseReply, CallError> {
        let _telling = Telling {
            outlet: &self.outlet,
            run: call.run,
            step: call.step.clone(),
        };
        let reply = self.connection().await?.call(call).await?;
        output::check(&reply.output).await?;
        Ok(reply)
    }

    /// Asks what became of an earlier call.
    pub(crate) async fn reconcile(&self, phase: &PhaseName, key: &str) -> Reconciled {
        let answer = async {
            let connection = self.connection().await?;
            let told = connection.reconcile(phase.clone(), key.to_owned()).await?;
            if let Reconciled::Done(reply) = &told {
                output::check(&reply.output).await?;
            }
            Ok::<_, CallError>(told)
        };
        answer.await.unwrap_or(Reconciled::Unknown)
    }

    /// Lets the process finish what it has, at most for `grace`, and ends it for good.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.end(grace, Then::Never).await;
    }

    /// The same, and starts it again, also after a crash loop. Calls that come
    /// meanwhile wait. Returns when the old process is gone.
    pub(crate) async fn restart(&self, grace: Duration, reason: &str) {
        self.end(grace, Then::Start(reason.to_owned())).await;
    }

    /// The same for a process that is not well and was for `well_for`: as often, and
    /// after such delays, as one that ends by itself. Nothing where there is none.
    pub(crate) async fn recover(&self, grace: Duration, reason: &str, well_for: Duration) {
        let reason = reason.to_owned();
        self.end(grace, Then::Recover { reason, well_for }).await;
    }

    /// The same, and starts it again with the next call.
    pub(crate) async fn rest(&self, grace: Duration) {
        self.end(grace, Then::Rest).await;
    }

    /// Dropping the future takes nothing back.
    async fn end(&self, grace: Duration, then: Then) {
        let (done, ended) = oneshot::channel();
        let command = Command::End { grace, then, done };
        if self.commands.send(command).await.is_ok() {
            // The supervisor drops the other end when it is gone.
            let _ = ended.await;
        }
    }

    /// Asks the process whether it is well. One that does not answer such questions
    /// is as well as it is there.
    pub(crate) async fn health(&self) -> Result<(), String> {
        let connection = match &*self.link.borrow() {
            Link::Ready(connection) => Arc::clone(connection),
            _ => return Err("there is no process".to_owned()),
        };
        connection.health().await
    }

    /// Kills the process and ends every call.
    pub(crate) fn close(&self) {
        self.supervisor.abort();
    }

    pub(crate) fn is_available(&self) -> bool {
        !matches!(*self.link.borrow(), Link::Down(_))
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        let pid = self.counters.pid.load(Ordering::Relaxed);
        // A supervisor that was ended has no last word.
        (pid != 0 && !self.supervisor.is_finished()).then_some(pid)
    }

    /// When its process was started, or the last one that there was.
    pub(crate) fn last_started_at(&self) -> Option<Moment> {
        *self.counters.started_at()
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.counters.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.counters.waiting.load(Ordering::Relaxed)
    }

    /// The connection; waits for it while the process starts.
    async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        if let Link::Ready(connection) = &*self.link.borrow() {
            return Ok(Arc::clone(connection));
        }
        let mut link = self.link.clone();
        loop {
            match &*link.borrow_and_update() {
                Link::Ready(connection) => return Ok(Arc::clone(connection)),
                Link::Down(error) => return Err(error.clone()),
                Link::Idle => self.request_start(),
                Link::Starting => {}
            }
            link.changed().await.map_err(|_| CallError::Unavailable {
                message: format!("plugin {}: it has stopped", self.outlet.plugin()),
            })?;
        }
    }
}

/// A call that may tell how far it is. Dropping it ends that.
struct Telling<'a> {
    outlet: &'a Outlet,
    run: RunId,
    step: StepId,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.outlet.call_ended(self.run, &self.step);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}
