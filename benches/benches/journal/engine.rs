//! The whole engine: pipelines of steps that a builtin plugin answers at once.

use std::{fmt::Write as _, path::Path, sync::Arc};

use orchestrator_contract::{CallError, Payload, PhaseCall, PhaseReply, RunOutcome};
use orchestrator_engine::{
    Builtin, CallContext, Engine, Plugin, RunRequest,
    config::{Config, Sources},
    pipeline::Pipeline,
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;

use crate::{
    histories::{STEPS, result},
    measure::BenchError,
};

struct Answer(Payload);

impl Plugin for Answer {
    fn call(
        self: Arc<Self>,
        _: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async move { Ok(PhaseReply::new(self.0.clone())) })
    }
}

/// An engine and a pipeline of one step after the other.
#[derive(Clone)]
pub(crate) struct Chains {
    engine: Engine,
    pipeline: Arc<Pipeline>,
}

impl Chains {
    /// Starts an engine in `home`, whose plugin's phase may be run twice, or
    /// not.
    pub(crate) async fn start(home: &Path, repeatable: bool) -> Result<Self, BenchError> {
        let manifest = serde_json::json!({
            "id": "answer",
            "version": "1.0.0",
            "description": "Answers at once.",
            "kind": "builtin",
            "entry_point": "answer",
            "phases": [{ "name": "answer", "retryable": repeatable }],
        });
        let manifest = Manifest::from_value(&manifest, "answer")?;
        let plugin = Answer(Payload::from_json_bytes(result()));
        let engine = Engine::builder()
            .home(home)?
            .config(Config::load(&Sources::default())?)
            .builtin(Builtin::new(manifest, plugin))
            .start()
            .await?;
        let pipeline = Arc::new(Pipeline::parse(&chain(), "chain.yaml")?);
        Ok(Self { engine, pipeline })
    }

    /// Runs the pipeline once.
    pub(crate) async fn run(&self) -> Result<(), BenchError> {
        let report = self
            .engine
            .run(RunRequest::new(self.pipeline.clone()))
            .await?;
        match report.outcome {
            Some(RunOutcome::Success) => Ok(()),
            other => Err(format!("a run ended as {other:?}: {:?}", report.error).into()),
        }
    }

    pub(crate) async fn stop(self) -> Result<(), BenchError> {
        self.engine.drain(std::time::Duration::from_secs(5)).await?;
        Ok(())
    }
}

/// Each step is given the result of the one before.
fn chain() -> String {
    let mut text = String::from("version: 1\nname: chain\nsteps:\n");
    for step in 0..STEPS {
        let _ = writeln!(
            text,
            "  - id: step{step}\n    plugin: answer\n    phase: answer"
        );
        if let Some(before) = step.checked_sub(1) {
            let _ = writeln!(text, "    input: ${{{{ steps.step{before}.output }}}}");
        }
    }
    text
}
