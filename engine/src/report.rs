//! What became of a run.

use std::sync::Arc;

use orchestrator_contract::{
    CallError, FallbackKind, PhaseName, PluginId, RunId, RunOutcome, SessionId, StepId,
    StepOutcome, TraceContext,
};
use serde::Serialize;

use crate::{journal::PayloadView, pipeline::Output};

/// What became of a run, with its outputs. Serialises like its
/// [overview](RunReport::overview), without their content, which may be large and
/// secret.
#[derive(Clone, Debug, Serialize)]
#[serde(bound = "O: Describe")]
pub struct RunReport<O = Output> {
    /// The run.
    pub id: RunId,
    /// Its pipeline.
    pub pipeline: Arc<str>,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<RunOutcome>,
    /// Its session.
    pub session: SessionId,
    /// Its trace.
    pub trace: TraceContext,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// From acceptance to end, or to its last record.
    pub duration_ms: u64,
    /// How often it was continued after an engine stopped in the middle of it.
    pub resumed: u32,
    /// Why it failed, where no step's error says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
    /// Its steps, in the order of the pipeline.
    pub steps: Vec<StepReport>,
    /// Its declared outputs, when it succeeded.
    #[serde(serialize_with = "described")]
    pub outputs: Vec<O>,
}

/// What became of a run, without the content of its outputs.
pub type RunOverview = RunReport<OutputView>;

/// One thing that a run hands out, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputView {
    /// See [`Output::name`].
    pub name: String,
    /// See [`Output::primary`].
    pub primary: bool,
    /// See [`Output::description`].
    pub description: Option<String>,
    /// Its content's type and length.
    #[serde(flatten)]
    pub payload: PayloadView,
}

/// What can be told without its content.
pub trait Describe {
    /// Tells it.
    fn view(&self) -> OutputView;
}

impl Describe for Output {
    fn view(&self) -> OutputView {
        OutputView {
            name: self.name.clone(),
            primary: self.primary,
            description: self.description.clone(),
            payload: PayloadView {
                content_type: self.payload.content_type.clone(),
                length: self.payload.len() as u64,
            },
        }
    }
}

impl Describe for OutputView {
    fn view(&self) -> OutputView {
        self.clone()
    }
}

/// What became of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The step.
    pub step: StepId,
    /// The plugin.
    pub plugin: PluginId,
    /// The plugin's version.
    pub version: Arc<str>,
    /// The phase.
    pub phase: PhaseName,
    /// How it ended; `None` when it has not.
    pub outcome: Option<StepOutcome>,
    /// How many times it was tried.
    pub attempts: u32,
    /// From start to end.
    pub duration_ms: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
    /// Why it was skipped, or fell back, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What answered in place of its own phase, if that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackKind>,
}

impl RunReport {
    /// The output that the pipeline declares as its primary one.
    pub fn primary_output(&self) -> Option<&Output> {
        self.outputs.iter().find(|output| output.primary)
    }

    /// The same without the content of its outputs.
    pub fn overview(&self) -> RunOverview {
        let views = self.outputs.iter().map(Describe::view).collect();
        self.clone().with_outputs(views)
    }
}

impl<O> RunReport<O> {
    /// The same run with other outputs.
    pub(crate) fn with_outputs<P>(self, outputs: Vec<P>) -> RunReport<P> {
        RunReport {
            id: self.id,
            pipeline: self.pipeline,
            outcome: self.outcome,
            session: self.session,
            trace: self.trace,
            started_ms: self.started_ms,
            duration_ms: self.duration_ms,
            resumed: self.resumed,
            error: self.error,
            steps: self.steps,
            outputs,
        }
    }

    /// The first failed step that the run's failure comes from.
    pub fn failed_step(&self) -> Option<&StepReport> {
        let ended_badly = |step: &&StepReport| {
            matches!(
                step.outcome,
                Some(StepOutcome::Failed | StepOutcome::Unknown)
            )
        };
        self.steps.iter().find(ended_badly)
    }
}

fn described<O: Describe, S: serde::Serializer>(
    outputs: &[O],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(outputs.iter().map(Describe::view))
}
