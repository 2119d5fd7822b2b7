//! What a run may be given: a subset of JSON Schema.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    fault::Rule,
    words::{listed, pointer, quoted, suggest},
};

/// The type of an input field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Text.
    String,
    /// A number without a fraction.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A table.
    Object,
}

impl FieldType {
    /// Every type with its name in the file.
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("array", Self::Array),
        ("object", Self::Object),
    ];

    pub(super) fn parse(text: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, field_type)| *field_type)
    }

    /// Whether `value` is of this type. As in JSON Schema `1.0` is an integer.
    pub fn accepts(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => {
                value.is_i64()
                    || value.is_u64()
                    || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Array => "a list",
            Self::Object => "a table",
        })
    }
}

/// One field of a pipeline's input.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct InputField {
    /// What its value must be.
    #[serde(rename = "type")]
    pub field_type: FieldType,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// The value when a run is not given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether a run must be given one. True when absent and there is no
    /// default; a field that is neither given nor required is null.
    #[schemars(with = "Option<bool>")]
    pub required: bool,
}

/// One thing wrong with the input of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputFault {
    pub(super) rule: Rule,
    pub(super) pointer: String,
    pub(super) message: String,
    pub(super) help: String,
}

/// Checks a run's input and fills in defaults.
pub(super) fn validate(
    fields: &BTreeMap<String, InputField>,
    given: &Value,
) -> Result<Value, Vec<InputFault>> {
    let empty = Map::new();
    let given = match given {
        Value::Object(map) => map,
        Value::Null => &empty,
        other => {
            return Err(vec![InputFault {
                rule: Rule::BadInput,
                pointer: String::new(),
                message: format!("the input is {}, not a table", type_name(other)),
                help: format!("the pipeline takes {}", takes(fields)),
            }]);
        }
    };
    let mut faults = Vec::new();
    for name in given.keys().filter(|name| !fields.contains_key(*name)) {
        faults.push(InputFault {
            rule: Rule::BadInput,
            pointer: pointer("", name),
            message: format!("the pipeline has no input {}", quoted(name)),
            help: suggest(name, fields.keys().map(String::as_str), || {
                format!("it takes {}", takes(fields))
            }),
        });
    }
    let mut whole = Map::new();
    for (name, field) in fields {
        match given.get(name) {
            Some(value) if field.field_type.accepts(value) => {
                whole.insert(name.clone(), value.clone());
            }
            // What is not required may be left out, and null says just that.
            None | Some(Value::Null) if !field.required => {
                let value = field.default.clone().unwrap_or_default();
                whole.insert(name.clone(), value);
            }
            None => faults.push(InputFault {
                rule: Rule::BadInput,
                pointer: pointer("", name),
                message: format!("the input {} is missing", quoted(name)),
                help: format!("give {}{}", field.field_type, described(field)),
            }),
            Some(value) => faults.push(InputFault {
                rule: Rule::BadInput,
                pointer: pointer("", name),
                message: format!("{} is {}", quoted(name), type_name(value)),
                help: format!("give {}{}", field.field_type, described(field)),
            }),
        }
    }
    if faults.is_empty() {
        Ok(Value::Object(whole))
    } else {
        Err(faults)
    }
}

fn described(field: &InputField) -> String {
    match &field.description {
        Some(description) => format!(": {description}"),
        None => String::new(),
    }
}

fn takes(fields: &BTreeMap<String, InputField>) -> String {
    if fields.is_empty() {
        "no input".to_owned()
    } else {
        listed(fields.keys().map(String::as_str))
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> BTreeMap<String, InputField> {
        let field = |field_type, default: Option<Value>, required| InputField {
            field_type,
            description: Some("a description".to_owned()),
            default,
            required,
        };
        [
            ("repo", field(FieldType::String, Some(json!(".")), false)),
            ("count", field(FieldType::Integer, None, true)),
            ("note", field(FieldType::String, None, false)),
        ]
        .map(|(name, field)| (name.to_owned(), field))
        .into()
    }

    #[test]
    fn defaults_are_filled_in_and_what_is_left_out_is_null() {
        let whole = validate(&fields(), &json!({"count": 18_446_744_073_709_551_615_u64})).unwrap();
        let expected = json!({"repo": ".", "count": 18_446_744_073_709_551_615_u64, "note": null});
        assert_eq!(whole, expected);
        let whole = validate(&fields(), &json!({"count": 1, "repo": null})).unwrap();
        assert_eq!(whole["repo"], ".");
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let given = json!({"count": 1.5, "repo": 3, "nota": "x"});
        let faults = validate(&fields(), &given).unwrap_err();
        let told: Vec<_> = faults
            .iter()
            .map(|fault| (fault.pointer.as_str(), fault.message.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("/nota", "the pipeline has no input `nota`"),
                ("/count", "`count` is a number"),
                ("/repo", "`repo` is a number"),
            ]
        );
        assert_eq!(faults[0].help, "did you mean `note`?");
        assert_eq!(faults[1].help, "give a whole number: a description");
    }

    #[test]
    fn a_required_field_cannot_be_left_out_or_null() {
        for given in [json!({}), json!(null), json!({"count": null})] {
            assert_eq!(validate(&fields(), &given).unwrap_err().len(), 1, "{given}");
        }
        assert!(validate(&fields(), &json!([1])).is_err());
    }
}
