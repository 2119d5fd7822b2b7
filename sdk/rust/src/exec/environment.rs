//! What the host says about a call in the environment of its process.

use std::env;

use orchestrator_contract::{
    ContentType, Criticality, JSON, PhaseName, RunId, SessionId, StepId, TraceContext,
    frame::CallHeader,
};
use serde::de::{DeserializeOwned, IntoDeserializer, value::Error as ValueError};
use serde_json::Value;

use crate::{Error, Setup};

/// Stands where a person who starts the plugin by hand says nothing.
const MANUAL: &str = "manual";

/// Configuration and grants.
pub(super) fn setup() -> Result<Setup, Error> {
    setup_from(&process)
}

/// The call's facts and the type of its input.
pub(super) fn call(phase: &str) -> Result<(CallHeader, ContentType), Error> {
    call_from(&process, phase)
}

/// Reads a variable; `None` when it is not set.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

fn process(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn setup_from(variable: Variables<'_>) -> Result<Setup, Error> {
    let config = match variable("ORCHESTRATOR_CONFIG").filter(|text| !text.is_empty()) {
        None => Value::Null,
        Some(text) => {
            serde_json::from_str(&text).map_err(|error| malformed("ORCHESTRATOR_CONFIG", &error))?
        }
    };
    let grants = variable("ORCHESTRATOR_GRANTS").unwrap_or_default();
    let grants = grants.lines().filter(|grant| !grant.is_empty());
    Ok(Setup::new(config, grants.map(str::to_owned).collect()))
}

fn call_from(variable: Variables<'_>, phase: &str) -> Result<(CallHeader, ContentType), Error> {
    let content_type = variable("ORCHESTRATOR_CONTENT_TYPE").map_or(JSON, ContentType::new);
    let text = |name| variable(name).unwrap_or_else(|| MANUAL.to_owned());
    let header = CallHeader {
        call: 0,
        run: parsed(variable, "ORCHESTRATOR_RUN")?.unwrap_or_else(|| RunId::from_bytes([0; 16])),
        step: StepId::new(text("ORCHESTRATOR_STEP")),
        phase: PhaseName::from(phase),
        attempt: parsed(variable, "ORCHESTRATOR_ATTEMPT")?.unwrap_or(1),
        tenant: variable("ORCHESTRATOR_TENANT").filter(|tenant| !tenant.is_empty()),
        criticality: word(variable, "ORCHESTRATOR_CRITICALITY")?.unwrap_or(Criticality::Critical),
        timeout_ms: parsed(variable, "ORCHESTRATOR_TIMEOUT_MS")?,
        idempotency_key: text("ORCHESTRATOR_IDEMPOTENCY_KEY"),
        traceparent: parsed(variable, "TRACEPARENT")?
            .unwrap_or_else(|| TraceContext::from_random(0, 0, false)),
        session: parsed(variable, "ORCHESTRATOR_SESSION")?
            .unwrap_or_else(|| SessionId::from_bytes([0; 16])),
        content_type: content_type.clone(),
        length: 0,
    };
    Ok((header, content_type))
}

fn parsed<T>(variable: Variables<'_>, name: &str) -> Result<Option<T>, Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = variable(name).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| malformed(name, &error)))
        .transpose()
}

/// Reads a word that stands for a variant.
fn word<T: DeserializeOwned>(variable: Variables<'_>, name: &str) -> Result<Option<T>, Error> {
    let text = variable(name).filter(|text| !text.is_empty());
    text.map(|text| {
        T::deserialize(text.into_deserializer())
            .map_err(|error: ValueError| malformed(name, &error))
    })
    .transpose()
}

fn malformed(name: &str, error: &dyn std::fmt::Display) -> Error {
    Error::permanent(format_args!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[(&str, &str)] = &[
        ("ORCHESTRATOR_RUN", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ("ORCHESTRATOR_STEP", "collect"),
        ("ORCHESTRATOR_ATTEMPT", "3"),
        ("ORCHESTRATOR_IDEMPOTENCY_KEY", "run/collect/1"),
        ("ORCHESTRATOR_TIMEOUT_MS", "1500"),
        ("ORCHESTRATOR_SESSION", "01ARZ3NDEKTSV4RRFFQ69G5FAW"),
        ("ORCHESTRATOR_TENANT", "acme"),
        ("ORCHESTRATOR_CRITICALITY", "sheddable_plus"),
        ("ORCHESTRATOR_CONTENT_TYPE", "text/plain"),
        (
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        (
            "ORCHESTRATOR_GRANTS",
            "process:spawn=/usr/bin/git\nsystem:info",
        ),
        ("ORCHESTRATOR_CONFIG", r#"{"depth":3}"#),
    ];

    fn with(replaced: &str, value: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| {
            if name == replaced {
                return Some(value.to_owned());
            }
            let found = HOST.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn what_the_host_says_arrives() {
        let (call, content_type) = call_from(&with("", ""), "analyze").unwrap();
        assert_eq!(call.run.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(call.step.as_str(), "collect");
        assert_eq!(call.phase.as_str(), "analyze");
        assert_eq!(call.attempt, 3);
        assert_eq!(call.idempotency_key, "run/collect/1");
        assert_eq!(call.timeout_ms, Some(1_500));
        assert_eq!(call.session.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAW");
        assert_eq!(call.tenant.as_deref(), Some("acme"));
        assert_eq!(call.criticality, Criticality::SheddablePlus);
        assert!(call.traceparent.sampled);
        assert_eq!(content_type.as_str(), "text/plain");
        let setup = setup_from(&with("", "")).unwrap();
        assert_eq!(
            setup.grants(),
            ["process:spawn=/usr/bin/git", "system:info"]
        );
        assert_eq!(setup.config::<Value>().unwrap()["depth"], 3);
    }

    #[test]
    fn by_hand_nothing_needs_to_be_said() {
        let (call, content_type) = call_from(&|_| None, "analyze").unwrap();
        assert_eq!((call.attempt, call.step.as_str()), (1, MANUAL));
        assert_eq!(call.timeout_ms, None);
        assert_eq!(content_type, JSON);
        assert_eq!(setup_from(&|_| None).unwrap(), Setup::default());
    }

    #[test]
    fn a_malformed_variable_is_named() {
        for name in [
            "ORCHESTRATOR_RUN",
            "ORCHESTRATOR_ATTEMPT",
            "ORCHESTRATOR_TIMEOUT_MS",
            "ORCHESTRATOR_CRITICALITY",
            "TRACEPARENT",
        ] {
            let error = call_from(&with(name, "nonsense"), "analyze").unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        let error = setup_from(&with("ORCHESTRATOR_CONFIG", "{")).unwrap_err();
        assert!(
            error.to_string().starts_with("ORCHESTRATOR_CONFIG"),
            "{error}"
        );
    }
}
