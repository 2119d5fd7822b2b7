//! What a call answers.

use orchestrator_contract::{Payload, PhaseReply, Usage};
use serde::Serialize;

use crate::Error;

/// What a call answers.
///
/// Content type, metadata and usage travel with kind `node`. Kind `exec` answers
/// with JSON alone: a text is written as a JSON text, which pipelines read as the
/// same; an output that is neither JSON nor text fails the call.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply(PhaseReply);

impl Reply {
    /// Answers bytes of a stated type.
    pub fn new(output: Payload) -> Self {
        Self(PhaseReply::new(output))
    }

    /// Answers a value as JSON.
    ///
    /// # Errors
    ///
    /// When the value cannot be JSON, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Payload::json(value)
            .map(Self::new)
            .map_err(Error::invalid_output)
    }

    /// Answers text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Payload::text(text))
    }

    /// Adds a small fact about the answer, such as a model's name. All facts
    /// together must stay under 48 KiB.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    /// Says what the call used.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.0.usage = usage;
        self
    }
}

impl From<Payload> for Reply {
    fn from(output: Payload) -> Self {
        Self::new(output)
    }
}

impl From<Reply> for PhaseReply {
    fn from(reply: Reply) -> Self {
        reply.0
    }
}
