//! What became of a run.

use std::sync::Arc;

use orchestrator_contract::{
    CallError, PhaseName, PluginId, RunId, RunOutcome, SessionId, StepId, StepOutcome, TraceContext,
};
use serde::Serialize;

use crate::pipeline::Output;

/// What became of a run. Serialises without the content of its outputs, which
/// may be large and secret.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
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
    #[serde(serialize_with = "without_content")]
    pub outputs: Vec<Output>,
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
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RunReport {
    /// The output that the pipeline declares as its primary one.
    pub fn primary_output(&self) -> Option<&Output> {
        self.outputs.iter().find(|output| output.primary)
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

fn without_content<S: serde::Serializer>(
    outputs: &[Output],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(outputs.iter().map(|output| {
        serde_json::json!({
            "name": output.name,
            "primary": output.primary,
            "description": output.description,
            "content_type": output.payload.content_type,
            "length": output.payload.len(),
        })
    }))
}
