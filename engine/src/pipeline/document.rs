//! A pipeline as its file states it, with defaults filled in.
//!
//! The JSON Schema is made from these types, and a run pins what they
//! serialise to, so a field here is a key of the file.

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroUsize},
};

use orchestrator_manifest::canonical_json;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::input::InputField;

/// The format of pipelines that this engine reads.
pub const FORMAT_VERSION: u64 = 1;
/// The most steps that one pipeline may have.
pub const STEPS_MAX: usize = 1_000;
/// Longest id of a step, and longest name of a pipeline, in bytes.
pub const ID_MAX: usize = 64;
/// The most steps of one run that may run together, whoever asks.
pub const CONCURRENCY_MAX: u16 = 64;
/// Longest description in bytes.
pub(super) const DESCRIPTION_MAX: usize = 4_096;
/// Longest name of an output in bytes.
pub(super) const OUTPUT_NAME_MAX: usize = 128;
/// The most outputs, and the most input fields, that one pipeline may have.
pub(super) const FIELDS_MAX: usize = 256;

/// The form of a step's id, for the JSON Schema.
const ID_PATTERN: &str = "^[a-z]([a-z0-9_-]*[a-z0-9_])?$";
/// The form of a pipeline's name, for the JSON Schema.
const NAME_PATTERN: &str = "^[a-z0-9]+([._-][a-z0-9]+)*$";
const OUTPUT_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]*$";

/// A pipeline: steps that each call one phase of one plugin, and how data
/// flows between them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Orchestrator pipeline")]
pub(super) struct Document {
    /// The format of this file; always 1.
    #[schemars(extend("const" = 1))]
    pub(super) version: u64,
    /// What the pipeline is called: lower-case letters and digits in parts
    /// joined by `.`, `_` or `-`.
    #[schemars(length(max = 64), extend("pattern" = NAME_PATTERN))]
    pub(super) name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub(super) description: Option<String>,
    /// What a run may be given. Without this key a run takes any input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<BTreeMap<String, InputField>>,
    /// How many steps of one run may run together; the configuration's value
    /// when absent, and never more than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub(super) concurrency: Option<NonZeroU16>,
    /// The steps, in any order: what a step waits for follows from the
    /// expressions in it, and from `needs`.
    #[schemars(length(min = 1, max = 1000))]
    pub(super) steps: Vec<StepDocument>,
    /// What the run hands out, by file name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default, extend("propertyNames" = {"pattern": OUTPUT_PATTERN, "maxLength": 128}))]
    pub(super) outputs: BTreeMap<String, OutputDocument>,
}

/// One step: a call of one phase of one plugin.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct StepDocument {
    /// What expressions call the step. An id with `-` is written
    /// `steps["fetch-data"].output`.
    #[schemars(length(max = 64), extend("pattern" = ID_PATTERN))]
    pub(super) id: String,
    /// The id of the plugin, and a range of its versions if any will not do:
    /// `git-history` or `git-history@^0.1`.
    pub(super) plugin: String,
    /// The phase of the plugin.
    pub(super) phase: String,
    /// What the phase works on: any value, with `${{ expression }}` in its
    /// texts. `$${{` stands for `${{` itself.
    #[schemars(default = "no_input")]
    pub(super) input: Value,
    /// How long the step may take with all its attempts: `90s`, `2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<String>,
    /// Overrides of the policies around the call.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schemars(default, with = "serde_json::Map<String, Value>")]
    pub(super) policy: Value,
    /// What answers in place of a call that fails. Not for a call that the
    /// plugin says no to, nor for one that may happen only once and may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<FallbackDocument>,
    /// Whether the run fails when the step fails; true when absent.
    #[schemars(default = "yes")]
    pub(super) required: bool,
    /// The step is skipped unless this is true: `${{ expression }}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<When>")]
    pub(super) when: Option<Value>,
    /// Steps that must have ended before, beside those whose output it uses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(super) needs: Vec<String>,
}

/// What answers in place of a call that fails: one of these.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum FallbackDocument {
    /// A value of the pipeline.
    #[schemars(extend("additionalProperties" = false))]
    Value {
        /// The value, with `${{ expression }}` in its texts. Worked out before
        /// the step is called.
        value: Value,
    },
    /// A phase of another plugin, asked with the same input. It must be one
    /// that may be repeated.
    #[schemars(extend("additionalProperties" = false))]
    Phase {
        /// The id of the plugin, and a range of its versions if any will not do.
        plugin: String,
        /// The phase of the plugin.
        phase: String,
    },
    /// The last good result of the same phase to the same input.
    #[schemars(extend("additionalProperties" = false))]
    LastGood {
        /// Always true.
        #[schemars(extend("const" = true))]
        last_good: bool,
    },
}

/// The input of a step that states none: an empty table.
pub(super) fn no_input() -> Value {
    Value::Object(Map::new())
}

fn yes() -> bool {
    true
}

/// A condition.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(
    dead_code,
    reason = "gives the JSON Schema of a key that is kept as a JSON value"
)]
pub(super) enum When {
    /// Always, or never.
    Fixed(bool),
    /// `${{ expression }}` that is true or false.
    Expression(String),
}

/// One thing that the run hands out.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct OutputDocument {
    /// Its content: usually `${{ steps.<id>.output }}`.
    pub(super) from: Value,
    /// Whether it is what the pipeline is for. At most one is; the only output
    /// always is.
    #[schemars(default)]
    pub(super) primary: bool,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub(super) description: Option<String>,
}

impl Document {
    pub(super) fn concurrency(&self) -> Option<NonZeroUsize> {
        self.concurrency.map(NonZeroUsize::from)
    }

    /// The document as JSON with keys sorted by their bytes and no blanks.
    pub(super) fn canonical_json(&self) -> String {
        let value =
            serde_json::to_value(self).expect("a pipeline has text keys and finite numbers alone");
        canonical_json(&value)
    }
}

/// Whether `text` may be a step's id: `[a-z][a-z0-9_-]*`, not ending in `-`.
pub(super) fn is_step_id(text: &str) -> bool {
    text.len() <= ID_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Whether `text` may be a pipeline's name.
pub(super) fn is_pipeline_name(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
    };
    text.len() <= ID_MAX && text.split(['.', '_', '-']).all(is_part)
}

/// Whether `text` may be an output's name: a file name without a path, the
/// same on every platform.
pub(super) fn is_output_name(text: &str) -> bool {
    text.len() <= OUTPUT_NAME_MAX
        && !text.starts_with(['.', '-'])
        && !text.ends_with('.')
        && !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for id in ["a", "fetch-data", "a_1", "x2"] {
            assert!(is_step_id(id), "{id}");
        }
        for id in [
            "",
            "1a",
            "-a",
            "a-",
            "A",
            "a.b",
            "a b",
            "ä",
            &"a".repeat(65),
        ] {
            assert!(!is_step_id(id), "{id:?}");
        }
        for name in ["a", "release-notes", "v1.2_x"] {
            assert!(is_pipeline_name(name), "{name}");
        }
        for name in ["", "a--b", "A", "-a", "a.", "a/b", &"a".repeat(65)] {
            assert!(!is_pipeline_name(name), "{name:?}");
        }
        for name in ["RELEASE_NOTES.md", "a", "stats-1.json"] {
            assert!(is_output_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".x",
            "-x",
            "a/b",
            "a\\b",
            "a\0",
            "x.",
            "a:b",
            &"a".repeat(129),
        ] {
            assert!(!is_output_name(name), "{name:?}");
        }
    }
}
