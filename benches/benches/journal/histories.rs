//! What a run leaves behind, the same for everybody.

use std::collections::BTreeMap;

use bytes::Bytes;
use orchestrator_contract::{
    Criticality, Payload, PluginId, RunId, RunOutcome, SessionId, StepId, TraceContext, Usage,
};
use orchestrator_engine::journal::{
    Digest, NewRecord, NewRun, PinnedPlugin, RecordBody, RunCreated, idempotency_key,
};

/// Steps a run.
pub(crate) const STEPS: usize = 10;
/// Bytes a step's result.
pub(crate) const RESULT_BYTES: usize = 240;

/// A result: JSON that nobody looks into.
pub(crate) fn result() -> Bytes {
    format!("\"{}\"", "r".repeat(RESULT_BYTES - 2)).into()
}

/// One run, as the engine would write it.
pub(crate) struct History {
    pub(crate) created: NewRun,
    /// The records that begin and end each step.
    pub(crate) steps: Vec<(NewRecord, NewRecord)>,
    pub(crate) finished: NewRecord,
}

impl History {
    /// A run of the pipeline that is kept as `definition`.
    pub(crate) fn new(definition: Digest) -> Self {
        // Only the randomness matters here.
        let run = RunId::from_parts(now_ms(), fastrand::u128(..));
        let ids = || (0..STEPS).map(|step| StepId::from(format!("step{step}").as_str()));
        let pinned = PinnedPlugin {
            plugin: PluginId::from("echo"),
            version: "1.0.0".into(),
            digest: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".into(),
        };
        let created = RunCreated {
            pipeline: "chain".into(),
            definition,
            session: SessionId::from_parts(now_ms(), fastrand::u128(..)),
            tenant: None,
            criticality: Criticality::Critical,
            trace: TraceContext::from_random(fastrand::u128(..), fastrand::u64(..), true),
            idempotency_key: None,
            plugins: ids().map(|id| (id, pinned.clone())).collect(),
            fallbacks: BTreeMap::new(),
            forked_from: None,
        };
        let result = Payload::from_json_bytes(result());
        Self {
            created: NewRun {
                run,
                at_ms: now_ms().cast_signed(),
                created,
                input: Payload::null(),
                inherited: Vec::new(),
            },
            steps: ids()
                .map(|id| (started(run, &id), completed(id, &result)))
                .collect(),
            finished: NewRecord::from(RecordBody::RunFinished {
                outcome: RunOutcome::Success,
                failed_step: None,
                error: None,
                outputs: None,
            }),
        }
    }

    /// What is appended, one piece a wait, as bytes: bodies and payloads.
    pub(crate) fn as_bytes(&self) -> Result<Vec<Bytes>, serde_json::Error> {
        let created = RecordBody::RunCreated(Box::new(self.created.created.clone()));
        let mut first = serde_json::to_vec(&created)?;
        first.extend_from_slice(&self.created.input.bytes);
        let mut pieces = vec![Bytes::from(first)];
        for (started, completed) in &self.steps {
            let mut piece = serde_json::to_vec(&started.body)?;
            piece.extend(serde_json::to_vec(&completed.body)?);
            piece.extend_from_slice(completed.payload.as_ref().map_or(&[], |it| &it.bytes[..]));
            pieces.push(piece.into());
        }
        pieces.push(serde_json::to_vec(&self.finished.body)?.into());
        Ok(pieces)
    }
}

fn started(run: RunId, step: &StepId) -> NewRecord {
    NewRecord::from(RecordBody::StepStarted {
        step: step.clone(),
        attempt: 1,
        idempotency_key: idempotency_key(run, step.as_str(), 0).into(),
    })
}

fn completed(step: StepId, result: &Payload) -> NewRecord {
    NewRecord {
        body: RecordBody::StepCompleted {
            step,
            attempts: 1,
            duration_ms: 1,
            metadata: BTreeMap::new(),
            usage: Usage::default(),
            fallback: None,
        },
        payload: Some(result.clone()),
    }
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
