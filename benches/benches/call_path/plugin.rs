//! The plugin that is called, and an engine that has it.

use std::{path::Path, sync::Arc};

use orchestrator_contract::{
    CallError, Criticality, Payload, PhaseCall, PhaseName, PhaseReply, PluginId, RunId, SessionId,
    StepId, TraceContext,
};
use orchestrator_engine::{
    Builtin, CallContext, Engine, Plugin,
    config::{Config, Sources},
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;

use crate::measure::BenchError;

pub(crate) const ID: &str = "echo";
/// Answers within the first poll.
pub(crate) const AT_ONCE: &str = "at-once";
/// Gives way once before it answers, as a phase does that waits for something.
pub(crate) const LATER: &str = "later";

/// Answers with what it is asked.
pub(crate) fn answer(call: PhaseCall) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
    Box::pin(async move {
        if call.phase.as_str() == LATER {
            tokio::task::yield_now().await;
        }
        Ok(PhaseReply::new(call.input))
    })
}

struct Echo;

impl Plugin for Echo {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        answer(call)
    }
}

/// Starts an engine with the plugin and every default.
pub(crate) async fn engine(home: &Path) -> Result<Engine, BenchError> {
    let phase = |name| serde_json::json!({ "name": name, "retryable": true });
    let manifest = serde_json::json!({
        "id": ID,
        "version": "1.0.0",
        "description": "Answers with what it is asked.",
        "kind": "builtin",
        "entry_point": ID,
        "phases": [phase(AT_ONCE), phase(LATER)],
    });
    let manifest = Manifest::from_value(&manifest, ID)?;
    let engine = Engine::builder()
        .home(home)?
        .config(Config::load(&Sources::default())?)
        .builtin(Builtin::new(manifest, Echo))
        .start()
        .await?;
    Ok(engine)
}

/// A call as the engine makes it, with 1 KiB of JSON.
pub(crate) fn call(phase: &str) -> PhaseCall {
    let input = format!("\"{}\"", "x".repeat(1022));
    PhaseCall {
        run: RunId::from_parts(1, 2),
        step: StepId::from("step"),
        plugin: PluginId::from(ID),
        phase: PhaseName::from(phase),
        attempt: 1,
        tenant: None,
        criticality: Criticality::Critical,
        deadline: None,
        idempotency_key: "0123456789abcdef0123456789abcdef".into(),
        trace: TraceContext::from_random(3, 4, true),
        session: SessionId::from_parts(5, 6),
        input: Payload::from_json_bytes(input.into_bytes()),
    }
}
