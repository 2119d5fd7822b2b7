//! The JSON headers of the frames.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CallError, ContentType, Criticality, HostCallError, HostOperation, LogLevel, PhaseName,
    PluginId, RunId, SessionId, StepId, TraceContext, Usage,
};

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Who a plugin is and what it offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol version the plugin speaks.
    pub protocol: u32,
    /// The plugin's id; must equal its manifest's.
    pub plugin: PluginId,
    /// The plugin's version; must equal its manifest's.
    pub version: String,
    /// The phases it answers.
    pub phases: Vec<PhaseName>,
    /// Whether it answers a `HealthCheck`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub health: bool,
    /// Whether it answers `GetState` and takes `RestoreState`.
    #[serde(default)]
    pub state: bool,
}

/// What the host agreed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version both speak from now on.
    pub protocol: u32,
    /// The host's version.
    pub host: String,
    /// The plugin's configuration, an object; empty when it has none.
    pub config: serde_json::Value,
    /// What the operator granted, each as `resource:action[=scope]`.
    pub grants: Vec<String>,
}

/// More calls may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// How many more.
    pub calls: u32,
}

/// One call. See [`crate::PhaseCall`] for the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallHeader {
    /// Names the call on this connection; never used twice.
    pub call: u64,
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: StepId,
    /// The phase.
    pub phase: PhaseName,
    /// The attempt, from 1.
    pub attempt: u32,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What may be refused first.
    pub criticality: Criticality,
    /// How long the host will wait from now, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The same for every attempt of a step.
    pub idempotency_key: String,
    /// Where the call stands in its trace.
    pub traceparent: TraceContext,
    /// The session.
    pub session: SessionId,
    /// What the input is.
    pub content_type: ContentType,
    /// The length of the whole input in bytes.
    pub length: u64,
}

/// A call was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The call.
    pub call: u64,
}

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The call.
    pub call: u64,
    /// Hundredths done, 0 to 100, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// What it is doing.
    #[serde(default)]
    pub message: String,
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// The call it belongs to, when it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// How serious it is.
    pub level: LogLevel,
    /// The line.
    pub message: String,
}

/// The end of a call or of a reconcile question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultHeader {
    /// The call.
    pub call: u64,
    /// Why there is no output, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
    /// The answer to a `Reconcile`; absent in the answer to a `Call`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconcile: Option<ReconcileStatus>,
    /// What the output is; JSON when absent.
    #[serde(default = "json")]
    pub content_type: ContentType,
    /// The length of the whole output in bytes.
    #[serde(default)]
    pub length: u64,
    /// Small facts about the output.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What the call used.
    #[serde(default)]
    pub usage: Usage,
}

impl ResultHeader {
    /// Of a JSON output of `length` bytes, of which nothing else is said.
    pub fn of(call: u64, length: u64) -> Self {
        Self {
            call,
            error: None,
            reconcile: None,
            content_type: crate::JSON,
            length,
            metadata: BTreeMap::new(),
            usage: Usage::default(),
        }
    }
}

fn json() -> ContentType {
    crate::JSON
}

/// What became of an earlier call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReconcileStatus {
    /// The effect happened; the payload is its result.
    Done,
    /// The effect did not happen.
    NotDone,
    /// The plugin cannot tell.
    Unknown,
}

/// Stop working on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The call.
    pub call: u64,
    /// How firmly.
    pub mode: CancelMode,
}

/// How firmly a call is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelMode {
    /// Stop at the next good moment.
    Cooperative,
    /// The host no longer waits for a `Result`.
    Abandon,
}

/// Finish what you have, then end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// How long the host waits, in milliseconds.
    pub grace_ms: u64,
}

/// Did the call with this key have its effect?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconcile {
    /// Names the question; from the same numbers as calls.
    pub call: u64,
    /// The phase.
    pub phase: PhaseName,
    /// The key of the call in question.
    pub idempotency_key: String,
}

/// Are you well?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Names the question; rises.
    pub check: u64,
}

/// Whether a plugin is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The question.
    pub check: u64,
    /// What is wrong, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What does a later process of the plugin need to go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetState {
    /// Names the question; from the same numbers as calls.
    pub call: u64,
}

/// Go on with what an earlier process of the plugin had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreState {
    /// Names the question; from the same numbers as calls.
    pub call: u64,
    /// The version of the plugin that gave the state.
    pub from_version: String,
    /// The length of the whole state in bytes.
    pub length: u64,
}

/// A question to the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostCall {
    /// Names the question on this connection.
    pub id: u64,
    /// The call during which it is asked.
    pub call: u64,
    /// The question.
    pub request: HostOperation,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostResult {
    /// The question.
    pub id: u64,
    /// The answer; null when there is an error.
    #[serde(default)]
    pub value: serde_json::Value,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<HostCallError>,
}

/// More of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The call whose payload it is.
    pub call: u64,
}
