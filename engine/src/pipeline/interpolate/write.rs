//! Evaluates values with expressions in them.

use orchestrator_contract::Payload;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Part, Piece};
use crate::pipeline::{
    bounds::may_decode,
    error::EvalError,
    expression::{Expression, Ref},
    json::{self, Bounded, NotJson},
    scope::Scope,
    words::pointer,
};

/// The payload behind a reference, if there is one.
pub(super) fn whole<'s>(
    scope: &'s Scope,
    reference: &Ref,
    place: &str,
) -> Result<Option<&'s Payload>, EvalError> {
    scope
        .payload(reference)
        .map_err(|step| EvalError::not_ended(place, step))
}

/// Evaluates one value.
pub(super) struct Writer<'s> {
    scope: &'s Scope,
    place: &'s str,
    out: Bounded,
}

impl<'s> Writer<'s> {
    pub(super) fn new(scope: &'s Scope, place: &'s str) -> Self {
        Self {
            scope,
            place,
            out: Bounded::new(scope.limit()),
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out.into_bytes()
    }

    fn push(
        &mut self,
        at: &str,
        expression: &str,
        write: impl FnOnce(&mut Bounded) -> Result<(), NotJson>,
    ) -> Result<(), EvalError> {
        let limit = self.scope.limit();
        write(&mut self.out).map_err(|error| {
            let place = format!("{}{at}", self.place);
            EvalError::from_json(place, expression, limit, error)
        })
    }

    pub(super) fn part(&mut self, part: &Part, at: &str) -> Result<(), EvalError> {
        match part {
            Part::Fixed(value) => self.push(at, "", |out| out.push(value.to_string())),
            Part::Whole(reference, expression) => self.embed(reference, expression, at),
            Part::Expression(expression) => {
                let value = self.value(expression, at)?;
                self.push(at, expression.source(), |out| json::write(&value, out))
            }
            Part::Text(pieces) => {
                let mut text = Self::new(self.scope, self.place);
                text.pieces(pieces, at)?;
                let text = String::from_utf8_lossy(&text.into_bytes()).into_owned();
                self.push(at, "", |out| out.push_string(&text))
            }
            Part::List(parts) => {
                self.push(at, "", |out| out.push("["))?;
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        self.push(at, "", |out| out.push(","))?;
                    }
                    self.part(part, &format!("{at}/{index}"))?;
                }
                self.push(at, "", |out| out.push("]"))
            }
            Part::Table(parts) => {
                self.push(at, "", |out| out.push("{"))?;
                for (index, (key, part)) in parts.iter().enumerate() {
                    self.push(at, "", |out| {
                        out.push(if index > 0 { "," } else { "" })?;
                        out.push_string(key)?;
                        out.push(":")
                    })?;
                    self.part(part, &pointer(at, key))?;
                }
                self.push(at, "", |out| out.push("}"))
            }
        }
    }

    /// Writes what a file would hold: text without quotes, and everything
    /// else as JSON. Returns whether it is text.
    pub(super) fn file(&mut self, part: &Part) -> Result<bool, EvalError> {
        match part {
            Part::Fixed(Value::String(text)) => self.push("", "", |out| out.push(text))?,
            Part::Text(pieces) => self.pieces(pieces, "")?,
            Part::Expression(expression) => {
                let value = self.value(expression, "")?;
                let source = expression.source();
                let Some(text) = value.as_str() else {
                    self.push("", source, |out| json::write(&value, out))?;
                    return Ok(false);
                };
                self.push("", source, |out| out.push(text))?;
            }
            other => {
                self.part(other, "")?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A payload within a value: JSON is put in as it was written, so that no
    /// number changes on the way, and text as a text.
    fn embed(
        &mut self,
        reference: &Ref,
        expression: &Expression,
        at: &str,
    ) -> Result<(), EvalError> {
        let Some(payload) = whole(self.scope, reference, self.place)? else {
            return self.push(at, "", |out| out.push("null"));
        };
        if !may_decode(payload.len()) {
            // Nobody sees this: it is done again where it may take its time.
            return self.push(at, "", |out| out.push("null"));
        }
        let is_json = payload.content_type.is_json()
            && serde_json::from_slice::<IgnoredAny>(&payload.bytes).is_ok();
        if is_json {
            return self.push(at, expression.source(), |out| out.push(&payload.bytes));
        }
        // Text becomes a text; for the rest the error says why it has no value.
        let value = self.value(expression, at)?;
        self.push(at, expression.source(), |out| json::write(&value, out))
    }

    fn pieces(&mut self, pieces: &[Piece], at: &str) -> Result<(), EvalError> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.push(at, "", |out| out.push(text))?,
                Piece::Expression(expression) => {
                    let value = self.value(expression, at)?;
                    self.push(at, expression.source(), |out| json::write_text(&value, out))?;
                }
            }
        }
        Ok(())
    }

    fn value(&self, expression: &Expression, at: &str) -> Result<minijinja::Value, EvalError> {
        evaluate(expression, self.scope, &format!("{}{at}", self.place))
    }
}

/// Evaluates one expression.
pub(in crate::pipeline) fn evaluate(
    expression: &Expression,
    scope: &Scope,
    place: &str,
) -> Result<minijinja::Value, EvalError> {
    let context = scope
        .context(expression.references())
        .map_err(|step| EvalError::not_ended(place, step))?;
    expression
        .evaluate(context)
        .map_err(|error| EvalError::failed(place, expression.source(), &error))
}
