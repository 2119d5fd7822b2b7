//! A run's input as the command line gives it.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use orchestrator_engine::pipeline::{FieldType, Pipeline};
use serde_json::{Map, Value};

use crate::{error::CliError, failure::Result};

/// The largest file that is read as input.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The input of a run, as the command line gives it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RunInput {
    /// Set one field: `name=value` (text where the pipeline says so, else JSON
    /// where it is JSON), `name=@file` (the file's content), or `@file.json`
    /// (all fields of an object)
    #[arg(long = "input", value_name = "NAME=VALUE")]
    fields: Vec<String>,

    /// Read the whole input from this JSON file, `-` for standard input;
    /// `--input` then sets single fields
    #[arg(long, value_name = "FILE")]
    input_json: Option<PathBuf>,
}

impl RunInput {
    /// Reads the input of a run of `pipeline`, whose declared types say whether
    /// `1.10` is a number or a text.
    pub(crate) fn read(&self, pipeline: &Pipeline) -> Result<Value> {
        let mut object = match &self.input_json {
            Some(path) => object_in(path)?,
            None => Map::new(),
        };
        for argument in &self.fields {
            if let Some(path) = argument.strip_prefix('@') {
                object.extend(object_in(Path::new(path))?);
                continue;
            }
            let (name, value) = argument
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| CliError::Input {
                    argument: argument.clone(),
                })?;
            let declared = pipeline.input_fields().and_then(|fields| fields.get(name));
            let value = field(value, declared.map(|field| field.field_type))?;
            object.insert(name.to_owned(), value);
        }
        Ok(Value::Object(object))
    }
}

/// What is declared as text is text; of the rest, what is JSON is meant as such.
fn field(value: &str, declared: Option<FieldType>) -> Result<Value> {
    let text = match value.strip_prefix('@') {
        Some(path) => text_of(Path::new(path))?,
        None => value.to_owned(),
    };
    match declared {
        Some(FieldType::String) => Ok(Value::String(text)),
        _ => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
    }
}

fn object_in(path: &Path) -> Result<Map<String, Value>> {
    match value_in(path)? {
        Value::Object(object) => Ok(object),
        _ => Err(unfit(path, "it holds no JSON object").into()),
    }
}

/// The JSON of a file, or of standard input where it is called `-`.
pub(crate) fn value_in(path: &Path) -> Result<Value> {
    let value = serde_json::from_str(&text_of(path)?);
    Ok(value.map_err(|error| unfit(path, error))?)
}

fn text_of(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text),
        false => fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)),
    };
    match read {
        Ok(length) if length as u64 <= FILE_BYTES_MAX => Ok(text),
        Ok(_) => Err(unfit(path, "it is larger than 16 MiB").into()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(unfit(path, "it is not UTF-8").into())
        }
        Err(error) => Err(CliError::file("read", path, error).into()),
    }
}

fn unfit(path: &Path, reason: impl ToString) -> CliError {
    CliError::InputFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fields: &[&str], input_json: Option<&Path>) -> Result<Value> {
        RunInput {
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            input_json: input_json.map(Path::to_owned),
        }
        .read(&pipeline())
    }

    fn pipeline() -> Pipeline {
        let text = "version: 1\nname: p\n\
            input:\n  version: { type: string, required: false }\n  n: { type: integer, required: false }\n\
            steps:\n  - { id: a, plugin: b, phase: c }\n";
        Pipeline::parse(text, "p.yaml").unwrap()
    }

    #[test]
    fn values_are_json_where_they_are_and_text_elsewhere() {
        let value = read(
            &["n=3", "on=true", "repo=/a=b", "list=[1,2]", "empty="],
            None,
        );
        assert_eq!(
            value.unwrap(),
            json!({ "n": 3, "on": true, "repo": "/a=b", "list": [1, 2], "empty": "" })
        );
    }

    #[test]
    fn files_give_a_field_or_all_of_them_and_later_ones_win() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole.json");
        std::fs::write(&whole, r#"{ "a": 1, "b": 2 }"#).unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "{ not json").unwrap();
        let all = format!("@{}", whole.display());
        let one = format!("b=@{}", text.display());
        let expected = json!({ "a": 1, "b": "{ not json" });
        assert_eq!(read(&[&all, &one], None).unwrap(), expected);
        assert_eq!(read(&[&one], Some(&whole)).unwrap(), expected);
    }

    #[test]
    fn what_is_no_input_is_a_mistake_in_the_command_line() {
        for wrong in [&["repo"][..], &["=x"]] {
            assert_eq!(
                read(wrong, None).unwrap_err().exit,
                crate::exit::Exit::Usage
            );
        }
        let missing = read(&["a=@/nonexistent"], None).unwrap_err();
        assert_eq!(missing.exit, crate::exit::Exit::NotFound);
    }
}
