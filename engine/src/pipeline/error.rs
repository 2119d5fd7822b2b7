//! Why an expression has no value.

use miette::Diagnostic;
use orchestrator_contract::{CallError, StepId};
use thiserror::Error;

use super::{bounds::Exhausted, expression, json::NotJson, words::printable};

/// Why the input, the condition or an output has no value.
///
/// `place` names the step or output and is followed by a JSON pointer into it.
/// No message holds more of the data than the expression's own error does.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[non_exhaustive]
pub enum EvalError {
    /// The expression failed, or its result has no form in JSON. Mostly a field
    /// is missing from what an earlier step gave, or has another type than the
    /// expression takes.
    #[error("{place}: `{expression}`: {message}")]
    #[diagnostic(
        code("ORC-1170"),
        help(
            "look at what the steps before gave with `orchestrator run show <run>`; `| default(…)` stands in for what may be absent"
        )
    )]
    Failed {
        /// Where it stands.
        place: String,
        /// The expression.
        expression: String,
        /// What is wrong.
        message: String,
    },

    /// The result takes more bytes than the caller allows. It joins or repeats
    /// large texts, or wraps a large output in something else.
    #[error("{place}: the result is larger than {limit} bytes")]
    #[diagnostic(
        code("ORC-1171"),
        help("hand the output of a step on whole, with nothing around the expression")
    )]
    TooLarge {
        /// Where it stands.
        place: String,
        /// The limit in bytes.
        limit: usize,
    },

    /// The expression takes more memory or work than one may. Mostly it repeats
    /// or joins large texts or lists on the way to its result.
    #[error("{place}: `{expression}`: {message}")]
    #[diagnostic(
        code("ORC-1174"),
        help("let a step compute it; an expression is for handing values on")
    )]
    Exhausted {
        /// Where it stands.
        place: String,
        /// The expression.
        expression: String,
        /// What it takes too much of.
        message: String,
    },

    /// The step that is referred to has not ended. An engine never asks so
    /// early; a program that evaluates pipelines itself may.
    #[error("{place}: step `{step}` has not ended")]
    #[diagnostic(code("ORC-1172"), help("evaluate steps after those they depend on"))]
    NotEnded {
        /// Where it stands.
        place: String,
        /// The step.
        step: StepId,
    },

    /// A condition is something else than true or false. A text, number or list
    /// is not taken for true or false.
    #[error("{place}: `{expression}` gave {found}, not true or false")]
    #[diagnostic(
        code("ORC-1173"),
        help("compare it with something: `… | length > 0`, `… is not none`")
    )]
    NotBoolean {
        /// Where it stands.
        place: String,
        /// The expression.
        expression: String,
        /// What it gave.
        found: String,
    },
}

impl EvalError {
    pub(super) fn failed(place: &str, expression: &str, error: &minijinja::Error) -> Self {
        let place = place.to_owned();
        let expression = printable(expression);
        let message = printable(&expression::message(error));
        match Exhausted::behind(error) {
            Some(_) => Self::Exhausted {
                place,
                expression,
                message,
            },
            None => Self::Failed {
                place,
                expression,
                message,
            },
        }
    }

    pub(super) fn not_ended(place: &str, step: StepId) -> Self {
        Self::NotEnded {
            place: place.to_owned(),
            step,
        }
    }

    pub(super) fn from_json(place: String, expression: &str, limit: usize, error: NotJson) -> Self {
        match error {
            NotJson::TooLarge => Self::TooLarge { place, limit },
            NotJson::Value { pointer, message } => Self::Failed {
                place,
                expression: printable(expression),
                message: match pointer.as_str() {
                    "" => message,
                    pointer => format!("{} of its result: {message}", printable(pointer)),
                },
            },
        }
    }
}

impl From<EvalError> for CallError {
    /// A step whose input has no value was given an invalid one.
    fn from(error: EvalError) -> Self {
        Self::invalid_input(error.to_string())
    }
}
