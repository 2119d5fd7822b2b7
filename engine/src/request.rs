//! What one asks of the engine.

use std::sync::Arc;

use orchestrator_contract::{Criticality, SessionId};
use serde_json::Value;

use crate::{error::EngineError, pipeline::Pipeline};

/// The most bytes of a name: that of a tenant, a request, a person.
const NAME_BYTES_MAX: usize = 255;

/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 4_096;

/// Asks for one run of a pipeline.
#[derive(Clone, Debug)]
pub struct RunRequest {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) input: Value,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) session: Option<SessionId>,
    pub(crate) criticality: Criticality,
    pub(crate) idempotency_key: Option<String>,
}

impl RunRequest {
    /// Runs `pipeline` with an empty input, in a session of its own.
    pub fn new(pipeline: impl Into<Arc<Pipeline>>) -> Self {
        Self {
            pipeline: pipeline.into(),
            input: Value::Object(serde_json::Map::new()),
            tenant: None,
            session: None,
            criticality: Criticality::default(),
            idempotency_key: None,
        }
    }

    /// Sets the run's input, an object with the fields the pipeline declares.
    #[must_use]
    pub fn input(mut self, input: Value) -> Self {
        self.input = input;
        self
    }

    /// Runs on behalf of a tenant, who has limits of their own: 1 to 255 bytes
    /// without control characters.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Continues a session, so that the run sees what earlier runs put there.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Says what may be refused first when there is too much to do.
    #[must_use]
    pub fn criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = criticality;
        self
    }

    /// Makes the request safe to repeat: a second request of the same tenant
    /// with the same key gets the first one's run, and is refused when its pipeline
    /// or input is another. 1 to 255 bytes without
    /// control characters.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Refuses what the journal, a label or a plugin's environment cannot have.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if let Some(tenant) = &self.tenant {
            check_name("tenant", tenant)?;
        }
        match &self.idempotency_key {
            Some(key) => check_name("idempotency key", key),
            None => Ok(()),
        }
    }
}

/// Refuses a name that cannot be one.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), EngineError> {
    check_text(what, text, NAME_BYTES_MAX)
}

/// Refuses a reason that cannot be written down.
pub(crate) fn check_reason(text: &str) -> Result<(), EngineError> {
    check_text("reason", text, REASON_BYTES_MAX)
}

fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), EngineError> {
    let problem = match (text.len(), text.find(char::is_control)) {
        (0, _) => "it is empty".to_owned(),
        (len, _) if len > limit => format!("it has {len} bytes"),
        (_, Some(at)) => format!("byte {at} begins a control character"),
        (_, None) => return Ok(()),
    };
    Err(EngineError::Text {
        what,
        problem,
        limit,
    })
}
