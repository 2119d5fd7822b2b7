//! Pipelines: what a run does, read from a file and checked before anything
//! runs.
//!
//! A pipeline is a set of steps; each calls one phase of one plugin. What a
//! step waits for follows from the expressions in it. Reading goes
//! `located.rs` (values with their places) → `decode.rs` (keys and types) →
//! `compile.rs` (expressions, references, order); each reports every fault it
//! finds, not the first.
//!
//! Nothing here runs a step or knows a plugin.
//!
//! Start with [`Pipeline`], then [`StepSpec`], then [`Scope`].
//!
//! # Expressions
//!
//! `${{ … }}` holds an expression as in Jinja, over `input`,
//! `steps.<id>.output`, `steps.<id>.outcome`, `run.id`, `run.pipeline` and
//! `session.id`. Outputs that are JSON are values, those that are text are
//! texts, others can only be handed on whole. The output of a step that was
//! skipped, or that failed without being required, is null.

pub(crate) mod bounds;
mod compile;
mod decode;
mod document;
mod error;
mod expression;
mod fault;
mod graph;
mod input;
mod interpolate;
mod json;
mod located;
mod lookup;
mod scan;
mod scope;
mod step;
pub(crate) mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use orchestrator_contract::{Payload, StepId};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) use self::compile::OutputSpec;
pub(crate) use self::expression::message;
use self::{compile::Compiled, document::Document, located::Located};
pub use self::{
    document::{CONCURRENCY_MAX, FORMAT_VERSION, ID_MAX, STEPS_MAX},
    error::EvalError,
    expression::{EXPRESSION_MAX, Ref},
    fault::{Fault, PipelineErrors, Rule},
    input::{FieldType, InputField},
    interpolate::{InputExpr, Interpolated},
    lookup::{Lookup, PluginLookup},
    scope::{DECODED_BYTES_MAX, RESULT_BYTES_MAX, Scope},
    step::{FallbackSpec, Releases, StepSpec},
};

/// Largest pipeline file in bytes.
pub const FILE_SIZE_MAX: usize = 1024 * 1024;

/// A pipeline that has been read and checked.
///
/// Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Pipeline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    document: Document,
    compiled: Compiled,
    definition: Bytes,
    definition_sha256: String,
    located: Located,
}

/// One thing that a run hands out.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name: a file name without a path.
    pub name: String,
    /// Its content.
    pub payload: Payload,
    /// Whether it is what the pipeline is for.
    pub primary: bool,
    /// What it is.
    pub description: Option<String>,
}

impl Pipeline {
    /// Reads a pipeline from YAML or JSON. `file_name` is for messages alone.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it and can be known without plugins.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, PipelineErrors> {
        if text.len() > FILE_SIZE_MAX {
            return Err(too_large(file_name));
        }
        Self::read(Located::parse(text, file_name)?, None)
    }

    /// Reads a pipeline from a file. Blocks the thread while it reads.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, PipelineErrors> {
        let name = path.display().to_string();
        let unreadable = |reason: &str| {
            let message = format!("the pipeline cannot be read: {reason}");
            let help = "give the path of a pipeline file, such as `pipeline.yaml`";
            PipelineErrors::whole_file(&name, Rule::Unreadable, message, help)
        };
        let mut bytes = Vec::new();
        let limit = FILE_SIZE_MAX as u64 + 1;
        File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| unreadable(&error.to_string()))?;
        if bytes.len() > FILE_SIZE_MAX {
            return Err(too_large(&name));
        }
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))?;
        Self::parse(&text, &name)
    }

    /// Reads back what [`Self::definition`] gave, byte for byte.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`]; faults have pointers and no lines.
    pub fn from_definition(json: &[u8]) -> Result<Self, PipelineErrors> {
        const NAME: &str = "definition";
        let value = serde_json::from_slice(json).map_err(|error| {
            let message = format!("the definition is no JSON: {error}");
            PipelineErrors::whole_file(NAME, Rule::Syntax, message, "restore the journal")
        })?;
        Self::read(
            Located::from_json(&value, NAME),
            Some(Bytes::copy_from_slice(json)),
        )
    }

    fn read(located: Located, json: Option<Bytes>) -> Result<Self, PipelineErrors> {
        let (document, mut faults) = decode::document(&located);
        let Some(document) = document else {
            return Err(located.errors(faults));
        };
        let (compiled, more) = compile::compile(&document, &located);
        faults.extend(more);
        if !faults.is_empty() {
            return Err(located.errors(faults));
        }
        let definition = json.unwrap_or_else(|| document.canonical_json().into());
        let digest = Sha256::digest(&definition);
        Ok(Self(Arc::new(Inner {
            definition_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            definition,
            document,
            compiled,
            located,
        })))
    }

    /// What the pipeline is called.
    pub fn name(&self) -> &str {
        &self.0.document.name
    }

    /// What it is for.
    pub fn description(&self) -> Option<&str> {
        self.0.document.description.as_deref()
    }

    /// How many of its steps may run together, where it says so.
    pub fn concurrency(&self) -> Option<NonZeroUsize> {
        self.0.document.concurrency()
    }

    /// What a run may be given; `None` when it takes any input.
    pub fn input_fields(&self) -> Option<&BTreeMap<String, InputField>> {
        self.0.document.input.as_ref()
    }

    /// The steps, each after those it depends on. Indices elsewhere are
    /// positions in this list.
    pub fn steps(&self) -> &[StepSpec] {
        &self.0.compiled.steps
    }

    /// The step with this id.
    pub fn step(&self, id: &str) -> Option<(usize, &StepSpec)> {
        let mut steps = self.steps().iter().enumerate();
        steps.find(|(_, step)| step.id.as_str() == id)
    }

    /// The steps that a step waits for, ascending.
    ///
    /// # Panics
    ///
    /// When there is no step `index`.
    pub fn dependencies(&self, index: usize) -> &[usize] {
        &self.0.compiled.dependencies[index]
    }

    /// The steps that wait for a step, ascending.
    ///
    /// # Panics
    ///
    /// When there is no step `index`.
    pub fn dependents(&self, index: usize) -> &[usize] {
        &self.0.compiled.dependents[index]
    }

    /// What a run pins, so that it goes on as it began whatever becomes of
    /// the file: the pipeline as JSON, with every default filled in, its keys
    /// sorted and no blanks.
    pub fn definition(&self) -> Bytes {
        self.0.definition.clone()
    }

    /// The SHA-256 of [`Self::definition`], as 64 lower-case hex digits.
    pub fn definition_sha256(&self) -> &str {
        &self.0.definition_sha256
    }

    /// The names of its outputs, sorted.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        let outputs = self.0.compiled.outputs.iter();
        outputs.map(|output| output.name.as_str())
    }

    /// Checks the input of a run and fills in defaults. A field that is
    /// neither given nor required is null afterwards.
    ///
    /// # Errors
    ///
    /// Everything that does not fit, by JSON pointers into the input.
    pub fn validate_input(&self, input: &Value) -> Result<Value, PipelineErrors> {
        let Some(fields) = self.input_fields() else {
            return Ok(input.clone());
        };
        input::validate(fields, input).map_err(|faults| {
            let located = Located::from_json(&Value::Null, "input");
            let faults = faults.into_iter().map(|fault| {
                let part = located::Part::Value;
                located.fault(&fault.pointer, part, fault.rule, fault.message, fault.help)
            });
            located.errors(faults.collect())
        })
    }

    /// Evaluates what the run hands out, sorted by name. The output of a step
    /// that has none is left out.
    ///
    /// # Errors
    ///
    /// The first output that cannot be evaluated.
    pub fn evaluate_outputs(&self, scope: &Scope) -> Result<Vec<Output>, EvalError> {
        let outputs = self.0.compiled.outputs.iter();
        let outputs = outputs.map(|spec| spec.evaluate(scope));
        outputs.filter_map(Result::transpose).collect()
    }

    /// Evaluates one output; `None` when there is none of this name, or it is
    /// that of a step that has none.
    ///
    /// # Errors
    ///
    /// When it cannot be evaluated.
    pub fn evaluate_output(&self, name: &str, scope: &Scope) -> Result<Option<Output>, EvalError> {
        match self.output(name) {
            Some(spec) => spec.evaluate(scope),
            None => Ok(None),
        }
    }

    /// The steps whose outputs an output of the run is made from; `None` when
    /// there is none of this name.
    pub(crate) fn output_sources(&self, name: &str) -> Option<BTreeSet<StepId>> {
        Some(self.output(name)?.from.sources())
    }

    pub(crate) fn output(&self, name: &str) -> Option<&OutputSpec> {
        let mut outputs = self.0.compiled.outputs.iter();
        outputs.find(|output| output.name == name)
    }

    fn located(&self) -> &Located {
        &self.0.located
    }
}

fn too_large(file: &str) -> PipelineErrors {
    let message = format!("the pipeline is larger than {FILE_SIZE_MAX} bytes");
    PipelineErrors::whole_file(
        file,
        Rule::TooLarge,
        message,
        "split it, or shorten its texts",
    )
}

/// The JSON Schema (2020-12) of pipeline files.
pub fn json_schema() -> Value {
    schemars::schema_for!(Document).to_value()
}

#[cfg(test)]
mod tests;
