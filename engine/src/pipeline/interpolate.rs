//! Values with `${{ expression }}` in their texts.
//!
//! A text that is one expression becomes what the expression comes to; an
//! expression within a text becomes a part of the text. `$${{` stands for
//! `${{` itself. Keys of tables are left alone.

mod write;

use std::collections::BTreeSet;

use orchestrator_contract::{Payload, StepId, TEXT};
use serde_json::Value;

pub(super) use self::write::evaluate;
use self::write::{Writer, whole};

use super::{
    error::EvalError,
    expression::{Expression, ExpressionFault, Ref},
    fault::Rule,
    scan,
    scope::Scope,
    words::pointer,
};

const OPENING: &str = "${{";
const CLOSING: &str = "}}";

/// What a step works on, or what an output is made from.
#[derive(Clone, Debug)]
pub enum InputExpr {
    /// One payload and nothing else, which is handed on as it is: the same
    /// bytes, the same content type, neither decoded nor copied.
    Whole(Ref),
    /// A value made from fixed parts and expressions.
    Value(Interpolated),
}

/// A value with expressions in it.
#[derive(Clone, Debug)]
pub struct Interpolated(Part);

#[derive(Clone, Debug)]
enum Part {
    Fixed(Value),
    Whole(Ref, Expression),
    Expression(Expression),
    Text(Vec<Piece>),
    List(Vec<Part>),
    Table(Vec<(String, Part)>),
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Expression(Expression),
}

/// Where an expression stands: the JSON pointer to its text, and the number of
/// its `${{` among those of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pointer: String,
    pub(super) number: usize,
}

/// What reading a value finds beside the value.
pub(super) trait Finder {
    fn expression(&mut self, place: Place, expression: &Expression);
    fn fault(&mut self, place: Place, fault: ExpressionFault);
}

impl InputExpr {
    /// Reads a value from a pipeline. What is wrong is told to `finder`, and a
    /// value comes back all the same so that everything else can be checked.
    pub(super) fn parse(value: &Value, at: &str, finder: &mut impl Finder) -> Self {
        match part(value, at, finder) {
            Part::Whole(reference, _) => Self::Whole(reference),
            other => Self::Value(Interpolated(other)),
        }
    }

    /// The steps that it names.
    pub(super) fn sources(&self) -> BTreeSet<StepId> {
        let mut steps = BTreeSet::new();
        match self {
            Self::Whole(Ref::Output(step)) => drop(steps.insert(step.clone())),
            Self::Whole(Ref::Input) => (),
            Self::Value(Interpolated(part)) => part.sources(&mut steps),
        }
        steps
    }

    /// Evaluates to JSON, or hands a payload on.
    pub(super) fn evaluate(&self, scope: &Scope, place: &str) -> Result<Payload, EvalError> {
        match self {
            Self::Whole(reference) => {
                let payload = whole(scope, reference, place)?;
                Ok(payload.cloned().unwrap_or_else(Payload::null))
            }
            Self::Value(Interpolated(part)) => {
                let mut writer = Writer::new(scope, place);
                writer.part(part, "")?;
                Ok(Payload::from_json_bytes(writer.into_bytes()))
            }
        }
    }

    /// Evaluates to what a file would hold: text is plain text, everything
    /// else JSON. `None` when it is the output of a step that has none.
    pub(super) fn evaluate_file(
        &self,
        scope: &Scope,
        place: &str,
    ) -> Result<Option<Payload>, EvalError> {
        let part = match self {
            Self::Whole(reference) => return Ok(whole(scope, reference, place)?.cloned()),
            Self::Value(Interpolated(part)) => part,
        };
        let mut writer = Writer::new(scope, place);
        let is_text = writer.file(part)?;
        let bytes = writer.into_bytes();
        Ok(Some(if is_text {
            Payload::new(TEXT, bytes)
        } else {
            Payload::from_json_bytes(bytes)
        }))
    }
}

fn part(value: &Value, at: &str, finder: &mut impl Finder) -> Part {
    match value {
        Value::String(text) => text_part(text, at, finder),
        Value::Array(items) => {
            let parts: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(index, item)| part(item, &format!("{at}/{index}"), finder))
                .collect();
            match parts.iter().all(Part::is_unchanged) {
                true => Part::Fixed(value.clone()),
                false => Part::List(parts),
            }
        }
        Value::Object(map) => {
            let parts: Vec<_> = map
                .iter()
                .map(|(key, item)| (key.clone(), part(item, &pointer(at, key), finder)))
                .collect();
            match parts.iter().all(|(_, part)| part.is_unchanged()) {
                true => Part::Fixed(value.clone()),
                false => Part::Table(parts),
            }
        }
        other => Part::Fixed(other.clone()),
    }
}

impl Part {
    fn sources(&self, steps: &mut BTreeSet<StepId>) {
        let mut of = |expression: &Expression| {
            let named = expression.references().steps.iter();
            steps.extend(named.map(|step| StepId::new(step.id.as_str())));
        };
        match self {
            Self::Fixed(_) => (),
            Self::Whole(_, expression) | Self::Expression(expression) => of(expression),
            Self::Text(pieces) => pieces.iter().for_each(|piece| match piece {
                Piece::Text(_) => (),
                Piece::Expression(expression) => of(expression),
            }),
            Self::List(parts) => parts.iter().for_each(|part| part.sources(steps)),
            Self::Table(parts) => parts.iter().for_each(|(_, part)| part.sources(steps)),
        }
    }

    /// Whether the part is what was written. Text with an escape is not.
    fn is_unchanged(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }
}

fn text_part(text: &str, at: &str, finder: &mut impl Finder) -> Part {
    if !text.contains(OPENING) {
        return Part::Fixed(Value::String(text.to_owned()));
    }
    let mut pieces = pieces(text, at, finder);
    match pieces.as_slice() {
        [Piece::Expression(_)] => (),
        // A block text ends with a line break that nobody asked for.
        [Piece::Expression(_), Piece::Text(rest)] if rest.chars().all(|c| c == '\n') => {
            pieces.truncate(1);
        }
        _ => return Part::Text(pieces),
    }
    match pieces.pop() {
        Some(Piece::Expression(expression)) => match &expression.references().whole {
            Some(reference) => Part::Whole(reference.clone(), expression),
            None => Part::Expression(expression),
        },
        _ => Part::Text(pieces),
    }
}

/// Reads a text that is one expression and nothing else.
pub(super) fn condition(text: &str, at: &str, finder: &mut impl Finder) -> Option<Expression> {
    match text_part(text, at, finder) {
        Part::Expression(expression) | Part::Whole(_, expression) => Some(expression),
        _ => None,
    }
}

fn pieces(text: &str, at: &str, finder: &mut impl Finder) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut number = 0;
    let mut rest = text;
    while let Some(start) = rest.find(OPENING) {
        let (before, opening) = rest.split_at(start);
        let inner = &opening[OPENING.len()..];
        if let Some(before) = before.strip_suffix('$') {
            literal.push_str(before);
            literal.push_str(OPENING);
            number += 1;
            rest = inner;
            continue;
        }
        literal.push_str(before);
        let place = Place {
            pointer: at.to_owned(),
            number,
        };
        let Some(end) = scan::end_of_expression(inner) else {
            finder.fault(place, unclosed(inner));
            return pieces;
        };
        let source = &inner[..end];
        match Expression::parse(source) {
            Ok(expression) => {
                finder.expression(place, &expression);
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Expression(expression));
            }
            Err(faults) => {
                for fault in faults {
                    finder.fault(place.clone(), fault);
                }
            }
        }
        number += 1 + source.matches(OPENING).count();
        rest = &inner[end + CLOSING.len()..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    pieces
}

fn unclosed(inner: &str) -> ExpressionFault {
    ExpressionFault {
        rule: Rule::ExpressionSyntax,
        range: 0..inner.lines().next().map_or(0, str::len),
        message: "`${{` without its `}}`".to_owned(),
        help: "close the expression with `}}`, or write `$${{` for the three characters themselves"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Found(Vec<(Place, String)>, Vec<(Place, ExpressionFault)>);

    impl Finder for Found {
        fn expression(&mut self, place: Place, expression: &Expression) {
            self.0.push((place, expression.source().to_owned()));
        }

        fn fault(&mut self, place: Place, fault: ExpressionFault) {
            self.1.push((place, fault));
        }
    }

    fn parse(value: &Value) -> (InputExpr, Found) {
        let mut found = Found::default();
        let parsed = InputExpr::parse(value, "", &mut found);
        (parsed, found)
    }

    fn evaluate(value: &Value) -> Result<String, String> {
        let (parsed, found) = parse(value);
        assert!(found.1.is_empty(), "{value}: {:?}", found.1);
        let payload = parsed.evaluate(&crate::pipeline::tests::scope(), "test");
        payload
            .map(|payload| String::from_utf8(payload.bytes.to_vec()).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn values_keep_their_type_alone_and_become_text_within_text() {
        for (value, expected) in [
            (json!("${{ input.count }}"), "3"),
            (json!("${{ input.count }}\n"), "3"),
            (json!("n=${{ input.count }}"), "\"n=3\""),
            (json!(" ${{ input.name }}"), "\" core\""),
            (json!("${{ input.name }}${{ input.count }}"), "\"core3\""),
            (
                json!("${{ {'a': {'b': input.count}} }}"),
                "{\"a\":{\"b\":3}}",
            ),
            (
                json!({"a": ["${{ input.count }}", 1.0, null]}),
                "{\"a\":[3,1.0,null]}",
            ),
            (json!("${{ '}}' ~ input.name }}"), "\"}}core\""),
            (json!({"${{ a }}": 1}), "{\"${{ a }}\":1}"),
            (
                json!("${{ run.pipeline }}/${{ steps.collect.outcome }}"),
                "\"p/success\"",
            ),
        ] {
            assert_eq!(evaluate(&value).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn the_braces_can_be_escaped() {
        for (value, expected) in [
            ("$${{ x }}", "\"${{ x }}\""),
            ("$$${{ x }}", "\"$${{ x }}\""),
            ("a $${{ ${{ input.count }}", "\"a ${{ 3\""),
            ("{{ x }} {% if y %}", "\"{{ x }} {% if y %}\""),
            ("$ {{ x }}", "\"$ {{ x }}\""),
        ] {
            assert_eq!(evaluate(&json!(value)).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn payloads_are_put_in_as_they_were_written() {
        // Neither the number nor the blanks would survive being decoded.
        let output = json!({"all": "${{ steps.exact.output }}"});
        assert_eq!(
            evaluate(&output).unwrap(),
            "{\"all\":[ 1.10, 36893488147419103232 ]}"
        );
        let text = json!(["${{ steps.text.output }}"]);
        assert_eq!(evaluate(&text).unwrap(), "[\"plain \\\"text\\\"\"]");
        assert_eq!(
            evaluate(&json!(["${{ steps.skipped.output }}"])).unwrap(),
            "[null]"
        );
    }

    #[test]
    fn what_cannot_be_looked_into_says_so() {
        for (value, expected) in [
            (
                "${{ steps.image.output.width }}",
                "cannot look into image/png",
            ),
            ("x${{ steps.image.output }}", "cannot look into image/png"),
            (
                "${{ steps.broken.output.x }}",
                "says it is application/json and is not",
            ),
            ("${{ input.nope }}", "test: `input.nope`: it is undefined"),
            ("${{ [input.nope] }}", "/0 of its result: it is undefined"),
            ("${{ input.nope.deep }}", "`input.nope` is undefined"),
            (
                "x ${{ steps.skipped.output }}",
                "it is null, which has no place in a text",
            ),
            ("${{ steps.skipped.output.x }}", "is undefined"),
            ("${{ steps.later.output }}", "step `later` has not ended"),
            ("x ${{ steps.later.outcome }}", "step `later` has not ended"),
            ("${{ 1 / 0 }}", "unable to calculate"),
            ("${{ range(100000) | list }}", "larger than 1000 bytes"),
        ] {
            let error = evaluate(&json!(value)).expect_err(value);
            assert!(error.contains(expected), "{value}: {error}");
        }
        let embedded = evaluate(&json!(["${{ steps.broken.output }}"])).unwrap_err();
        assert!(embedded.contains("is not"), "{embedded}");
    }

    #[test]
    fn expressions_are_numbered_as_their_braces_are_written() {
        let (_, found) =
            parse(&json!({"a": ["$${{ x }} ${{ input.a }} ${{ '${{' }}${{ input.b }}"]}));
        let places: Vec<_> = found
            .0
            .iter()
            .map(|(place, source)| (place.pointer.as_str(), place.number, source.as_str()))
            .collect();
        assert_eq!(
            places,
            [
                ("/a/0", 1, "input.a"),
                ("/a/0", 2, "'${{'"),
                ("/a/0", 4, "input.b")
            ]
        );
    }

    #[test]
    fn an_expression_without_end_is_a_fault() {
        let (_, found) = parse(&json!("a ${{ input.a"));
        assert_eq!(found.1[0].1.rule, Rule::ExpressionSyntax);
        assert_eq!(found.1[0].1.range, 0..8);
    }

    proptest::proptest! {
        /// Whatever the text, it is read without a panic, and one without
        /// braces comes back as it is.
        #[test]
        fn any_text_can_be_read(text in "([$]|[{]|[}]|'|a|\\n| |\\\\){0,24}") {
            let (parsed, found) = parse(&json!(text));
            if !text.contains(OPENING) {
                proptest::prop_assert!(found.0.is_empty() && found.1.is_empty());
                let is_same = matches!(parsed, InputExpr::Value(Interpolated(Part::Fixed(value))) if value == json!(text));
                proptest::prop_assert!(is_same);
            }
        }
    }
}
