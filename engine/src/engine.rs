//! The embedding API: start an engine, run pipelines, watch, drain.

mod builder;
mod fork;
mod intake;
mod limits;
mod plugins;
mod resume;
mod revive;
mod service;
mod strays;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::RunId;
use orchestrator_observability::Telemetry;
use orchestrator_plugin_runtime::Runtime;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{builder::EngineBuilder, fork::Resolution, intake::RunHandle, resume::Resumed};
use crate::{
    bus::{Bus, EventStream},
    config::Config,
    disabled::Disabled,
    error::EngineError,
    health::HealthWatch,
    history::RunHistory,
    journal::{InboxRequest, Journal, JournalError},
    pipeline::Pipeline,
    plan::Plan,
    report::RunReport,
    request::RunRequest,
    run::ActiveRuns,
    stack::Stacks,
};

/// Runs pipelines. Clones are the same engine.
///
/// Dropping the last clone stops it as a crash would: what was in flight stays
/// open in the journal and can be resumed. [`Engine::drain`] stops it in good
/// order.
///
/// ```no_run
/// use orchestrator_engine::{Engine, RunRequest, pipeline::Pipeline};
///
/// # async fn example() -> Result<(), orchestrator_engine::EngineError> {
/// let engine = Engine::builder().home("/var/lib/orchestrator")?.start().await?;
/// let pipeline = Pipeline::load("release-notes.yaml".as_ref())?;
/// let report = engine.run(RunRequest::new(pipeline)).await?;
/// println!("{:?} after {} ms", report.outcome, report.duration_ms);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    // Tells the background tasks when the last clone is gone.
    _alive: Arc<tokio_util::sync::DropGuard>,
}

/// What the engine's tasks share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) runtime: Runtime,
    disabled: Mutex<Disabled>,
    pub(crate) health: HealthWatch,
    pub(crate) stacks: Stacks,
    pub(crate) bus: Bus,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) history: RunHistory,
    pub(crate) active: ActiveRuns,
    warnings: Vec<String>,
    accepting: AtomicBool,
    /// One permit for each run that may be in flight.
    places: Arc<Semaphore>,
    drivers: TaskTracker,
    /// Ends every driver at its next await, leaving its run open.
    stop: CancellationToken,
}

/// What a drain left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Runs that were in flight and ended.
    pub finished: usize,
    /// Runs that did not end in time; they can be resumed.
    pub left_open: usize,
}

impl Engine {
    /// Starts to describe an engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Accepts a run and returns once it is durable, before it has ended.
    /// Dropping the handle does not end the run.
    ///
    /// A plugin that is compiled in may run pipelines while it works on a step.
    /// What it begins in the task of its call is under the step's cap: all their
    /// further attempts together are as many as the step itself may make.
    ///
    /// # Errors
    ///
    /// When the pipeline, its plugins or its input do not fit, when the
    /// idempotency key is another request's, when too many runs are in flight, when
    /// the engine drains, when the journal fails. Nothing was run then.
    pub async fn submit(&self, request: RunRequest) -> Result<RunHandle, EngineError> {
        intake::submit(&self.shared, request).await
    }

    /// Whether [`Engine::submit`] would take this pipeline now: its plugins are
    /// there and usable, they have its phases, and its steps' policies fit.
    /// Nothing is run or written.
    ///
    /// # Errors
    ///
    /// What `submit` would refuse it with, whatever its input.
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), EngineError> {
        Plan::bind(&self.shared, Arc::new(pipeline.clone())).map(drop)
    }

    /// Runs a pipeline to its end. Dropping the future does not end the run.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::submit`] and [`RunHandle::wait`]. A run that failed
    /// is a report, not an error.
    pub async fn run(&self, request: RunRequest) -> Result<RunReport, EngineError> {
        self.submit(request).await?.wait().await
    }

    /// Ends a run, in this process or in another one that has the same home.
    /// Returns once that is written down and whoever drives the run is asked; a run
    /// that nobody drives any more has ended then.
    ///
    /// # Errors
    ///
    /// When there is no such run or it has ended, or the reason is not 1 to
    /// 4,096 bytes without control characters.
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<(), EngineError> {
        resume::cancel(&self.shared, run, reason).await
    }

    /// Runs an ended run again: from `from` on, or else from the steps that
    /// did not succeed. What succeeded before that is taken over, not repeated;
    /// the steps that run get new idempotency keys.
    ///
    /// # Errors
    ///
    /// When there is no such run or step, or the run has not ended; when every
    /// step succeeded and `from` names none; when it would repeat a step that may
    /// have happened and may happen only once, and that neither is `from` nor
    /// needs it; and those of [`Engine::submit`].
    pub async fn retry(&self, run: RunId, from: Option<&str>) -> Result<RunHandle, EngineError> {
        fork::retry(&self.shared, run, from).await
    }

    /// Goes on with a run whose engine stopped in the middle of it. One that
    /// somebody wants to end, and whose plugins are not there any more as they
    /// were, is ended.
    ///
    /// # Errors
    ///
    /// When there is no such run, it has ended, its engine is alive, or its
    /// plugins are not there as they were; and those of [`Engine::submit`].
    /// The run stays as it is then.
    pub async fn resume(&self, run: RunId) -> Result<RunHandle, EngineError> {
        resume::resume(&self.shared, run).await
    }

    /// Says what became of a step of an ended run that may have happened, because
    /// it is *unknown*, was in flight or got no answer, and goes on with a new run
    /// that knows: what succeeded is taken over, the step itself is done or runs,
    /// and then what comes after it. Other such steps are *unknown* until somebody
    /// says what became of them too. `by` is who says so, and is written down.
    ///
    /// # Errors
    ///
    /// When there is no such run or step, the run has not ended, or the step
    /// is not in doubt; when `by` is not 1 to 255 bytes without control
    /// characters; and those of [`Engine::submit`].
    pub async fn resolve(
        &self,
        run: RunId,
        step: &str,
        resolution: Resolution,
        by: &str,
    ) -> Result<RunHandle, EngineError> {
        fork::resolve(&self.shared, run, step, resolution, by).await
    }

    /// [`Engine::resume`] for every run whose engine stopped in the middle of
    /// it. Runs of engines that are alive are left alone. Dropped midway, it
    /// leaves the rest as they are.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub async fn resume_all(&self) -> Result<Resumed, EngineError> {
        resume::resume_all(&self.shared).await
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> EventStream {
        self.shared.bus.subscribe()
    }

    /// The runs of this home, ended ones included.
    pub fn history(&self) -> &RunHistory {
        &self.shared.history
    }

    /// The plugins.
    pub fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The engine's metrics.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.shared.telemetry
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What an operator should know of this start and is no error: sections of
    /// the configuration that name no plugin or phase, and what disables a plugin and is
    /// no file. Logged as well, with the target `warnings`.
    pub fn warnings(&self) -> &[String] {
        &self.shared.warnings
    }

    /// Whether it takes new runs.
    pub fn is_accepting(&self) -> bool {
        self.shared.accepting.load(Ordering::Acquire)
    }

    /// Whether the journal takes records: whether the last write succeeded. As
    /// long as it does not, no run can be accepted or go on. A write is tried
    /// every second then, so that this tells of the recovery too.
    ///
    /// # Errors
    ///
    /// Why not and since when, for people.
    pub fn health(&self) -> Result<(), String> {
        let health = self.shared.journal.health();
        health.map_err(|trouble| trouble.to_string())
    }

    /// Whether [`Engine::health`] has nothing to say.
    pub fn is_writable(&self) -> bool {
        self.health().is_ok()
    }

    /// How many runs are in flight.
    pub fn runs_in_flight(&self) -> usize {
        self.shared.active.len()
    }

    /// Takes no new runs, gives those in flight `grace` to end, then stops
    /// every plugin and closes the journal. Past runs can still be read.
    /// Dropping the future leaves the engine closed for new runs and its plugins
    /// running.
    ///
    /// # Errors
    ///
    /// When plugins did not stop as they should; they are gone all the same.
    pub async fn drain(&self, grace: Duration) -> Result<DrainReport, EngineError> {
        let shared = &self.shared;
        shared.accepting.store(false, Ordering::Release);
        shared.drivers.close();
        let before = shared.active.len();
        if tokio::time::timeout(grace, shared.drivers.wait())
            .await
            .is_err()
        {
            shared.stop.cancel();
            shared.drivers.wait().await;
        }
        let left_open = shared.history.open_and_ours().await?;
        let stopped = shared
            .runtime
            .shutdown(shared.config.runtime.stop_timeout)
            .await;
        // Lets go of the runs, so that whoever starts next need not wait.
        shared.history.sqlite().close().await;
        stopped?;
        Ok(DrainReport {
            finished: before.saturating_sub(left_open),
            left_open,
        })
    }
}

impl Shared {
    /// Passes on what other processes ask of our runs, until the engine stops.
    async fn watch_inbox(self: Arc<Self>, alive: CancellationToken) {
        let poll = self.config.journal.cancel_poll;
        let mut inbox = crate::journal::Inbox::new(Arc::clone(&self.journal), poll);
        loop {
            let next = tokio::select! {
                () = alive.cancelled() => return,
                next = inbox.next() => next,
            };
            match next {
                Ok(items) => {
                    for item in items {
                        let InboxRequest::Cancel { reason } = item.request;
                        self.active.cancel(item.run, &reason);
                    }
                }
                Err(error) => tracing::warn!(%error, "requests to runs cannot be read"),
            }
        }
    }

    /// Deletes what retention says, every hour, until the engine stops. Not at
    /// once: an engine that lives for one command has other work.
    async fn sweep_journal(self: Arc<Self>, alive: CancellationToken) {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut ticks = tokio::time::interval_at(Instant::now() + MINUTE, 60 * MINUTE);
        loop {
            tokio::select! {
                () = alive.cancelled() => return,
                _ = ticks.tick() => (),
            }
            match self.journal.sweep(crate::journal::now_ms()).await {
                Ok(swept) => {
                    tracing::debug!(runs = swept.runs, blobs = swept.blobs, "journal swept")
                }
                Err(error) => tracing::warn!(%error, "the journal was not swept"),
            }
        }
    }
}

/// Whether a journal error means that the run is somebody else's now.
pub(crate) fn is_fenced(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Journal(JournalError::Append(
            crate::journal::AppendError::Fenced { .. }
        ))
    )
}

/// A directory that must be there before anything is put into it.
pub(crate) fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
