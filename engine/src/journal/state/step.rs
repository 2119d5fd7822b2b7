//! What a history says about one step.

use std::{collections::BTreeMap, sync::Arc};

use orchestrator_contract::{CallError, Payload, Usage};

use crate::journal::record::{FellBack, RecordBody};

/// Where a step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum StepState {
    /// Nothing is known of it.
    Pending,
    /// An attempt was handed to the plugin.
    Started {
        /// The attempt, from 1.
        attempt: u32,
        /// The key the plugin was given.
        idempotency_key: Arc<str>,
        /// When, in milliseconds since the Unix epoch.
        at_ms: i64,
    },
    /// It has a result.
    Completed {
        /// The result.
        output: Payload,
        /// How many attempts it took.
        attempts: u32,
        /// From start to end, in milliseconds.
        duration_ms: u64,
        /// What the plugin said about the result.
        metadata: BTreeMap<String, String>,
        /// What the plugin says it used.
        usage: Usage,
        /// What answered in place of its own phase, if that failed.
        fallback: Option<Box<FellBack>>,
        /// Who said that it happened, where it was not the plugin.
        resolved: Option<Resolved>,
    },
    /// It has no result and will get none.
    Failed {
        /// The last error.
        error: CallError,
        /// How many attempts were made.
        attempts: u32,
        /// From start to end, in milliseconds.
        duration_ms: u64,
    },
    /// It was not run and will not be.
    Skipped {
        /// Why, for people.
        reason: String,
    },
    /// An engine stopped in the middle of an attempt.
    Unknown {
        /// The attempt.
        attempt: u32,
        /// The key the plugin was given.
        idempotency_key: Arc<str>,
    },
}

/// The word of a person about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Who.
    pub by: Arc<str>,
    /// When, in milliseconds since the Unix epoch.
    pub said_ms: i64,
}

impl StepState {
    /// Whether nothing more can happen to it.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Completed { .. } | Self::Failed { .. } | Self::Skipped { .. }
        )
    }

    /// The attempts made so far, which a resume goes on counting from.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::Pending | Self::Skipped { .. } => 0,
            Self::Started { attempt, .. } | Self::Unknown { attempt, .. } => *attempt,
            Self::Completed { attempts, .. } | Self::Failed { attempts, .. } => *attempts,
        }
    }

    /// Where it stands after a record about it, or why that cannot follow.
    pub(super) fn after(
        &self,
        body: RecordBody,
        payload: Option<Payload>,
        at_ms: i64,
    ) -> Result<Self, &'static str> {
        if self.is_final() {
            return Err("the step already has a result");
        }
        match (body, payload) {
            (
                RecordBody::StepStarted {
                    attempt,
                    idempotency_key,
                    ..
                },
                None,
            ) => {
                if attempt == 0 || attempt < self.attempts() {
                    return Err("attempts are counted backwards");
                }
                Ok(Self::Started {
                    attempt,
                    idempotency_key,
                    at_ms,
                })
            }
            (RecordBody::StepUnknown { attempt, .. }, None) => match self {
                Self::Started {
                    attempt: started,
                    idempotency_key,
                    ..
                } if *started == attempt => Ok(Self::Unknown {
                    attempt,
                    idempotency_key: Arc::clone(idempotency_key),
                }),
                _ => Err("the attempt was not started"),
            },
            (body, payload) => Self::ended(body, payload),
        }
    }

    fn ended(body: RecordBody, payload: Option<Payload>) -> Result<Self, &'static str> {
        match (body, payload) {
            (
                RecordBody::StepCompleted {
                    attempts,
                    duration_ms,
                    metadata,
                    usage,
                    fallback,
                    ..
                },
                Some(output),
            ) => Ok(Self::Completed {
                output,
                attempts,
                duration_ms,
                metadata,
                usage,
                fallback,
                resolved: None,
            }),
            (
                RecordBody::StepResolved {
                    happened: true,
                    by,
                    said_ms,
                    attempts,
                    ..
                },
                Some(output),
            ) => Ok(Self::Completed {
                output,
                attempts,
                duration_ms: 0,
                metadata: BTreeMap::new(),
                usage: Usage::default(),
                fallback: None,
                resolved: Some(Resolved { by, said_ms }),
            }),
            (
                RecordBody::StepResolved {
                    happened: false, ..
                },
                None,
            ) => Ok(Self::Pending),
            (
                RecordBody::StepFailed {
                    attempts,
                    duration_ms,
                    error,
                    ..
                },
                None,
            ) => Ok(Self::Failed {
                error,
                attempts,
                duration_ms,
            }),
            (RecordBody::StepSkipped { reason, .. }, None) => Ok(Self::Skipped { reason }),
            _ => Err("its kind and its payload do not fit"),
        }
    }
}
