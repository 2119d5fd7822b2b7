//! One step of one run: from its input to its record.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{CallError, Event, Payload, PhaseCall, PhaseReply, RunId, StepId};
use orchestrator_observability::trace::with_trace;
use orchestrator_policies::AttemptBudget;
use tokio::{sync::Notify, time::Instant};
use tower::ServiceExt;

use crate::{
    journal::{FellBack, NewRecord, RecordBody, RunState, idempotency_key},
    pipeline::{EvalError, Scope, StepSpec},
    plan::{Plan, PlannedFallback, PlannedPhase, PlannedStep},
    stack::{
        Attempts, PhaseStack, StackCall, Teller, cap,
        fallback::{self, Standby},
    },
};

/// What a step works on.
pub(crate) struct StepInput {
    pub(crate) input: Payload,
    /// The value that it falls back to, if it is one.
    pub(crate) fallback: Option<Payload>,
}

/// Evaluates condition and input of a step. `Err` is the record of a step that
/// ends without being run.
pub(crate) fn input(spec: &StepSpec, scope: &Scope) -> Result<StepInput, RecordBody> {
    let failed = |error: EvalError| RecordBody::StepFailed {
        step: spec.id.clone(),
        attempts: 0,
        duration_ms: 0,
        error: CallError::invalid_input(error.to_string()),
    };
    if !spec.evaluate_when(scope).map_err(failed)? {
        return Err(RecordBody::StepSkipped {
            step: spec.id.clone(),
            reason: "its condition is false".to_owned(),
        });
    }
    Ok(StepInput {
        input: spec.evaluate_input(scope).map_err(failed)?,
        fallback: spec.evaluate_fallback(scope).map_err(failed)?,
    })
}

/// A step that is about to be called.
pub(crate) struct StepTask {
    step: StepId,
    request: StackCall,
    /// What the call and all that it leads to have left.
    cap: AttemptBudget,
    stack: PhaseStack,
    /// What answers if the call fails.
    standby: Option<Standby>,
    repeatable: bool,
    version: Arc<str>,
}

impl StepTask {
    /// The next attempt at step `index`. `again` is told of those after it,
    /// which are paid for out of `within` where the run is part of a step.
    pub(crate) fn new(
        plan: &Plan,
        state: &RunState,
        index: usize,
        StepInput { input, fallback }: StepInput,
        again: &Arc<Notify>,
        within: Option<&AttemptBudget>,
    ) -> Self {
        let spec = &plan.pipeline.steps()[index];
        let PlannedStep {
            handle,
            stack,
            version,
            repeatable,
            retryable,
            fallback: planned,
        } = &plan.steps[index];
        let call = PhaseCall {
            run: state.run,
            step: spec.id.clone(),
            plugin: handle.id().clone(),
            phase: spec.phase.clone(),
            attempt: state.step(&spec.id).attempts() + 1,
            tenant: state.created.tenant.clone(),
            criticality: state.created.criticality,
            deadline: None,
            idempotency_key: key(state, &spec.id),
            trace: state.created.trace.child(fastrand::u64(..)),
            session: state.created.session,
            input,
        };
        let cap = cap::of_step(within, stack.max_attempts, call.attempt);
        let request = StackCall::of_step(call, *retryable, Arc::clone(again), cap.clone());
        let standby = planned.as_ref().and_then(|planned| match planned {
            PlannedFallback::Value => fallback.map(Standby::Value),
            PlannedFallback::Phase(planned) => {
                let call = in_place(request.call(), planned);
                let request = StackCall::in_place(call, planned.retryable, cap.clone());
                Some(Standby::Phase(planned.stack.clone(), request))
            }
            PlannedFallback::LastGood(results) => {
                Some(Standby::LastGood(results.of(&request, handle.version())))
            }
        });
        Self {
            step: spec.id.clone(),
            request,
            standby,
            cap,
            stack: stack.clone(),
            repeatable: *repeatable,
            version: version.clone(),
        }
    }

    pub(crate) fn step(&self) -> &StepId {
        &self.step
    }

    /// Counts the attempts, while the step runs and after.
    pub(crate) fn attempts(&self) -> Attempts {
        self.request.attempts()
    }

    /// Whether a second start could do harm.
    pub(crate) fn must_not_repeat(&self) -> bool {
        !self.repeatable
    }

    /// The record that an attempt begins.
    pub(crate) fn started(&self) -> NewRecord {
        let call = self.request.call();
        NewRecord::from(RecordBody::StepStarted {
            step: self.step.clone(),
            attempt: call.attempt,
            idempotency_key: call.idempotency_key.clone(),
        })
    }

    pub(crate) fn started_event(&self) -> Event {
        let call = self.request.call();
        Event::StepStarted {
            run: call.run,
            step: self.step.clone(),
            plugin: call.plugin.clone(),
            version: self.version.clone(),
            phase: call.phase.clone(),
        }
    }

    /// Calls the phase, and what it falls back to. Dropping the future cancels
    /// the call.
    pub(crate) async fn run(self, teller: Teller) -> StepDone {
        let started = Instant::now();
        let attempts = self.attempts();
        let trace = self.request.call().trace;
        let (service, request) = (self.stack.service, self.request);
        let repeatable = self.repeatable;
        let call = cap::under(self.cap, async move {
            match self.standby {
                None => (service.oneshot(request).await, None),
                Some(standby) => {
                    fallback::call(service, request, standby, repeatable, teller).await
                }
            }
        });
        let (result, fallback) = with_trace(trace, call).await;
        StepDone {
            step: self.step,
            result,
            fallback,
            attempts: attempts.made(),
            duration: started.elapsed(),
        }
    }
}

/// The call of a phase that a step falls back to.
fn in_place(call: &PhaseCall, planned: &PlannedPhase) -> PhaseCall {
    PhaseCall {
        plugin: planned.handle.id().clone(),
        phase: planned.phase.clone(),
        attempt: 1,
        ..call.clone()
    }
}

/// A key that stays the same for every attempt of a step.
pub(crate) fn key(state: &RunState, step: &StepId) -> Arc<str> {
    idempotency_key(state.run, step.as_str(), 0).into()
}

/// How a step ended.
pub(crate) struct StepDone {
    pub(crate) step: StepId,
    pub(crate) result: Result<PhaseReply, CallError>,
    /// Whose result it is, if not that of the step's own phase.
    pub(crate) fallback: Option<Box<FellBack>>,
    pub(crate) attempts: u32,
    pub(crate) duration: Duration,
}

impl StepDone {
    /// The record of the step's end.
    pub(crate) fn record(self) -> NewRecord {
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let (step, attempts) = (self.step, self.attempts);
        match self.result {
            Ok(reply) => NewRecord {
                body: RecordBody::StepCompleted {
                    step,
                    attempts,
                    duration_ms,
                    metadata: reply.metadata,
                    usage: reply.usage,
                    fallback: self.fallback,
                },
                payload: Some(reply.output),
            },
            Err(error) => NewRecord::from(RecordBody::StepFailed {
                step,
                attempts,
                duration_ms,
                error,
            }),
        }
    }
}

/// The end of a step whose own end, in `record`, cannot be held.
pub(crate) fn too_large(record: &NewRecord, why: String) -> NewRecord {
    let (step, attempts, duration_ms) = match &record.body {
        RecordBody::StepCompleted {
            step,
            attempts,
            duration_ms,
            ..
        }
        | RecordBody::StepFailed {
            step,
            attempts,
            duration_ms,
            ..
        } => (step, *attempts, *duration_ms),
        _ => return record.clone(),
    };
    NewRecord::from(RecordBody::StepFailed {
        step: step.clone(),
        attempts,
        duration_ms,
        error: CallError::ResourceLimit {
            resource: "output".to_owned(),
            message: why,
        },
    })
}

/// The event that tells of a step's end, where `body` is one.
pub(crate) fn ended_event(run: RunId, plan: &Plan, body: &RecordBody) -> Option<Event> {
    use orchestrator_contract::StepOutcome;

    let (outcome, attempts, duration_ms, error) = match body {
        RecordBody::StepCompleted {
            attempts,
            duration_ms,
            ..
        } => (StepOutcome::Success, *attempts, *duration_ms, None),
        RecordBody::StepFailed {
            attempts,
            duration_ms,
            error,
            ..
        } => (
            StepOutcome::Failed,
            *attempts,
            *duration_ms,
            Some(error.kind()),
        ),
        RecordBody::StepSkipped { .. } => (StepOutcome::Skipped, 0, 0, None),
        RecordBody::StepUnknown { attempt, .. } => (StepOutcome::Unknown, *attempt, 0, None),
        _ => return None,
    };
    let step = body.step()?;
    let spec = plan.pipeline.steps().iter().find(|spec| spec.id == *step)?;
    Some(Event::StepFinished {
        run,
        step: step.clone(),
        plugin: spec.plugin.clone(),
        phase: spec.phase.clone(),
        outcome,
        attempts,
        duration_ms,
        error,
    })
}
