//! Checks a plugin's configuration against the schema in its manifest.
//!
//! The schema is the plugin author's and therefore hostile: references are
//! never fetched, and patterns run on an engine without backtracking.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::{
    fault::{Fault, Rule},
    manifest::Manifest,
};

/// Most mismatches that are reported at once.
const MISMATCHES_MAX: usize = 50;
/// Compiled size of one pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A place where a value does not fit a schema.
pub(crate) struct Mismatch {
    pub(crate) pointer: String,
    pub(crate) message: String,
    pub(crate) keyword: String,
}

pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    let patterns = PatternOptions::regex()
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX);
    jsonschema::options()
        .offline()
        .with_pattern_options(patterns)
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Every place where `value` does not fit `schema`. Values are not quoted:
/// they may be secrets.
pub(crate) fn mismatches(schema: &Value, value: &Value) -> Vec<Mismatch> {
    let Ok(validator) = compile(schema) else {
        return Vec::new();
    };
    let errors = validator.iter_errors(value).take(MISMATCHES_MAX);
    errors
        .map(|error| Mismatch {
            pointer: error.instance_path().to_string(),
            message: error.masked_with("the value").to_string(),
            keyword: error.kind().keyword().to_owned(),
        })
        .collect()
}

impl Manifest {
    /// Checks a configuration of this plugin against its `config_schema`. A
    /// manifest without a schema accepts everything.
    ///
    /// # Errors
    ///
    /// One [`Fault`] for every place that does not fit, with the JSON pointer
    /// of the bad value. No fault quotes a value.
    pub fn check_config(&self, config: &Value) -> Result<(), Vec<Fault>> {
        let Some(schema) = &self.config_schema else {
            return Ok(());
        };
        let faults: Vec<_> = mismatches(schema, config)
            .into_iter()
            .map(|mismatch| Fault {
                code: Rule::BadConfig.code(),
                rule: Rule::BadConfig,
                file: String::new(),
                pointer: mismatch.pointer,
                line: None,
                column: None,
                message: mismatch.message,
                help: format!(
                    "the rule is `{}` in the configuration schema of `{}`",
                    mismatch.keyword, self.name
                ),
                span: None,
            })
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}
