//! Expressions: what stands between `${{` and `}}`.
//!
//! The language is that of Jinja, evaluated by minijinja in its strict mode.
//! Everything that can be known before a run is checked here: syntax, names of
//! variables, filters, tests and functions, and which steps are meant.

mod check;

use std::{
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
};

use minijinja::{Environment, Error, Value};
use orchestrator_contract::StepId;

use super::{
    bounds::{self, Exhausted},
    fault::Rule,
    scan,
};

/// Longest expression in bytes.
pub const EXPRESSION_MAX: usize = 4_096;

/// The most words in one expression, and the deepest brackets: minijinja takes
/// stack for each, and the threads that evaluate have 2 MiB.
const WORDS_MAX: usize = 400;
const BRACKETS_MAX: usize = 32;

/// Instructions that one expression may take. There are no loops in
/// expressions, so this is a second line behind the bound on words.
const FUEL: u64 = 200_000;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = bounds::environment(FUEL);
    // Nothing in an expression writes to it.
    environment.remove_global("namespace");
    environment
});

/// The payload that an expression stands for when it names one and does
/// nothing with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ref {
    /// `input`: the input of the run.
    Input,
    /// `steps.<id>.output`: the output of a step.
    Output(StepId),
}

/// Which part of a step an expression uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepPart {
    Output,
    Outcome,
}

/// A step that an expression names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StepRef {
    pub(super) id: String,
    pub(super) part: StepPart,
    pub(super) range: Range<usize>,
}

/// What an expression refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) steps: Vec<StepRef>,
    /// Fields of the run's input.
    pub(super) fields: Vec<(String, Range<usize>)>,
    /// Set when the expression is nothing but this reference.
    pub(super) whole: Option<Ref>,
}

/// Something wrong with an expression, and which of its bytes it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpressionFault {
    pub(super) rule: Rule,
    pub(super) range: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
}

/// An expression that has been checked.
#[derive(Clone)]
pub(super) struct Expression {
    source: Arc<str>,
    references: Arc<References>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl Expression {
    /// Reads what stands between the braces.
    ///
    /// # Errors
    ///
    /// Everything wrong with it that does not depend on the pipeline around it.
    pub(super) fn parse(source: &str) -> Result<Self, Vec<ExpressionFault>> {
        if source.len() > EXPRESSION_MAX {
            return Err(vec![too_long(source, &format!("{EXPRESSION_MAX} bytes"))]);
        }
        let tokens = scan::tokens(source);
        if tokens.len() > WORDS_MAX {
            return Err(vec![too_long(source, &format!("{WORDS_MAX} words"))]);
        }
        if scan::depth(&tokens) > BRACKETS_MAX {
            return Err(vec![too_long(
                source,
                &format!("{BRACKETS_MAX} nested brackets"),
            )]);
        }
        bounds::check(source).map_err(|error| vec![syntax(source, &tokens, &error)])?;
        let references = check::references(&ENVIRONMENT, source, &tokens)?;
        Ok(Self {
            source: source.trim().into(),
            references: Arc::new(references),
        })
    }

    /// The expression as it was written, without blanks around it.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn references(&self) -> &References {
        &self.references
    }

    /// Evaluates it. The result may be undefined, or hold what is.
    pub(super) fn evaluate(&self, context: Value) -> Result<Value, Error> {
        bounds::evaluate(&ENVIRONMENT, &self.source, context)
    }
}

fn too_long(source: &str, limit: &str) -> ExpressionFault {
    ExpressionFault {
        rule: Rule::ExpressionTooLong,
        range: 0..source.len(),
        message: format!("an expression of more than {limit}"),
        help: "let a step compute it".to_owned(),
    }
}

fn syntax(source: &str, tokens: &[scan::Token<'_>], error: &Error) -> ExpressionFault {
    let everything = 0..source.len();
    let empty = source.trim().is_empty();
    let range = error
        .range()
        .filter(|range| !empty && source.get(range.clone()).is_some())
        .unwrap_or(everything);
    let message = error.detail().unwrap_or("this is no expression");
    let words = 0..tokens.len();
    let mut hyphens = words.filter_map(|at| check::hyphen_help(source, tokens, at));
    ExpressionFault {
        rule: Rule::ExpressionSyntax,
        range,
        message: if empty {
            "an empty expression".to_owned()
        } else {
            message.to_owned()
        },
        help: hyphens.next().unwrap_or_else(|| {
            "expressions are written as in Jinja: `steps.collect.output.commits | length > 0`"
                .to_owned()
        }),
    }
}

/// What went wrong, without the place, which is told otherwise. It may quote
/// the expression or a value, and is cut where that is long.
pub(crate) fn message(error: &Error) -> String {
    const SHOWN_MAX: usize = 1_000;
    match (Exhausted::behind(error), error.detail()) {
        (Some(exhausted), _) => exhausted.to_string(),
        (None, Some(detail)) => match detail.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}…", &detail[..end]),
            None => detail.to_owned(),
        },
        (None, None) => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(source: &str) -> Vec<(Rule, &str, String)> {
        let faults = Expression::parse(source).expect_err(source);
        faults
            .into_iter()
            .map(|fault| (fault.rule, &source[fault.range], fault.help))
            .collect()
    }

    fn references(source: &str) -> References {
        let expression = Expression::parse(source);
        let expression = expression.unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
        References::clone(expression.references())
    }

    fn steps(source: &str) -> Vec<(String, StepPart)> {
        let steps = references(source).steps;
        steps.into_iter().map(|step| (step.id, step.part)).collect()
    }

    #[test]
    fn every_way_to_name_a_step_is_seen() {
        let output = |id: &str| (id.to_owned(), StepPart::Output);
        for source in [
            "steps.a.output",
            "steps['a'].output[:3]",
            "steps . a [\"output\"].x",
            "[1, steps.a.output]",
            "{'k': steps.a.output}",
            "range(3) | map('string') | join(steps.a.output)",
            "1 if steps.a.output is defined else 2",
            "input.x | default(steps.a.output)",
            "input.rows[steps.a.output]",
            "input.x is eq steps.a.output",
            "input.rows | selectattr('id', 'in', steps.a.output)",
            "steps.a.output[steps.a.output:]",
        ] {
            let seen = steps(source);
            assert!(
                !seen.is_empty() && seen.iter().all(|step| *step == output("a")),
                "{source}: {seen:?}"
            );
        }
        assert_eq!(
            steps("steps['fetch-data'].outcome == 'success'"),
            [("fetch-data".to_owned(), StepPart::Outcome)]
        );
    }

    #[test]
    fn words_that_only_look_like_references_are_not_taken_for_one() {
        for source in [
            "'steps.a.output'",
            "input.steps.a.output",
            "{'steps': 1}",
            "dict(steps=1)",
        ] {
            assert_eq!(steps(source), [], "{source}");
        }
    }

    #[test]
    fn an_expression_that_is_one_payload_is_known_as_such() {
        let output = |id: &str| Some(Ref::Output(StepId::new(id)));
        for (source, whole) in [
            (" input ", Some(Ref::Input)),
            ("steps.a.output", output("a")),
            ("steps['a']['output']", output("a")),
            ("steps.a.outcome", None),
            ("steps.a.output.x", None),
            ("(input)", None),
            ("input | list", None),
        ] {
            assert_eq!(references(source).whole, whole, "{source}");
        }
    }

    #[test]
    fn unknown_words_are_found_before_a_run_with_the_nearest_known_one() {
        for (source, wrong, help) in [
            ("inputs.x", "inputs", "did you mean `input`?"),
            ("input.x | lenght", "lenght", "did you mean `length`?"),
            ("input.x is defned", "defned", "did you mean `defined`?"),
            ("input.x is not defned", "defned", "did you mean `defined`?"),
            ("rnge(3)", "rnge", "did you mean `range`?"),
            ("run.idd", "idd", "did you mean `id`?"),
            (
                "steps.a.result",
                "result",
                "a step has `output` and `outcome`",
            ),
            ("debug()", "debug", ""),
            ("namespace()", "namespace", ""),
        ] {
            let faults = faults(source);
            assert_eq!(faults.len(), 1, "{source}: {faults:?}");
            assert_eq!(
                (faults[0].0, faults[0].1),
                (Rule::UnknownVariable, wrong),
                "{source}"
            );
            assert!(faults[0].2.contains(help), "{source}: {}", faults[0].2);
        }
    }

    #[test]
    fn a_step_that_cannot_be_known_beforehand_is_refused() {
        for source in [
            "steps",
            "steps.a",
            "steps[input.x].output",
            "steps | list",
            "steps['a\\x62'].output",
        ] {
            let faults = faults(source);
            assert_eq!(faults[0].0, Rule::DynamicReference, "{source}: {faults:?}");
        }
    }

    #[test]
    fn a_hyphen_in_a_name_is_told_from_a_minus() {
        for (source, help) in [
            ("steps.step-0.output", "`steps['step-0'].output`"),
            ("steps.fetch-data.output.x", "`steps['fetch-data'].output`"),
            ("[1, steps.a-b-c.outcome]", "`steps['a-b-c'].output`"),
            ("input.repo-url", "`input['repo-url']`"),
            ("input.rows.last-name | upper", "`rows['last-name']`"),
        ] {
            let help_given = &faults(source)[0].2;
            assert!(help_given.contains("`-` is minus here"), "{help_given}");
            assert!(help_given.contains(help), "{source}: {help_given}");
        }
        for source in ["steps.a", "steps.a - 1", "input.x - y", "input.x -y"] {
            let help = &faults(source)[0].2;
            assert!(!help.contains("minus"), "{source}: {help}");
        }
        references("input.x-1");
    }

    #[test]
    fn syntax_errors_tell_their_place() {
        assert_eq!(faults("input.a input.b")[0].1, "input");
        assert_eq!(faults("  ")[0].0, Rule::ExpressionSyntax);
        for source in ["(", "input.", "'x", "a ? b", "{{ input }}"] {
            assert_eq!(faults(source)[0].0, Rule::ExpressionSyntax, "{source}");
        }
    }

    #[test]
    fn huge_and_deep_expressions_are_refused() {
        for source in [
            format!("'{}'", "x".repeat(EXPRESSION_MAX)),
            "(".repeat(4_000),
            "-".repeat(4_000) + "1",
            "not ".repeat(1_000) + "1",
            "1".to_owned() + &"+1".repeat(2_000),
            "1".to_owned() + &" if 1 else 1".repeat(300),
            "input".to_owned() + &".a".repeat(2_000),
            "1".to_owned() + &"|abs".repeat(1_000),
            "[".repeat(33) + &"]".repeat(33),
        ] {
            assert_eq!(faults(&source)[0].0, Rule::ExpressionTooLong, "{source}");
        }
    }

    /// On a test's thread, whose stack is as large as those of workers.
    #[test]
    fn the_deepest_expressions_that_are_allowed_fit_the_stack() {
        let within = |n: usize, open: &str, close: &str| {
            format!(
                "{}{}1{}",
                open.repeat(n),
                "-".repeat(399 - 2 * n),
                close.repeat(n)
            )
        };
        for source in [
            within(0, "", ""),
            within(32, "[", "]"),
            within(32, "(", ")"),
            "not ".repeat(399) + "1",
            "1".to_owned() + &"+1".repeat(199),
            "2".to_owned() + &"**2".repeat(133),
            "1".to_owned() + &" if 1 else 1".repeat(99),
            "input".to_owned() + &".a".repeat(199),
            "1".to_owned() + &"|abs".repeat(199),
            "1".to_owned() + &" is eq 1".repeat(133),
        ] {
            let expression = Expression::parse(&source);
            let expression = expression.unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
            let _ = expression.evaluate(Value::from(()));
        }
    }

    #[test]
    fn everything_suggested_exists() {
        for filter in check::FILTERS {
            assert!(check::exists(&ENVIRONMENT, filter, "filter"), "{filter}");
        }
        for test in check::TESTS {
            assert!(check::exists(&ENVIRONMENT, test, "test"), "{test}");
        }
    }
}
