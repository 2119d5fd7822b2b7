//! What the expressions of a run see.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Enumerator, Object},
};
use orchestrator_contract::{Payload, RunId, SessionId, StepId, StepOutcome};

use super::expression::{Ref, References};

/// What an expression may come to in bytes, unless the caller says otherwise.
pub const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Larger payloads can be handed on whole and not looked into: as values they
/// take many times their size.
pub const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the expressions of one run see: its input, and how its steps ended.
///
/// Cloning copies pointers. A payload is decoded when an expression first
/// looks into it, and once.
#[derive(Clone, Debug)]
pub struct Scope {
    run: RunId,
    pipeline: Arc<str>,
    session: SessionId,
    input: Arc<Slot>,
    steps: BTreeMap<StepId, Arc<Settled>>,
    result_bytes_max: usize,
}

/// How a step ended.
#[derive(Debug)]
struct Settled {
    outcome: StepOutcome,
    output: Slot,
}

/// A payload and, once somebody looked, its value.
struct Slot {
    payload: Option<Payload>,
    value: OnceLock<Result<Value, String>>,
}

impl Slot {
    fn new(payload: Option<Payload>) -> Self {
        Self {
            payload,
            value: OnceLock::new(),
        }
    }

    fn value(&self) -> Value {
        let decoded = self.value.get_or_init(|| match &self.payload {
            Some(payload) => decode(payload),
            None => Ok(Value::from(())),
        });
        match decoded {
            Ok(value) => value.clone(),
            Err(message) => Error::new(ErrorKind::InvalidOperation, message.clone()).into(),
        }
    }
}

impl fmt::Debug for Slot {
    /// Shows type and size and not the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.payload, f)
    }
}

/// JSON becomes a value and text a text. Anything else has no value.
fn decode(payload: &Payload) -> Result<Value, String> {
    let content_type = &payload.content_type;
    if payload.len() > DECODED_BYTES_MAX {
        return Err(format!(
            "{} bytes are too many to look into; hand the value on whole",
            payload.len()
        ));
    }
    if content_type.is_json() {
        return serde_json::from_slice(&payload.bytes)
            .map_err(|error| format!("it says it is {content_type} and is not: {error}"));
    }
    if content_type.is_text() {
        return match std::str::from_utf8(&payload.bytes) {
            Ok(text) => Ok(Value::from(text)),
            Err(_) => Err(format!("it says it is {content_type} and is not UTF-8")),
        };
    }
    Err(format!(
        "expressions cannot look into {content_type}; hand the value on whole"
    ))
}

impl Scope {
    /// What is seen before any step has ended.
    pub fn new(
        run: RunId,
        pipeline: impl Into<Arc<str>>,
        session: SessionId,
        input: Payload,
    ) -> Self {
        Self {
            run,
            pipeline: pipeline.into(),
            session,
            input: Arc::new(Slot::new(Some(input))),
            steps: BTreeMap::new(),
            result_bytes_max: RESULT_BYTES_MAX,
        }
    }

    /// Bounds what one input or output may come to, in bytes;
    /// [`RESULT_BYTES_MAX`] otherwise. Payloads that are handed on whole are
    /// not counted.
    #[must_use]
    pub fn result_bytes_max(mut self, limit: usize) -> Self {
        self.result_bytes_max = limit;
        self
    }

    /// Says how a step ended. Only a step that succeeded has an output; that
    /// of any other is null. The last word on a step counts.
    pub fn settle(&mut self, step: &StepId, outcome: StepOutcome, output: Option<Payload>) {
        let settled = Settled {
            outcome,
            output: Slot::new(output.filter(|_| outcome == StepOutcome::Success)),
        };
        self.steps.insert(step.clone(), Arc::new(settled));
    }

    pub(super) fn limit(&self) -> usize {
        self.result_bytes_max
    }

    /// The payload behind a reference; `None` for a step that ended without
    /// one, an error for a step that has not ended.
    pub(super) fn payload(&self, reference: &Ref) -> Result<Option<&Payload>, StepId> {
        match reference {
            Ref::Input => Ok(self.input.payload.as_ref()),
            Ref::Output(step) => match self.steps.get(step) {
                Some(settled) => Ok(settled.output.payload.as_ref()),
                None => Err(step.clone()),
            },
        }
    }

    /// The variables of one expression. Steps it does not name are left out,
    /// so that this costs no more than the expression does.
    pub(super) fn context(&self, references: &References) -> Result<Value, StepId> {
        let mut steps = BTreeMap::new();
        for reference in &references.steps {
            let Some(settled) = self.steps.get(reference.id.as_str()) else {
                return Err(StepId::new(reference.id.as_str()));
            };
            steps.insert(
                reference.id.clone(),
                Value::from_dyn_object(Arc::clone(settled)),
            );
        }
        Ok(Value::from_object(Context {
            run: Value::from_pairs([
                ("id", self.run.to_string()),
                ("pipeline", self.pipeline.to_string()),
            ]),
            session: Value::from_pairs([("id", self.session.to_string())]),
            input: Arc::clone(&self.input),
            steps: Value::from_pairs(steps),
        }))
    }
}

#[derive(Debug)]
struct Context {
    run: Value,
    session: Value,
    input: Arc<Slot>,
    steps: Value,
}

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "input" => Some(self.input.value()),
            "run" => Some(self.run.clone()),
            "session" => Some(self.session.clone()),
            "steps" => Some(self.steps.clone()),
            _ => None,
        }
    }
}

impl Object for Settled {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "outcome" => Some(Value::from(self.outcome.as_str())),
            "output" => Some(self.output.value()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["outcome", "output"])
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::pipeline::expression::Expression;

    #[test]
    fn a_secret_is_not_shown_after_it_was_looked_at() {
        let secret = Payload::from_json_bytes(r#"{"token": "a planted secret"}"#);
        let (run, session) = (RunId::from_parts(1, 1), SessionId::from_parts(1, 2));
        let mut scope = Scope::new(run, "p", session, secret.clone());
        scope.settle(&StepId::new("a"), StepOutcome::Success, Some(secret));
        let expression = Expression::parse("[input.token, steps.a.output.token]").unwrap();
        let context = scope.context(expression.references()).unwrap();
        let value = expression.evaluate(context.clone()).unwrap();
        assert_eq!(
            value.get_item_by_index(1).unwrap().as_str(),
            Some("a planted secret")
        );
        let mut shown = format!("{scope:?}");
        write!(shown, "{context:?}").unwrap();
        assert!(
            shown.contains("bytes") && !shown.contains("planted"),
            "{shown}"
        );
    }

    #[test]
    fn only_success_has_an_output() {
        let (run, session) = (RunId::from_parts(1, 1), SessionId::from_parts(1, 2));
        let mut scope = Scope::new(run, "p", session, Payload::null());
        let step = StepId::new("a");
        let reference = Ref::Output(step.clone());
        assert_eq!(scope.payload(&reference), Err(step.clone()));
        scope.settle(&step, StepOutcome::Failed, Some(Payload::text("partial")));
        assert_eq!(scope.payload(&reference), Ok(None));
        scope.settle(&step, StepOutcome::Success, Some(Payload::text("whole")));
        assert_eq!(scope.payload(&reference), Ok(Some(&Payload::text("whole"))));
    }
}
