//! From a request to a driver.

use std::sync::Arc;

use orchestrator_contract::{Payload, RunId, SessionId, StepId, TraceContext};
use orchestrator_observability::trace::with_trace;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Shared, is_fenced};
use crate::{
    caught::caught,
    error::EngineError,
    journal::{
        Creation, Fork, JournalError, NewRecord, NewRun, RESTARTS_MAX, RecordBody, RunCreated,
        RunState, RunStatus, StepState, now_ms,
    },
    pipeline::Pipeline,
    plan::Plan,
    report::RunReport,
    request::RunRequest,
    run::{ActiveGuard, Control, Driver, Flight, Ledger},
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
    let place = place(shared)?;
    let input = request.pipeline.validate_input(&request.input)?;
    let plan = Plan::bind(shared, Arc::clone(&request.pipeline))?;
    let input = Payload::json(&input).map_err(|error| EngineError::Input {
        message: error.to_string(),
    })?;
    let definition = shared
        .journal
        .put_definition(plan.pipeline.definition().clone())
        .await?;
    let created = RunCreated {
        pipeline: plan.pipeline.name().into(),
        definition,
        session: request.session.unwrap_or_else(new_session),
        tenant: request.tenant,
        criticality: request.criticality,
        trace: TraceContext::from_random(fastrand::u128(..), fastrand::u64(..), true),
        idempotency_key: request.idempotency_key.map(Into::into),
        plugins: plan.pinned(),
        forked_from: None,
    };
    let run = NewRun {
        run: new_run(),
        created,
        input,
        inherited: Vec::new(),
    };
    create(shared, plan, run, place).await
}

/// Runs an ended run again, taking over what succeeded.
pub(super) async fn retry(
    shared: &Arc<Shared>,
    run: RunId,
    from: Option<&str>,
) -> Result<RunHandle, EngineError> {
    let place = place(shared)?;
    let state = shared.history.state(run).await?;
    if state.status == RunStatus::Running {
        return Err(JournalError::NotEnded { run }.into());
    }
    let pipeline = shared.history.pipeline(&state).await?;
    let kept = kept_steps(&pipeline, &state, from)?;
    let plan = Plan::bind(shared, Arc::new(pipeline))?;
    let first = plan
        .pipeline
        .steps()
        .iter()
        .map(|spec| &spec.id)
        .find(|id| !kept.contains(id));
    let created = RunCreated {
        plugins: plan.pinned(),
        trace: TraceContext::from_random(fastrand::u128(..), fastrand::u64(..), true),
        idempotency_key: None,
        forked_from: first.map(|step| Fork {
            run,
            step: step.clone(),
        }),
        ..state.created.clone()
    };
    let inherited = kept
        .iter()
        .filter_map(|step| inherited(step, state.step(step)))
        .collect();
    let run = NewRun {
        run: new_run(),
        created,
        input: state.input.clone(),
        inherited,
    };
    create(shared, plan, run, place).await
}

/// The steps whose results are taken over: those that succeeded and do not
/// come after one that runs again.
fn kept_steps(
    pipeline: &Pipeline,
    state: &RunState,
    from: Option<&str>,
) -> Result<Vec<StepId>, EngineError> {
    let steps = pipeline.steps();
    if let Some(from) = from
        && !steps.iter().any(|spec| spec.id.as_str() == from)
    {
        return Err(EngineError::UnknownStep {
            run: state.run,
            step: from.to_owned(),
        });
    }
    let mut again = vec![false; steps.len()];
    for (index, spec) in steps.iter().enumerate() {
        let named = from.is_some_and(|from| spec.id.as_str() == from);
        let missing = !matches!(
            state.step(&spec.id),
            StepState::Completed { .. } | StepState::Skipped { .. }
        );
        // Steps are in topological order, so those before are decided.
        let after = pipeline
            .dependencies(index)
            .iter()
            .any(|before| again[*before]);
        again[index] = named || missing || after;
    }
    let kept = steps.iter().zip(&again).filter(|(_, again)| !**again);
    Ok(kept.map(|(spec, _)| spec.id.clone()).collect())
}

fn inherited(step: &StepId, state: &StepState) -> Option<NewRecord> {
    match state {
        StepState::Completed {
            output,
            attempts,
            duration_ms,
            metadata,
            usage,
        } => Some(NewRecord {
            body: RecordBody::StepCompleted {
                step: step.clone(),
                attempts: *attempts,
                duration_ms: *duration_ms,
                metadata: metadata.clone(),
                usage: *usage,
            },
            payload: Some(output.clone()),
        }),
        StepState::Skipped { reason } => Some(NewRecord::from(RecordBody::StepSkipped {
            step: step.clone(),
            reason: reason.clone(),
        })),
        _ => None,
    }
}

async fn create(
    shared: &Arc<Shared>,
    plan: Plan,
    new: NewRun,
    place: OwnedSemaphorePermit,
) -> Result<RunHandle, EngineError> {
    // On the list before it is in the journal: whoever finds it there knows
    // that somebody is about to drive it.
    let entry = enter(shared, new.run)?;
    match shared.journal.create(new).await? {
        Creation::Existing(run) => {
            entry.0.over();
            Ok(RunHandle {
                run,
                created: false,
                end: End::Elsewhere(shared.history.clone()),
            })
        }
        Creation::Created { .. } => {
            let state = shared.history.state(entry.0.run()).await?;
            let work = Work::Drive { resumed: false };
            Ok(drive(shared, plan, state, (entry, place), work))
        }
    }
}

/// Goes on with every run whose engine is gone.
pub(super) async fn resume_all(shared: &Arc<Shared>) -> Result<Vec<RunHandle>, EngineError> {
    let mut handles = Vec::new();
    for open in shared.journal.open_runs().await? {
        if open.ours || open.owner_alive {
            continue;
        }
        match resume(shared, open.run).await {
            Ok(handle) => handles.push(handle),
            Err(EngineError::Busy { .. } | EngineError::Draining) => break,
            Err(error) => tracing::error!(run = %open.run, %error, "the run is not resumed"),
        }
    }
    Ok(handles)
}

/// Goes on with one run whose engine is gone.
pub(super) async fn resume(shared: &Arc<Shared>, run: RunId) -> Result<RunHandle, EngineError> {
    let place = place(shared)?;
    // The plugins are looked at before the run is taken over: a run that we
    // cannot go on with should stay with whoever can.
    let before = shared.history.state(run).await?;
    if before.status != RunStatus::Running {
        return Err(JournalError::Ended { run }.into());
    }
    let pipeline = Arc::new(shared.history.pipeline(&before).await?);
    let plan = Plan::rebind(shared, pipeline, &before)?;
    // Before the run gets a new epoch, which would end a driver it has.
    let entry = enter(shared, run)?;
    let taken = shared.journal.take_over(run).await?;
    let state = shared.history.state(run).await?;
    let hopeless = taken.restarts_without_progress > RESTARTS_MAX;
    let work = if hopeless {
        Work::GiveUp
    } else {
        Work::Drive { resumed: true }
    };
    let handle = drive(shared, plan, state, (entry, place), work);
    for item in taken.requests {
        let crate::journal::InboxRequest::Cancel { reason } = item.request;
        shared.active.cancel(run, &reason);
    }
    Ok(handle)
}

/// What a driver is started for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Drive { resumed: bool },
    GiveUp,
}

/// Puts a run on the list of those that are driven.
fn enter(shared: &Shared, run: RunId) -> Result<Entry, EngineError> {
    let entry = shared.active.enter(run);
    entry.ok_or(EngineError::AlreadyDriven { run })
}

type Entry = (ActiveGuard, Control);

/// Starts the run's driver.
fn drive(
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
    let driver = Driver::new(Arc::clone(shared), plan, ledger, control, shown);
    let (sender, receiver) = oneshot::channel();
    let end = async move {
        match work {
            Work::Drive { .. } => driver.drive().await,
            Work::GiveUp => driver.give_up().await,
        }
    };
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
fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, EngineError> {
    if !shared.accepting.load(std::sync::atomic::Ordering::Acquire) {
        return Err(EngineError::Draining);
    }
    let limit = shared.config.run.in_flight_max.get();
    let places = Arc::clone(&shared.places);
    places
        .try_acquire_owned()
        .map_err(|_| EngineError::Busy { limit })
}

fn new_run() -> RunId {
    RunId::from_parts(unix_ms(), fastrand::u128(..))
}

fn new_session() -> SessionId {
    SessionId::from_parts(unix_ms(), fastrand::u128(..))
}

fn unix_ms() -> u64 {
    u64::try_from(now_ms()).unwrap_or_default()
}
