//! From an ended run to one that begins with its results.

use std::sync::Arc;

use orchestrator_contract::{Payload, RunId, StepId, TraceContext};

use super::{
    RunHandle, Shared,
    intake::{create, new_run, place},
};
use crate::{
    error::EngineError,
    journal::{
        Fork, JournalError, NewRecord, NewRun, RecordBody, RunCreated, RunState, RunStatus,
        StepState, now_ms,
    },
    plan::Plan,
    request::check_name,
    run::key,
};

/// What became of a step of which the engine cannot know.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// It happened.
    Done(
        /// Its output, for the steps that need it.
        Payload,
    ),
    /// It did not happen, so that it can be done now.
    NotDone,
}

/// Runs an ended run again, taking over what succeeded.
pub(super) async fn retry(
    shared: &Arc<Shared>,
    run: RunId,
    from: Option<&str>,
) -> Result<RunHandle, EngineError> {
    let origin = Origin::load(shared, run).await?;
    let from = from.map(|step| origin.index(step)).transpose()?;
    let named = |index| from == Some(index);
    let again = origin.again(&named, &|index| !origin.is_kept(index));
    let after = origin.again(&named, &|_| false);
    // To name a step, or one that it needs, is a word about it.
    let in_doubt = |index: &usize| origin.is_in_doubt(*index) && !after[*index];
    if let Some(index) = (0..again.len()).find(in_doubt) {
        let step = origin.step(index).to_string();
        return Err(EngineError::InDoubt { run, step });
    }
    let Some(first) = (0..again.len()).find(|index| again[*index]) else {
        return Err(EngineError::NothingToRetry { run });
    };
    fork(shared, origin, &again, first, Vec::new()).await
}

/// Runs an ended run again in which one step is no longer in doubt. The others
/// that are stay so.
pub(super) async fn resolve(
    shared: &Arc<Shared>,
    run: RunId,
    step: &str,
    resolution: Resolution,
    by: &str,
) -> Result<RunHandle, EngineError> {
    check_name("name of who decides", by)?;
    let origin = Origin::load(shared, run).await?;
    let decided = origin.index(step)?;
    if !origin.is_in_doubt(decided) {
        let step = step.to_owned();
        return Err(EngineError::NotInDoubt { run, step });
    }
    let missing = |index| !origin.is_kept(index) && !origin.is_in_doubt(index);
    let mut again = origin.again(&|index| index == decided, &missing);
    for (index, again) in again.iter_mut().enumerate() {
        // Whatever comes before it, nobody knows whether it may be repeated.
        *again &= !origin.is_in_doubt(index);
    }
    let (happened, payload) = match resolution {
        Resolution::Done(output) => (true, Some(output)),
        Resolution::NotDone => (false, None),
    };
    let body = RecordBody::StepResolved {
        step: origin.step(decided).clone(),
        happened,
        by: by.into(),
        said_ms: now_ms(),
        attempts: origin.state(decided).attempts(),
    };
    // Not taken over as it was, for it is decided now.
    again[decided] = true;
    let said = vec![NewRecord { body, payload }];
    fork(shared, origin, &again, decided, said).await
}

/// The run that another one begins with, and the plugins that would run it now.
struct Origin {
    state: RunState,
    plan: Plan,
}

impl Origin {
    async fn load(shared: &Shared, run: RunId) -> Result<Self, EngineError> {
        let state = shared.history.state(run).await?;
        if state.status == RunStatus::Running {
            return Err(JournalError::NotEnded { run }.into());
        }
        let pipeline = shared.history.pipeline(&state).await?;
        let plan = Plan::bind(shared, Arc::new(pipeline))?;
        Ok(Self { state, plan })
    }

    fn index(&self, step: &str) -> Result<usize, EngineError> {
        let mut steps = self.plan.pipeline.steps().iter();
        let found = steps.position(|spec| spec.id.as_str() == step);
        found.ok_or_else(|| EngineError::UnknownStep {
            run: self.state.run,
            step: step.to_owned(),
        })
    }

    fn step(&self, index: usize) -> &StepId {
        &self.plan.pipeline.steps()[index].id
    }

    fn state(&self, index: usize) -> &StepState {
        self.state.step(self.step(index))
    }

    fn is_kept(&self, index: usize) -> bool {
        let state = self.state(index);
        matches!(
            state,
            StepState::Completed { .. } | StepState::Skipped { .. }
        )
    }

    /// Whether the step may have happened, and a repetition would do harm.
    fn is_in_doubt(&self, index: usize) -> bool {
        let may_have_happened = match self.state(index) {
            StepState::Unknown { .. } => return true,
            // Its run was ended while it was in flight.
            StepState::Started { .. } => true,
            StepState::Failed {
                error, attempts, ..
            } => *attempts > 0 && error.may_have_happened(),
            _ => false,
        };
        may_have_happened && !self.plan.steps[index].repeatable
    }

    /// Which steps run again: those that are named, those that are missing,
    /// and all that need one of them.
    fn again(
        &self,
        is_named: &dyn Fn(usize) -> bool,
        is_missing: &dyn Fn(usize) -> bool,
    ) -> Vec<bool> {
        let count = self.plan.pipeline.steps().len();
        let mut again = Vec::with_capacity(count);
        for index in 0..count {
            // Steps are in topological order, so those before are decided.
            let before = self.plan.pipeline.dependencies(index);
            let after = before.iter().any(|before| again[*before]);
            again.push(is_named(index) || is_missing(index) || after);
        }
        again
    }
}

/// Begins a run with the results of another one: of the steps that do not run
/// `again`, and what is `said` besides.
async fn fork(
    shared: &Arc<Shared>,
    origin: Origin,
    again: &[bool],
    first: usize,
    said: Vec<NewRecord>,
) -> Result<RunHandle, EngineError> {
    let place = place(shared)?;
    let state = &origin.state;
    let created = RunCreated {
        plugins: origin.plan.pinned(),
        trace: TraceContext::from_random(fastrand::u128(..), fastrand::u64(..), true),
        idempotency_key: None,
        forked_from: Some(Fork {
            run: state.run,
            step: origin.step(first).clone(),
        }),
        ..state.created.clone()
    };
    let kept = (0..again.len()).filter(|index| !again[*index]);
    let inherited = kept.flat_map(|index| inherited(state, origin.step(index)));
    let run = NewRun {
        run: new_run(),
        created,
        input: state.input.clone(),
        at_ms: now_ms(),
        inherited: inherited.chain(said).collect(),
    };
    create(shared, origin.plan, run, place).await
}

/// The records that bring a step of a new run to where it stood in `origin`.
fn inherited(origin: &RunState, step: &StepId) -> Vec<NewRecord> {
    let state = origin.step(step);
    let step = step.clone();
    match state {
        StepState::Completed {
            output,
            attempts,
            duration_ms,
            metadata,
            usage,
            fallback,
            resolved,
        } => {
            let body = match resolved {
                Some(resolved) => RecordBody::StepResolved {
                    step,
                    happened: true,
                    by: Arc::clone(&resolved.by),
                    said_ms: resolved.said_ms,
                    attempts: *attempts,
                },
                None => RecordBody::StepCompleted {
                    step,
                    attempts: *attempts,
                    duration_ms: *duration_ms,
                    metadata: metadata.clone(),
                    usage: *usage,
                    fallback: fallback.clone(),
                },
            };
            let payload = Some(output.clone());
            vec![NewRecord { body, payload }]
        }
        StepState::Skipped { reason } => vec![NewRecord::from(RecordBody::StepSkipped {
            step,
            reason: reason.clone(),
        })],
        // What is not in doubt of these runs again.
        StepState::Unknown {
            attempt,
            idempotency_key,
        }
        | StepState::Started {
            attempt,
            idempotency_key,
            ..
        } => in_doubt(step, *attempt, Arc::clone(idempotency_key)),
        StepState::Failed { attempts, .. } => {
            let key = key(origin, &step);
            in_doubt(step, *attempts, key)
        }
        StepState::Pending => Vec::new(),
    }
}

/// The records of a step of which nobody knows whether it happened.
fn in_doubt(step: StepId, attempt: u32, idempotency_key: Arc<str>) -> Vec<NewRecord> {
    let started = RecordBody::StepStarted {
        step: step.clone(),
        attempt,
        idempotency_key,
    };
    vec![
        started.into(),
        RecordBody::StepUnknown { step, attempt }.into(),
    ]
}
