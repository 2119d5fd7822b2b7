//! What a process is told through its environment, which is all of it.

use orchestrator_contract::{PhaseCall, frame::PROTOCOL_VERSION};
use serde_json::Value;
use tokio::time::Instant;

/// What does not change from call to call.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) plugin: String,
    pub(crate) version: String,
    /// Grants, one a line.
    pub(crate) grants: String,
    /// The configuration as JSON.
    pub(crate) config: String,
}

/// Names and values.
pub(crate) type Variables = Vec<(&'static str, String)>;

impl Identity {
    pub(crate) fn new(plugin: &str, version: &str, grants: &[String], config: &Value) -> Self {
        Self {
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            grants: grants.join("\n"),
            config: config.to_string(),
        }
    }

    /// The variables that every process of the plugin gets.
    pub(crate) fn variables(&self) -> Variables {
        vec![
            ("ORCHESTRATOR_PROTOCOL", PROTOCOL_VERSION.to_string()),
            ("ORCHESTRATOR_PLUGIN", self.plugin.clone()),
            ("ORCHESTRATOR_VERSION", self.version.clone()),
            ("ORCHESTRATOR_GRANTS", self.grants.clone()),
            ("ORCHESTRATOR_CONFIG", self.config.clone()),
        ]
    }

    /// The same and those of one call. The deadline becomes the time that remains.
    pub(crate) fn of_call(&self, call: &PhaseCall) -> Variables {
        let mut variables = self.variables();
        let criticality = serde_json::to_value(call.criticality).ok();
        let criticality = criticality
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default();
        variables.extend([
            ("ORCHESTRATOR_RUN", call.run.to_string()),
            ("ORCHESTRATOR_STEP", call.step.to_string()),
            ("ORCHESTRATOR_PHASE", call.phase.to_string()),
            ("ORCHESTRATOR_ATTEMPT", call.attempt.to_string()),
            (
                "ORCHESTRATOR_IDEMPOTENCY_KEY",
                call.idempotency_key.to_string(),
            ),
            ("ORCHESTRATOR_SESSION", call.session.to_string()),
            ("ORCHESTRATOR_CRITICALITY", criticality.to_owned()),
            (
                "ORCHESTRATOR_CONTENT_TYPE",
                call.input.content_type.to_string(),
            ),
            ("TRACEPARENT", call.trace.to_string()),
        ]);
        if let Some(tenant) = &call.tenant {
            variables.push(("ORCHESTRATOR_TENANT", tenant.to_string()));
        }
        if let Some(milliseconds) = remaining_ms(call) {
            variables.push(("ORCHESTRATOR_TIMEOUT_MS", milliseconds.to_string()));
        }
        variables
    }
}

/// The time until the call's deadline in milliseconds.
pub(crate) fn remaining_ms(call: &PhaseCall) -> Option<u64> {
    let deadline = Instant::from_std(call.deadline?);
    let remaining = deadline.saturating_duration_since(Instant::now());
    Some(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX))
}
