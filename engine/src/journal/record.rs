//! What a run's history is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use orchestrator_contract::{
    CallError, ContentType, Criticality, FallbackKind, Payload, PluginId, RunId, RunOutcome,
    SessionId, StepId, TraceContext, Usage,
};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::digest::Digest;

/// One fact of a run's history, as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The position in the run, from 1, without gaps.
    pub seq: u64,
    /// Which ownership of the run wrote it, from 1.
    pub epoch: u64,
    /// When it was handed to the journal, in milliseconds since the Unix
    /// epoch, by the wall clock: it may step back.
    pub at_ms: i64,
    /// What happened.
    pub body: RecordBody,
    /// The run's input or the step's output.
    pub payload: Option<Payload>,
}

/// One fact of a run's history, told without the content of its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordView {
    /// See [`Record::seq`].
    pub seq: u64,
    /// See [`Record::epoch`].
    pub epoch: u64,
    /// See [`Record::at_ms`].
    pub at_ms: i64,
    /// What happened.
    pub body: RecordBody,
    /// What is known of its payload without reading it.
    pub payload: Option<PayloadView>,
}

/// A payload without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadView {
    /// What the content is.
    pub content_type: ContentType,
    /// Its length in bytes.
    pub length: u64,
}

/// One fact to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRecord {
    /// What happened.
    pub body: RecordBody,
    /// The step's output, where [`RecordBody::takes_payload`] says so and
    /// nowhere else.
    pub payload: Option<Payload>,
}

impl From<RecordBody> for NewRecord {
    fn from(body: RecordBody) -> Self {
        Self {
            body,
            payload: None,
        }
    }
}

/// Whose payloads are wanted with their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// All.
    All,
    /// None, of which only types are told then.
    Nothing,
    /// The run's input and the results of these steps.
    Of(BTreeSet<StepId>),
}

impl Contents {
    /// Whether the payload of `body` is wanted.
    pub(super) fn has(&self, body: &RecordBody) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Of(steps) => body.step().is_none_or(|step| steps.contains(step)),
        }
    }
}

/// What happened. Stored as JSON, tagged by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordBody {
    /// The run was accepted. Always the first record and never another; its
    /// payload is the run's input.
    RunCreated(Box<RunCreated>),
    /// Another engine, or this one again, goes on with the run.
    OwnerChanged {
        /// The engine.
        owner: OwnerId,
    },
    /// An attempt was handed to the plugin.
    StepStarted {
        /// The step.
        step: StepId,
        /// The attempt, from 1.
        attempt: u32,
        /// The key the plugin was given.
        idempotency_key: Arc<str>,
    },
    /// The step has a result, which is the payload.
    StepCompleted {
        /// The step.
        step: StepId,
        /// How many attempts it took.
        attempts: u32,
        /// From start to end, in milliseconds.
        duration_ms: u64,
        /// What the plugin said about the result.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
        /// What the plugin says it used.
        #[serde(default)]
        usage: Usage,
        /// What answered in place of the step's own phase, if that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<Box<FellBack>>,
    },
    /// The step has no result and will get none.
    StepFailed {
        /// The step.
        step: StepId,
        /// How many attempts were made.
        attempts: u32,
        /// From start to end, in milliseconds.
        duration_ms: u64,
        /// The last error.
        error: CallError,
    },
    /// The step was not run and will not be.
    StepSkipped {
        /// The step.
        step: StepId,
        /// Why, for people.
        reason: String,
    },
    /// An engine stopped in the middle of an attempt whose effect may or may
    /// not have happened. A result may still follow.
    StepUnknown {
        /// The step.
        step: StepId,
        /// The attempt.
        attempt: u32,
    },
    /// A person said what became of a step of which nobody knew, of this run or
    /// the one that it was begun with. When it happened, its output is the
    /// payload; else it may run again.
    StepResolved {
        /// The step.
        step: StepId,
        /// Whether it happened.
        happened: bool,
        /// Who said so.
        by: Arc<str>,
        /// When that was, in milliseconds since the Unix epoch.
        said_ms: i64,
        /// How many attempts were made before.
        attempts: u32,
    },
    /// Somebody wants the run to end.
    CancelRequested {
        /// Why, for people.
        reason: String,
    },
    /// The run ended. Nothing follows.
    RunFinished {
        /// How it ended.
        outcome: RunOutcome,
        /// The step that decided a failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed_step: Option<StepId>,
        /// That step's error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<CallError>,
        /// What it hands out, so that telling of it needs no evaluation. Absent
        /// where the list is long, and in journals of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outputs: Option<Vec<HandedOut>>,
    },
}

/// Whose answer a step has whose own phase failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// What answered.
    pub by: FallbackKind,
    /// Why the step's own phase did not.
    pub error: CallError,
}

/// One output of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOut {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub payload: PayloadView,
}

/// Everything a run is told when it begins, besides its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunCreated {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The pipeline's definition, as
    /// [`put_definition`](super::Journal::put_definition) named it.
    pub definition: Digest,
    /// The session its phases share.
    pub session: SessionId,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// What may be refused first.
    pub criticality: Criticality,
    /// Its trace.
    pub trace: TraceContext,
    /// What the caller named this request; a second one of the same tenant
    /// finds the first one's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Arc<str>>,
    /// Which plugin answers each step, for as long as the run lasts.
    pub plugins: BTreeMap<StepId, PinnedPlugin>,
    /// Which plugins steps fall back to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<StepId, PinnedPlugin>,
    /// The run whose results it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Fork>,
}

/// Exactly which plugin a run uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedPlugin {
    /// The plugin.
    pub plugin: PluginId,
    /// Its version.
    pub version: Arc<str>,
    /// The digest of its package.
    pub digest: Arc<str>,
}

/// Where a run's history was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The earlier run.
    pub run: RunId,
    /// The first step that runs again, or that a person decided about.
    pub step: StepId,
}

impl RecordBody {
    /// The kind, as `kind` in the stored JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::RunCreated(_) => "run_created",
            Self::OwnerChanged { .. } => "owner_changed",
            Self::StepStarted { .. } => "step_started",
            Self::StepCompleted { .. } => "step_completed",
            Self::StepFailed { .. } => "step_failed",
            Self::StepSkipped { .. } => "step_skipped",
            Self::StepUnknown { .. } => "step_unknown",
            Self::StepResolved { .. } => "step_resolved",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::RunFinished { .. } => "run_finished",
        }
    }

    /// The step it is about.
    pub const fn step(&self) -> Option<&StepId> {
        match self {
            Self::StepStarted { step, .. }
            | Self::StepCompleted { step, .. }
            | Self::StepFailed { step, .. }
            | Self::StepSkipped { step, .. }
            | Self::StepUnknown { step, .. }
            | Self::StepResolved { step, .. } => Some(step),
            _ => None,
        }
    }

    /// The attempt it is about, or the last of several.
    pub const fn attempt(&self) -> Option<u32> {
        match self {
            Self::StepStarted { attempt, .. } | Self::StepUnknown { attempt, .. } => Some(*attempt),
            Self::StepCompleted { attempts, .. }
            | Self::StepFailed { attempts, .. }
            | Self::StepResolved { attempts, .. } => Some(*attempts),
            _ => None,
        }
    }

    /// Whether it comes with a payload.
    pub const fn takes_payload(&self) -> bool {
        matches!(
            self,
            Self::RunCreated(_)
                | Self::StepCompleted { .. }
                | Self::StepResolved { happened: true, .. }
        )
    }

    /// Whether the run is nearer to its end after it. Starts do not count:
    /// an engine that dies in every start would otherwise look busy.
    pub const fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::StepCompleted { .. }
                | Self::StepFailed { .. }
                | Self::StepSkipped { .. }
                | Self::StepResolved { happened: true, .. }
                | Self::RunFinished { .. }
        )
    }
}

/// Identifies one opening of a journal: the owner of the runs it creates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(Ulid);

impl OwnerId {
    pub(super) fn random(now_ms: i64) -> Self {
        Self(Ulid::from_parts(
            now_ms.try_into().unwrap_or_default(),
            fastrand::u128(..),
        ))
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; ulid::ULID_LEN];
        f.pad(self.0.array_to_str(&mut buffer))
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OwnerId {
    type Err = ulid::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text).map(Self)
    }
}

impl Serialize for OwnerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OwnerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_tagged_by_its_kind() {
        let body = RecordBody::StepFailed {
            step: "build".into(),
            attempts: 2,
            duration_ms: 7,
            error: CallError::permanent("no"),
        };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"step_failed","step":"build","attempts":2,"duration_ms":7,"error":{"kind":"plugin_permanent","message":"no"}}"#
        );
        assert_eq!(serde_json::from_str::<RecordBody>(&json).unwrap(), body);
    }

    #[test]
    fn the_kind_in_the_column_is_the_kind_in_the_json() {
        let bodies = [
            RecordBody::OwnerChanged {
                owner: OwnerId::random(0),
            },
            RecordBody::StepUnknown {
                step: "a".into(),
                attempt: 1,
            },
            RecordBody::StepResolved {
                step: "a".into(),
                happened: true,
                by: "ada".into(),
                said_ms: 1,
                attempts: 1,
            },
            RecordBody::CancelRequested {
                reason: "bored".into(),
            },
            RecordBody::RunFinished {
                outcome: RunOutcome::Success,
                failed_step: None,
                error: None,
                outputs: None,
            },
        ];
        for body in bodies {
            let json = serde_json::to_value(&body).unwrap();
            assert_eq!(json["kind"], body.kind());
        }
    }
}
