//! Results of expressions as JSON and as text.
//!
//! minijinja's own conversion turns what is undefined, and what is no number,
//! into `null` without a word, and knows no bounds.

use std::io;

use minijinja::{Value, value::ValueKind};

use super::expression;

/// Nesting beyond this is refused. serde_json reads no deeper.
const DEPTH_MAX: usize = 120;

/// Why a result is no JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotJson {
    /// What it is, and where in the result as a JSON pointer.
    Value { pointer: String, message: String },
    /// More bytes than the caller takes.
    TooLarge,
}

impl NotJson {
    fn value(message: impl Into<String>) -> Self {
        Self::Value {
            pointer: String::new(),
            message: message.into(),
        }
    }

    /// The same mistake seen from one level up.
    fn within(self, key: &str) -> Self {
        match self {
            Self::Value { pointer, message } => Self::Value {
                pointer: format!("{}{pointer}", super::words::pointer("", key)),
                message,
            },
            Self::TooLarge => Self::TooLarge,
        }
    }
}

/// Bytes with a limit.
#[derive(Debug)]
pub(super) struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    pub(super) fn push(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), NotJson> {
        let bytes = bytes.as_ref();
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(NotJson::TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds text as a JSON string.
    pub(super) fn push_string(&mut self, text: &str) -> Result<(), NotJson> {
        match serde_json::to_writer(&mut *self, text) {
            Ok(()) => Ok(()),
            Err(error) if error.is_io() => Err(NotJson::TooLarge),
            Err(error) => Err(NotJson::value(error.to_string())),
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a result as JSON.
pub(super) fn write(value: &Value, out: &mut Bounded) -> Result<(), NotJson> {
    write_at(value, out, 0)
}

fn write_at(value: &Value, out: &mut Bounded, depth: usize) -> Result<(), NotJson> {
    if depth > DEPTH_MAX {
        let message = format!("it is nested more than {DEPTH_MAX} levels deep");
        return Err(NotJson::value(message));
    }
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(number(value)?),
        ValueKind::String => out.push_string(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => list(value, out, depth),
        ValueKind::Map => table(value, out, depth),
        ValueKind::Undefined => Err(NotJson::value("it is undefined")),
        ValueKind::Invalid => Err(NotJson::value(match value.try_iter() {
            Err(error) => expression::message(&error),
            Ok(_) => "it is invalid".to_owned(),
        })),
        kind => Err(NotJson::value(format!("{kind} is no value of JSON"))),
    }
}

fn number(value: &Value) -> Result<String, NotJson> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    match f64::try_from(value.clone()) {
        Ok(number) if number.is_finite() => Ok(serde_json::Value::from(number).to_string()),
        _ => Err(NotJson::value("it is not a finite number")),
    }
}

fn items(value: &Value) -> Result<minijinja::value::ValueIter, NotJson> {
    value
        .try_iter()
        .map_err(|error| NotJson::value(expression::message(&error)))
}

fn list(value: &Value, out: &mut Bounded, depth: usize) -> Result<(), NotJson> {
    out.push("[")?;
    for (position, item) in items(value)?.enumerate() {
        if position > 0 {
            out.push(",")?;
        }
        write_at(&item, out, depth + 1).map_err(|e| e.within(&position.to_string()))?;
    }
    out.push("]")
}

fn table(value: &Value, out: &mut Bounded, depth: usize) -> Result<(), NotJson> {
    out.push("{")?;
    for (position, key) in items(value)?.enumerate() {
        if position > 0 {
            out.push(",")?;
        }
        let name = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
            ValueKind::Number if key.is_integer() => key.to_string(),
            kind => return Err(NotJson::value(format!("{kind} is no key of a table"))),
        };
        let item = value
            .get_item(&key)
            .map_err(|error| NotJson::value(expression::message(&error)))?;
        out.push_string(&name)?;
        out.push(":")?;
        write_at(&item, out, depth + 1).map_err(|e| e.within(&name))?;
    }
    out.push("}")
}

/// Writes a result as it stands within a text: text as it is, numbers and
/// booleans as in JSON, lists and tables as JSON.
pub(super) fn write_text(value: &Value, out: &mut Bounded) -> Result<(), NotJson> {
    match value.kind() {
        ValueKind::String => out.push(value.as_str().unwrap_or_default()),
        ValueKind::None => Err(NotJson::value(
            "it is null, which has no place in a text; say what to write with `| default(\"…\", true)`",
        )),
        _ => write(value, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &Value) -> Result<String, NotJson> {
        let mut out = Bounded::new(1_000);
        write(value, &mut out)?;
        Ok(String::from_utf8(out.into_bytes()).unwrap())
    }

    fn eval(expression: &str) -> Value {
        let environment = minijinja::Environment::new();
        let expression = environment.compile_expression(expression).unwrap();
        expression.eval(()).unwrap()
    }

    #[test]
    fn numbers_keep_every_digit() {
        for text in [
            "18446744073709551615",
            "-9223372036854775808",
            "0.1",
            "1.0",
            "123456789012345680.0",
            "5e-324",
            "1.7976931348623157e308",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let written = json(&value).unwrap();
            let back: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(
                back,
                serde_json::from_str::<serde_json::Value>(text).unwrap()
            );
            assert_eq!(
                written.contains(['.', 'e']),
                text.contains(['.', 'e']),
                "{written}"
            );
        }
        assert_eq!(
            json(&eval("18446744073709551615 + 1")).unwrap(),
            "18446744073709551616"
        );
    }

    #[test]
    fn what_json_has_no_word_for_is_refused_with_its_place() {
        let refused = |expression: &str| match json(&eval(expression)).unwrap_err() {
            NotJson::Value { pointer, .. } => pointer,
            NotJson::TooLarge => panic!("not too large"),
        };
        assert_eq!(refused("missing"), "");
        assert_eq!(refused("{'a': [1, missing]}"), "/a/1");
        assert_eq!(refused("[1e999]"), "/0");
        assert_eq!(refused("{'a': range}"), "/a");
        assert_eq!(refused("{none: 1}"), "");
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let eval_large = json(&eval("range(100000)"));
        assert_eq!(eval_large, Err(NotJson::TooLarge));
        let mut deep = Value::from(1);
        for _ in 0..500 {
            deep = Value::from(vec![deep]);
        }
        assert!(matches!(json(&deep), Err(NotJson::Value { .. })));
    }

    #[test]
    fn text_is_written_without_quotes_and_null_not_at_all() {
        let text = |expression: &str| {
            let mut out = Bounded::new(100);
            write_text(&eval(expression), &mut out).map(|()| String::from_utf8(out.into_bytes()))
        };
        for (expression, expected) in [
            ("'a\"b'", "a\"b"),
            ("true", "true"),
            ("1.50", "1.5"),
            ("[1, 'x']", "[1,\"x\"]"),
            ("{'b': none}", "{\"b\":null}"),
        ] {
            assert_eq!(
                text(expression),
                Ok(Ok(expected.to_owned())),
                "{expression}"
            );
        }
        assert!(text("none").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_number_survives(integer in proptest::num::i64::ANY, float in proptest::num::f64::NORMAL) {
            let given = serde_json::json!([integer, float]);
            let value: Value = serde_json::from_str(&given.to_string()).unwrap();
            let back: serde_json::Value = serde_json::from_str(&json(&value).unwrap()).unwrap();
            proptest::prop_assert_eq!(back, given);
        }
    }
}
