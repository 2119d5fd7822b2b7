//! From a request to a driver.

use std::sync::Arc;

use orchestrator_contract::{Payload, RunId, SessionId, TraceContext};
use orchestrator_observability::trace::with_trace;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Shared, is_fenced};
use crate::{
    caught::caught,
    error::EngineError,
    journal::{Creation, Digest, JournalError, NewRun, RunCreated, RunState, now_ms},
    plan::Plan,
    report::RunReport,
    request::RunRequest,
    run::{ActiveGuard, Control, Driver, Flight, Ledger},
    stack::cap,
};

/// A run that was accepted.
#[derive(Debug)]
pub struct RunHandle {
    run: RunId,
    created: bool,
    end: End,
}

#[derive(Debug)]
enum End {
    /// A driver of this process will say.
    Driven(oneshot::Receiver<Result<RunReport, EngineError>>),
    /// An earlier request has the run; the journal will say.
    Elsewhere(crate::history::RunHistory),
}

impl RunHandle {
    /// A run that no driver was started for.
    pub(super) fn elsewhere(shared: &Shared, run: RunId) -> Self {
        Self {
            run,
            created: false,
            end: End::Elsewhere(shared.history.clone()),
        }
    }

    /// The run.
    pub fn id(&self) -> RunId {
        self.run
    }

    /// Whether this request made the run. `false` when an earlier one with the
    /// same idempotency key did.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// Waits for the run's end. Dropping the future does not end the run.
    ///
    /// # Errors
    ///
    /// When the engine stopped before, or the journal failed. The run is open
    /// then: this engine goes on with it by itself if it can, and another one
    /// can resume it once this one is gone.
    pub async fn wait(self) -> Result<RunReport, EngineError> {
        let interrupted = EngineError::Interrupted { run: self.run };
        match self.end {
            End::Driven(end) => end.await.unwrap_or(Err(interrupted)),
            End::Elsewhere(history) => history.wait(self.run).await,
        }
    }
}

/// Accepts a run.
pub(super) async fn submit(
    shared: &Arc<Shared>,
    request: RunRequest,
) -> Result<RunHandle, EngineError> {
    request.check()?;
    let place = place(shared)?;
    let input = request.pipeline.validate_input(&request.input)?;
    let plan = Plan::bind(shared, Arc::clone(&request.pipeline))?;
    let input = Payload::json(&input).map_err(|error| EngineError::Input {
        message: error.to_string(),
    })?;
    let created = RunCreated {
        pipeline: plan.pipeline.name().into(),
        definition: Digest::of(&plan.pipeline.definition()),
        session: request.session.unwrap_or_else(new_session),
        tenant: request.tenant,
        criticality: request.criticality,
        trace: TraceContext::from_random(fastrand::u128(..), fastrand::u64(..), true),
        idempotency_key: request.idempotency_key.map(Into::into),
        plugins: plan.pinned(),
        fallbacks: plan.pinned_fallbacks(),
        forked_from: None,
    };
    let run = NewRun {
        run: new_run(),
        created,
        input,
        at_ms: now_ms(),
        inherited: Vec::new(),
    };
    create(shared, plan, run, place).await
}

/// Makes a run durable and starts its driver.
pub(super) async fn create(
    shared: &Arc<Shared>,
    plan: Plan,
    new: NewRun,
    place: OwnedSemaphorePermit,
) -> Result<RunHandle, EngineError> {
    // On the list before it is in the journal: whoever finds it there knows
    // that somebody is about to drive it.
    let entry = enter(shared, new.run)?;
    let state = RunState::of(new.clone()).map_err(JournalError::from)?;
    let creation = match shared.journal.create(new.clone()).await {
        // The first run of this pipeline, or the first for a long time.
        Err(JournalError::NoSuchDefinition { .. }) => {
            let definition = plan.pipeline.definition();
            shared.journal.put_definition(definition).await?;
            shared.journal.create(new).await?
        }
        creation => creation?,
    };
    match creation {
        Creation::Existing(run) => {
            entry.0.over();
            Ok(RunHandle::elsewhere(shared, run))
        }
        Creation::Created { .. } => {
            let work = Work::Drive { resumed: false };
            Ok(drive(shared, plan, state, (entry, place), work))
        }
    }
}

/// What a driver is started for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Drive { resumed: bool },
    GiveUp,
}

/// Puts a run on the list of those that are driven.
pub(super) fn enter(shared: &Shared, run: RunId) -> Result<Entry, EngineError> {
    let entry = shared.active.enter(run);
    entry.ok_or(EngineError::AlreadyDriven { run })
}

pub(super) type Entry = (ActiveGuard, Control);

/// Starts the run's driver.
pub(super) fn drive(
    shared: &Arc<Shared>,
    plan: Plan,
    state: RunState,
    ((guard, control), place): (Entry, OwnedSemaphorePermit),
    work: Work,
) -> RunHandle {
    let run = state.run;
    let trace = state.created.trace;
    let resumed = work != Work::Drive { resumed: false };
    let flight = Flight::start(&shared.bus, &state, resumed);
    let ledger = Ledger::new(Arc::clone(&shared.journal), state);
    let (plan, shown) = (Arc::new(plan), Arc::clone(&flight));
    // Here, and not in the driver's own task: this one may be a step's.
    let within = cap::current();
    let driver = Driver::new(Arc::clone(shared), plan, ledger, control, shown, within);
    let (sender, receiver) = oneshot::channel();
    // On the heap at once: it is large, and would be moved time and again.
    let end = Box::pin(async move {
        match work {
            Work::Drive { .. } => driver.drive().await,
            Work::GiveUp => driver.give_up().await,
        }
    });
    let end = shared.stop.clone().run_until_cancelled_owned(end);
    shared.drivers.spawn(with_trace(trace, async move {
        let result = told(run, caught(end).await, &flight);
        // The place is free and the run off the list before anybody learns of
        // the end, so that who waits for it can start the next.
        match &result {
            Ok(_) => guard.over(),
            Err(_) => drop(guard),
        }
        drop(place);
        drop(sender.send(result));
    }));
    RunHandle {
        run,
        created: !resumed,
        end: End::Driven(receiver),
    }
}

/// Tells how a driver ended, where that is not the run's end.
fn told(
    run: RunId,
    ended: Result<Option<Result<RunReport, EngineError>>, String>,
    flight: &Flight,
) -> Result<RunReport, EngineError> {
    let interrupted = || Err(EngineError::Interrupted { run });
    let result = match ended {
        Ok(result) => result.unwrap_or_else(interrupted),
        Err(panic) => {
            tracing::error!(%run, panic, "the driver of the run panicked; it is left open");
            flight.left(&format!("its driver panicked: {panic}"));
            interrupted()
        }
    };
    if let Err(error) = &result {
        match error {
            error if is_fenced(error) => {
                tracing::warn!(%run, %error, "another engine went on with the run");
            }
            EngineError::Interrupted { .. } => (),
            error => tracing::error!(%run, %error, "the run is left open"),
        }
        flight.left(&error.to_string());
    }
    result
}

/// A place for one more run, if there is one.
pub(super) fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, EngineError> {
    if !shared.accepting.load(std::sync::atomic::Ordering::Acquire) {
        return Err(EngineError::Draining);
    }
    let limit = shared.config.run.in_flight_max.get();
    let places = Arc::clone(&shared.places);
    places
        .try_acquire_owned()
        .map_err(|_| EngineError::Busy { limit })
}

pub(super) fn new_run() -> RunId {
    RunId::from_parts(unix_ms(), fastrand::u128(..))
}

fn new_session() -> SessionId {
    SessionId::from_parts(unix_ms(), fastrand::u128(..))
}

fn unix_ms() -> u64 {
    u64::try_from(now_ms()).unwrap_or_default()
}
