//! What the fold of a run's records says to people.

use orchestrator_contract::{Payload, StepOutcome};

use crate::{
    journal::{Resolved, RunState, RunStatus, StepState},
    pipeline::{Pipeline, Scope, StepSpec, words::printable},
    report::{RunReport, StepReport},
};

/// How a step ended; `None` while it may still change.
pub(crate) fn outcome(state: &StepState) -> Option<StepOutcome> {
    match state {
        StepState::Pending | StepState::Started { .. } => None,
        StepState::Completed { .. } => Some(StepOutcome::Success),
        StepState::Failed { .. } => Some(StepOutcome::Failed),
        StepState::Skipped { .. } => Some(StepOutcome::Skipped),
        StepState::Unknown { .. } => Some(StepOutcome::Unknown),
    }
}

/// Whether a step ended without what it is there for.
pub(crate) fn ended_badly(state: &StepState) -> bool {
    matches!(
        outcome(state),
        Some(StepOutcome::Failed | StepOutcome::Unknown)
    )
}

/// What expressions see of a run.
pub(crate) fn scope(pipeline: &Pipeline, state: &RunState) -> Scope {
    let mut scope = Scope::new(
        state.run,
        pipeline.name(),
        state.created.session,
        state.input.clone(),
    );
    for spec in pipeline.steps() {
        let step = state.step(&spec.id);
        if let Some(outcome) = outcome(step) {
            scope.settle(&spec.id, outcome, output(step));
        }
    }
    scope
}

/// A step's result, where it has one.
pub(crate) fn output(state: &StepState) -> Option<Payload> {
    match state {
        StepState::Completed { output, .. } => Some(output.clone()),
        _ => None,
    }
}

/// From a run's creation to its last record.
pub(crate) fn duration_ms(state: &RunState) -> u64 {
    // The wall clock may step back between two records.
    u64::try_from(state.updated_ms - state.created_ms).unwrap_or_default()
}

/// Tells a run to people.
pub(crate) fn report(pipeline: &Pipeline, state: &RunState) -> RunReport {
    let finished = match state.status {
        RunStatus::Finished(outcome) => Some(outcome),
        RunStatus::Running => None,
    };
    let outputs = match finished {
        Some(outcome) if outcome.has_outputs() => pipeline
            .evaluate_outputs(&scope(pipeline, state))
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    RunReport {
        id: state.run,
        pipeline: state.created.pipeline.clone(),
        outcome: finished,
        session: state.created.session,
        trace: state.created.trace,
        started_ms: state.created_ms,
        duration_ms: duration_ms(state),
        // The first epoch is the run's own start.
        resumed: u32::try_from(state.epoch.saturating_sub(1)).unwrap_or(u32::MAX),
        error: state.error.clone(),
        steps: pipeline
            .steps()
            .iter()
            .map(|spec| step_report(spec, state))
            .collect(),
        outputs,
    }
}

fn said(resolved: &Resolved) -> String {
    let by = printable(&resolved.by);
    match jiff::Timestamp::from_millisecond(resolved.said_ms) {
        Ok(at) => format!("{by} said at {at:.0} that it happened"),
        Err(_) => format!("{by} said that it happened"),
    }
}

fn step_report(spec: &StepSpec, state: &RunState) -> StepReport {
    let step = state.step(&spec.id);
    let pinned = state.created.plugins.get(&spec.id);
    let mut report = StepReport {
        step: spec.id.clone(),
        plugin: spec.plugin.clone(),
        version: pinned.map_or_else(|| "".into(), |pinned| pinned.version.clone()),
        phase: spec.phase.clone(),
        outcome: outcome(step),
        attempts: step.attempts(),
        duration_ms: 0,
        error: None,
        reason: None,
    };
    match step {
        StepState::Completed {
            duration_ms,
            resolved,
            ..
        } => {
            report.duration_ms = *duration_ms;
            report.reason = resolved.as_ref().map(said);
        }
        StepState::Failed {
            error, duration_ms, ..
        } => {
            report.duration_ms = *duration_ms;
            report.error = Some(error.clone());
        }
        StepState::Skipped { reason } => report.reason = Some(reason.clone()),
        StepState::Unknown { .. } => {
            report.reason = Some(format!(
                "the engine stopped while it ran; whether its effect happened is unknown. \
                 Find out, then go on with `orchestrator run resolve {} {} --done` or `--not-done`",
                state.run, spec.id,
            ));
        }
        StepState::Pending | StepState::Started { .. } => (),
    }
    // A step that was in flight when the run was cancelled gets no result any more.
    if matches!(step, StepState::Started { .. }) && state.status != RunStatus::Running {
        report.outcome = Some(StepOutcome::Cancelled);
    }
    report
}
