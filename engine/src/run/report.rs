//! What the fold of a run's records says to people.

use orchestrator_contract::{FallbackKind, Payload, StepOutcome};

use crate::{
    journal::{FellBack, HandedOut, Resolved, RunState, RunStatus, StepState},
    pipeline::{Output, Pipeline, Scope, StepSpec, words::printable},
    report::{Describe as _, OutputView, RunReport, StepReport},
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

/// The most bytes of names and types that the record of a run's end lists.
const LISTED_BYTES_MAX: usize = 128 << 10;

/// What the record of a run's end says about its outputs.
pub(crate) fn handed_out(outputs: &[Output]) -> Option<Vec<HandedOut>> {
    let bytes = outputs.iter().map(|output| {
        // Escaped, at worst.
        6 * (output.name.len() + output.payload.content_type.as_str().len())
    });
    let listed = outputs.iter().map(|output| HandedOut {
        name: output.name.clone(),
        payload: output.view().payload,
    });
    (bytes.sum::<usize>() <= LISTED_BYTES_MAX).then(|| listed.collect())
}

/// The outputs of a run whose end lists them.
pub(crate) fn views(pipeline: &Pipeline, listed: &[HandedOut]) -> Vec<OutputView> {
    let view = |output: &HandedOut| {
        let spec = pipeline.output(&output.name);
        OutputView {
            name: output.name.clone(),
            primary: spec.is_some_and(|spec| spec.primary),
            description: spec.and_then(|spec| spec.description.clone()),
            payload: output.payload.clone(),
        }
    };
    listed.iter().map(view).collect()
}

/// From a run's creation to its last record.
pub(crate) fn duration_ms(state: &RunState) -> u64 {
    // The wall clock may step back between two records.
    u64::try_from(state.updated_ms - state.created_ms).unwrap_or_default()
}

/// Whether it has ended so that there is something to hand out.
pub(crate) const fn has_outputs(state: &RunState) -> bool {
    matches!(state.status, RunStatus::Finished(outcome) if outcome.has_outputs())
}

/// Tells a run to people. `outputs` is what it hands out.
pub(crate) fn report<O>(pipeline: &Pipeline, state: &RunState, outputs: Vec<O>) -> RunReport<O> {
    let finished = match state.status {
        RunStatus::Finished(outcome) => Some(outcome),
        RunStatus::Running => None,
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

fn fell_back(fallback: &FellBack) -> String {
    let answered = match fallback.by {
        FallbackKind::Value => "the pipeline's value",
        FallbackKind::Phase => "a phase of another plugin",
        FallbackKind::LastGood => "the last good result",
    };
    let error = printable(&fallback.error.to_string());
    format!("fell back to {answered}: {error}")
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
        fallback: None,
    };
    match step {
        StepState::Completed {
            duration_ms,
            resolved,
            fallback,
            ..
        } => {
            report.duration_ms = *duration_ms;
            report.fallback = fallback.as_ref().map(|fallback| fallback.by);
            let fell_back = fallback.as_ref().map(|fallback| fell_back(fallback));
            report.reason = resolved.as_ref().map(said).or(fell_back);
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
        let reason =
            "its run was ended while it was in flight; whether its effect happened is unknown";
        report.reason = Some(reason.to_owned());
    }
    report
}
