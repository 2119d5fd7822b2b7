//! One step, ready to be evaluated.

use std::time::Duration;

use minijinja::value::ValueKind;
use orchestrator_contract::{Payload, PhaseName, PluginId, StepId};
use semver::VersionReq;
use serde_json::Value;

use super::{
    error::EvalError,
    expression::Expression,
    interpolate::{self, InputExpr},
    scope::Scope,
    words::printable,
};

/// One step of a pipeline: a call of one phase of one plugin.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// What the step is called.
    pub id: StepId,
    /// The plugin.
    pub plugin: PluginId,
    /// The versions of it that will do.
    pub range: VersionReq,
    /// The phase.
    pub phase: PhaseName,
    /// What the phase works on.
    pub input: InputExpr,
    /// How long the step may take with all its attempts, where the pipeline
    /// says so.
    pub timeout: Option<Duration>,
    /// Overrides of the policies around the call, as they were written; null
    /// when there are none.
    pub policy: Value,
    /// What answers in place of a call that fails.
    pub fallback: Option<FallbackSpec>,
    /// Whether the run fails when the step fails.
    pub required: bool,
    pub(super) when: Option<Condition>,
    /// Its place among the steps of the file, from 0.
    pub(super) position: usize,
}

/// What answers in place of a call that fails.
#[derive(Clone, Debug)]
pub enum FallbackSpec {
    /// A value of the pipeline.
    Value(InputExpr),
    /// A phase of another plugin.
    Phase {
        /// The plugin.
        plugin: PluginId,
        /// The versions of it that will do.
        range: VersionReq,
        /// The phase.
        phase: PhaseName,
    },
    /// The last good result to the same input.
    LastGood,
}

#[derive(Clone, Debug)]
pub(super) enum Condition {
    Fixed(bool),
    Expression(Expression),
}

impl StepSpec {
    /// What the phase is to work on. An input that is one payload is handed on
    /// as it is; anything else becomes JSON.
    ///
    /// Runs on the caller's thread, for as long as the expressions in it take:
    /// that is bounded, and short unless they work through large outputs.
    ///
    /// # Errors
    ///
    /// [`EvalError`] naming the place; also when a step it depends on has not
    /// ended.
    pub fn evaluate_input(&self, scope: &Scope) -> Result<Payload, EvalError> {
        self.input.evaluate(scope, &self.place("/input"))
    }

    /// The value that the step falls back to, if it is one.
    ///
    /// # Errors
    ///
    /// Those of [`Self::evaluate_input`].
    pub fn evaluate_fallback(&self, scope: &Scope) -> Result<Option<Payload>, EvalError> {
        let Some(FallbackSpec::Value(value)) = &self.fallback else {
            return Ok(None);
        };
        let place = self.place("/fallback/value");
        value.evaluate(scope, &place).map(Some)
    }

    /// Whether the step is to run; true when it has no condition.
    ///
    /// # Errors
    ///
    /// [`EvalError`], also when the condition is neither true nor false.
    pub fn evaluate_when(&self, scope: &Scope) -> Result<bool, EvalError> {
        let expression = match &self.when {
            None => return Ok(true),
            Some(Condition::Fixed(fixed)) => return Ok(*fixed),
            Some(Condition::Expression(expression)) => expression,
        };
        let place = self.place("/when");
        let value = interpolate::evaluate(expression, scope, &place)?;
        match value.kind() {
            ValueKind::Bool => Ok(value.is_true()),
            kind => Err(EvalError::NotBoolean {
                place,
                expression: printable(expression.source()),
                found: kind.to_string(),
            }),
        }
    }

    /// Whether the step has a condition.
    pub fn is_conditional(&self) -> bool {
        self.when.is_some()
    }

    /// The JSON pointer to the step in its file.
    pub(super) fn pointer(&self) -> String {
        format!("/steps/{}", self.position)
    }

    fn place(&self, key: &str) -> String {
        format!("step `{}`: {key}", self.id)
    }
}
