//! One step, ready to be evaluated.

use std::{fmt, time::Duration};

use minijinja::value::ValueKind;
use orchestrator_contract::{Payload, PhaseName, PluginId, StepId};
use orchestrator_manifest::Channel;
use semver::VersionReq;
use serde_json::Value;

use super::{
    error::EvalError,
    expression::Expression,
    interpolate::{self, InputExpr},
    scope::Scope,
    words::printable,
};

/// Which releases of a plugin will do: what a pipeline writes behind its name and `@`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releases {
    /// Versions within this range.
    pub range: VersionReq,
    /// Releases of this channel, where the pipeline names one.
    pub channel: Option<Channel>,
}

impl Releases {
    /// Whatever there is.
    pub const ANY: Self = Self {
        range: VersionReq::STAR,
        channel: None,
    };

    /// Reads a range, `^1.2`, or the name of a channel, `beta`.
    ///
    /// # Errors
    ///
    /// What is wrong with the range.
    pub(super) fn parse(text: &str) -> Result<Self, semver::Error> {
        let text = text.trim();
        let mut channels = [Channel::Stable, Channel::Beta, Channel::Deprecated].into_iter();
        match channels.find(|channel| channel.as_str() == text) {
            Some(channel) => Ok(Self {
                channel: Some(channel),
                ..Self::ANY
            }),
            None => Ok(Self {
                range: VersionReq::parse(text)?,
                channel: None,
            }),
        }
    }
}

impl fmt::Display for Releases {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.channel {
            Some(channel) => channel.fmt(out),
            None => self.range.fmt(out),
        }
    }
}

/// One step of a pipeline: a call of one phase of one plugin.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// What the step is called.
    pub id: StepId,
    /// The plugin.
    pub plugin: PluginId,
    /// The releases of it that will do.
    pub releases: Releases,
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
        /// The releases of it that will do.
        releases: Releases,
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
