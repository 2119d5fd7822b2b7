//! What the expressions of a run see.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Enumerator, Object},
};
use orchestrator_contract::{Payload, RunId, SessionId, StepId, StepOutcome};

use super::{
    bounds::{DATA_BYTES_MAX, Data, may_decode},
    expression::{Ref, References},
};

/// What an expression may come to in bytes, unless the caller says otherwise.
pub const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Larger payloads can be handed on whole and not looked into: as values they
/// take many times their size.
pub const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the expressions of one run see: its input, and how its steps ended.
///
/// Cloning copies pointers. A payload is decoded when an expression first
/// looks into it, and once as long as there is room to keep what it decodes to.
#[derive(Clone, Debug)]
pub struct Scope {
    run: RunId,
    pipeline: Arc<str>,
    session: SessionId,
    input: Arc<Slot>,
    steps: BTreeMap<StepId, Arc<Settled>>,
    /// What is kept of decoded payloads, in bytes.
    kept: Arc<AtomicUsize>,
    result_bytes_max: usize,
}

/// How a step ended.
#[derive(Debug)]
struct Settled {
    outcome: StepOutcome,
    output: Arc<Slot>,
}

/// A payload and, once somebody looked, its value.
struct Slot {
    payload: Option<Payload>,
    value: OnceLock<Result<Value, String>>,
}

/// What decoded payloads take while one expression is evaluated.
#[derive(Debug)]
struct Room {
    /// Those that stay.
    kept: Arc<AtomicUsize>,
    /// Those that this expression alone looks into.
    taken: AtomicUsize,
}

impl Room {
    fn take(counter: &AtomicUsize, bytes: usize) -> bool {
        let taken = counter.fetch_add(bytes, Relaxed);
        let is_room = taken.saturating_add(bytes) <= DATA_BYTES_MAX;
        if !is_room {
            counter.fetch_sub(bytes, Relaxed);
        }
        is_room
    }
}

impl Slot {
    fn new(payload: Option<Payload>) -> Arc<Self> {
        Arc::new(Self {
            payload,
            value: OnceLock::new(),
        })
    }

    fn value(&self, room: &Room) -> Result<Value, String> {
        if let Some(kept) = self.value.get() {
            return kept.clone();
        }
        let decoded = match &self.payload {
            // Not kept: it will be decoded where that may take its time.
            Some(payload) if !may_decode(payload.len()) => {
                return Err("it is too much to look into here".to_owned());
            }
            Some(payload) => decode(payload),
            None => Ok(Data::null()),
        };
        let bytes = decoded.as_ref().map_or(0, |data| data.bytes);
        let decoded = decoded.map(|data| data.value);
        if Room::take(&room.kept, bytes) {
            if self.value.set(decoded.clone()).is_err() {
                room.kept.fetch_sub(bytes, Relaxed);
            }
        } else if !Room::take(&room.taken, bytes) {
            return Err(format!(
                "what is looked into takes more than {DATA_BYTES_MAX} bytes of memory; hand some of it on whole"
            ));
        }
        decoded
    }
}

impl fmt::Debug for Slot {
    /// Shows type and size and not the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.payload, f)
    }
}

/// A slot as one expression sees it: what it decodes to stays until the
/// expression is evaluated, whether or not it is kept after that.
struct Look {
    slot: Arc<Slot>,
    room: Arc<Room>,
    value: OnceLock<Value>,
}

impl Look {
    fn new(slot: &Arc<Slot>, room: &Arc<Room>) -> Self {
        Self {
            slot: Arc::clone(slot),
            room: Arc::clone(room),
            value: OnceLock::new(),
        }
    }

    fn value(&self) -> Value {
        let look = || match self.slot.value(&self.room) {
            Ok(value) => value,
            Err(message) => Error::new(ErrorKind::InvalidOperation, message).into(),
        };
        self.value.get_or_init(look).clone()
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.slot, f)
    }
}

/// JSON becomes a value and text a text. Anything else has no value.
fn decode(payload: &Payload) -> Result<Data, String> {
    let content_type = &payload.content_type;
    if payload.len() > DECODED_BYTES_MAX {
        return Err(format!(
            "{} bytes are too many to look into; hand the value on whole",
            payload.len()
        ));
    }
    if content_type.is_json() {
        return match serde_json::from_slice(&payload.bytes) {
            Ok(data) => Ok(data),
            // It is JSON, and too much of it.
            Err(error) if error.is_data() => Err(error.to_string()),
            Err(error) => Err(format!("it says it is {content_type} and is not: {error}")),
        };
    }
    if content_type.is_text() {
        return match std::str::from_utf8(&payload.bytes) {
            Ok(text) => Ok(Data {
                value: Value::from(text),
                bytes: text.len(),
            }),
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
            input: Slot::new(Some(input)),
            steps: BTreeMap::new(),
            kept: Arc::default(),
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
        let room = Arc::new(Room {
            kept: Arc::clone(&self.kept),
            taken: AtomicUsize::new(0),
        });
        let mut steps = BTreeMap::new();
        for reference in &references.steps {
            let Some(settled) = self.steps.get(reference.id.as_str()) else {
                return Err(StepId::new(reference.id.as_str()));
            };
            steps.insert(
                reference.id.clone(),
                Value::from_object(Step {
                    outcome: settled.outcome,
                    output: Look::new(&settled.output, &room),
                }),
            );
        }
        Ok(Value::from_object(Context {
            run: Value::from_pairs([
                ("id", self.run.to_string()),
                ("pipeline", self.pipeline.to_string()),
            ]),
            session: Value::from_pairs([("id", self.session.to_string())]),
            input: Look::new(&self.input, &room),
            steps: Value::from_pairs(steps),
        }))
    }
}

#[derive(Debug)]
struct Context {
    run: Value,
    session: Value,
    input: Look,
    steps: Value,
}

/// A step as one expression sees it.
#[derive(Debug)]
struct Step {
    outcome: StepOutcome,
    output: Look,
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

impl Object for Step {
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

    /// Texts, whose values take what they are long.
    #[test]
    fn what_decoded_payloads_take_is_bounded() {
        let (run, session) = (RunId::from_parts(1, 1), SessionId::from_parts(1, 2));
        let mut scope = Scope::new(run, "p", session, Payload::null());
        let text = Payload::text("x".repeat(DATA_BYTES_MAX / 4));
        for step in 0..9 {
            let step = StepId::new(format!("s{step}"));
            scope.settle(&step, StepOutcome::Success, Some(text.clone()));
        }
        let lengths = |steps: std::ops::Range<usize>| {
            let looks = steps.map(|step| format!("steps.s{step}.output | length"));
            let source = format!("[{}]", looks.collect::<Vec<_>>().join(", "));
            let expression = Expression::parse(&source).unwrap();
            let context = scope.context(expression.references()).unwrap();
            expression.evaluate(context)
        };
        // Four fill what is kept, and four what one expression may take beside.
        assert_eq!(lengths(0..8).unwrap().len(), Some(8));
        let error = lengths(0..9).unwrap_err();
        assert!(error.to_string().contains("is looked into takes more"));
        assert_eq!(lengths(5..9).unwrap().len(), Some(4));
    }
}
