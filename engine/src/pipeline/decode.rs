//! From a tree of values to a [`Document`], with every fault found on the way.

mod fallback;
mod fields;

use std::{collections::BTreeMap, num::NonZeroU16};

use orchestrator_manifest::{
    PluginName, format_duration,
    located::{Node, NodeKind},
    parse_duration,
};
use serde_json::Value;

use self::fields::{Decoder, Table};
use super::{
    document::{
        CONCURRENCY_MAX, Document, FIELDS_MAX, FORMAT_VERSION, ID_MAX, OUTPUT_NAME_MAX,
        OutputDocument, STEPS_MAX, StepDocument, is_output_name, is_pipeline_name, is_step_id,
        no_input,
    },
    fault::{Fault, Rule},
    input::{FieldType, InputField},
    located::{Located, Part},
    step::Releases,
    words::{listed, quoted},
};

const DOCUMENT: [&str; 7] = [
    "version",
    "name",
    "description",
    "input",
    "concurrency",
    "steps",
    "outputs",
];
const STEP: [&str; 10] = [
    "id", "plugin", "phase", "input", "timeout", "policy", "fallback", "required", "when", "needs",
];
const FIELD: [&str; 4] = ["type", "description", "default", "required"];
const OUTPUT: [&str; 3] = ["from", "primary", "description"];

/// Longest name of an input field and of a phase, in bytes.
const WORD_MAX: usize = 64;

/// Reads the whole document. Where something is wrong the document holds a
/// stand-in, and the list of faults is not empty.
pub(super) fn document(located: &Located) -> (Option<Document>, Vec<Fault>) {
    let mut decoder = Decoder::new(located);
    let document = read(&mut decoder, located.root());
    (document, decoder.into_faults())
}

/// Splits `id@range` or `id@channel`; without either any release will do.
pub(super) fn plugin_and_releases(text: &str) -> Result<(&str, Releases), String> {
    let (id, releases) = text.split_once('@').unwrap_or((text, "*"));
    PluginName::parse(id).map_err(|error| error.to_string())?;
    let releases = Releases::parse(releases)
        .map_err(|error| format!("{} is no range of versions: {error}", quoted(releases)))?;
    Ok((id, releases))
}

fn read(decoder: &mut Decoder<'_>, root: &Node) -> Option<Document> {
    let table = decoder.table(root, "", &DOCUMENT)?;
    version(decoder, &table);
    Some(Document {
        version: FORMAT_VERSION,
        name: decoder
            .required_text(&table, "name")
            .filter(|name| {
                decoder.require(is_pipeline_name(name), &table, "name", Rule::BadName, || {
                    (
                        format!("{} is no name of a pipeline", quoted(name)),
                        format!("use a-z and 0-9 in parts joined by `.`, `_` or `-`, at most {ID_MAX} characters"),
                    )
                })
            })
            .unwrap_or_default(),
        description: decoder.description(&table),
        input: input(decoder, &table),
        concurrency: concurrency(decoder, &table),
        steps: steps(decoder, &table),
        outputs: outputs(decoder, &table),
    })
}

fn version(decoder: &mut Decoder<'_>, table: &Table<'_>) {
    let Some(node) = decoder.required(table, "version") else {
        return;
    };
    let right =
        matches!(&node.kind, NodeKind::Number(number) if number.as_u64() == Some(FORMAT_VERSION));
    decoder.require(right, table, "version", Rule::BadVersion, || {
        (
            "this format of pipelines is not known".to_owned(),
            format!("write `version: {FORMAT_VERSION}`"),
        )
    });
}

fn concurrency(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Option<NonZeroU16> {
    let node = table.get("concurrency")?;
    let value = match &node.kind {
        NodeKind::Number(number) => number.as_u64(),
        _ => None,
    };
    let value = value
        .and_then(|value| u16::try_from(value).ok())
        .filter(|value| *value <= CONCURRENCY_MAX)
        .and_then(NonZeroU16::new);
    decoder.require(
        value.is_some(),
        table,
        "concurrency",
        Rule::OutOfBounds,
        || {
            (
                "not a number of steps that may run together".to_owned(),
                format!("write a whole number from 1 to {CONCURRENCY_MAX}"),
            )
        },
    );
    value
}

fn input(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Option<BTreeMap<String, InputField>> {
    let entries = decoder.entries(table, "input", FIELDS_MAX)?;
    let mut fields = BTreeMap::new();
    for (name, at, node) in entries {
        let is_word = name.len() <= WORD_MAX
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if !is_word {
            let message = format!("{} is no name of an input", quoted(name));
            let help = format!("use letters, digits, `_` and `-`, at most {WORD_MAX} of them");
            decoder.fault(&at, Part::Key, Rule::BadName, message, help);
        }
        if let Some(field) = input_field(decoder, node, &at) {
            fields.insert(name.to_owned(), field);
        }
    }
    Some(fields)
}

fn input_field(decoder: &mut Decoder<'_>, node: &Node, at: &str) -> Option<InputField> {
    let table = decoder.table(node, at, &FIELD)?;
    let word = decoder.required_text(&table, "type");
    let field_type = word.as_deref().and_then(FieldType::parse);
    if let Some(word) = word {
        decoder.require(
            field_type.is_some(),
            &table,
            "type",
            Rule::UnknownWord,
            || {
                let known = FieldType::ALL.map(|(name, _)| name);
                (
                    format!("{} is no type", quoted(&word)),
                    format!("the types are {}", listed(known)),
                )
            },
        );
    }
    let default = table.get("default").map(Node::to_json);
    let default = default.filter(|value| !value.is_null());
    let required = decoder.flag(&table, "required");
    if let (Some(default), Some(field_type)) = (&default, field_type) {
        decoder.require(
            field_type.accepts(default),
            &table,
            "default",
            Rule::BadDefault,
            || {
                (
                    "the default does not fit the type".to_owned(),
                    format!("write {field_type}"),
                )
            },
        );
    }
    let contradicts = default.is_some() && required == Some(true);
    decoder.require(
        !contradicts,
        &table,
        "required",
        Rule::Contradiction,
        || {
            (
                "a field with a default is never missing".to_owned(),
                "drop `required` or `default`".to_owned(),
            )
        },
    );
    Some(InputField {
        field_type: field_type?,
        description: decoder.description(&table),
        required: required.unwrap_or(default.is_none()),
        default,
    })
}

fn steps(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Vec<StepDocument> {
    let Some(node) = decoder.required(table, "steps") else {
        return Vec::new();
    };
    let NodeKind::List(items) = &node.kind else {
        decoder.wrong_type("/steps", node, "a list of steps");
        return Vec::new();
    };
    decoder.require(!items.is_empty(), table, "steps", Rule::OutOfBounds, || {
        (
            "a pipeline without steps".to_owned(),
            "add a step".to_owned(),
        )
    });
    decoder.require(
        items.len() <= STEPS_MAX,
        table,
        "steps",
        Rule::OutOfBounds,
        || {
            (
                format!("{} steps; at most {STEPS_MAX} are allowed", items.len()),
                "split the pipeline".to_owned(),
            )
        },
    );
    let steps = items.iter().take(STEPS_MAX).enumerate();
    steps
        // A step that cannot be read keeps its place, so that positions hold.
        .map(|(index, item)| {
            step(decoder, item, &format!("/steps/{index}")).unwrap_or_else(nameless)
        })
        .collect()
}

fn nameless() -> StepDocument {
    StepDocument {
        id: String::new(),
        plugin: String::new(),
        phase: String::new(),
        input: no_input(),
        timeout: None,
        policy: Value::Null,
        fallback: None,
        required: true,
        when: None,
        needs: Vec::new(),
    }
}

fn step(decoder: &mut Decoder<'_>, node: &Node, at: &str) -> Option<StepDocument> {
    let table = decoder.table(node, at, &STEP)?;
    let id = decoder.required_text(&table, "id").unwrap_or_default();
    decoder.require(
        id.is_empty() || is_step_id(&id),
        &table,
        "id",
        Rule::BadName,
        || {
            (
                format!("{} is no id of a step", quoted(&id)),
                format!(
                    "begin with a-z, go on with a-z, 0-9, `_` and `-`, at most {ID_MAX} characters"
                ),
            )
        },
    );
    let phase = decoder.required_text(&table, "phase").unwrap_or_default();
    let is_phase = phase.len() <= WORD_MAX && !phase.chars().any(char::is_whitespace);
    decoder.require(is_phase, &table, "phase", Rule::BadName, || {
        (
            format!("{} is no name of a phase", quoted(&phase)),
            String::new(),
        )
    });
    Some(StepDocument {
        id,
        plugin: plugin(decoder, &table),
        phase,
        input: table.get("input").map_or_else(no_input, Node::to_json),
        timeout: timeout(decoder, &table),
        policy: policy(decoder, &table),
        fallback: fallback::fallback(decoder, &table),
        required: decoder.flag(&table, "required").unwrap_or(true),
        when: when(decoder, &table),
        needs: needs(decoder, &table),
    })
}

fn plugin(decoder: &mut Decoder<'_>, table: &Table<'_>) -> String {
    let Some(text) = decoder.required_text(table, "plugin") else {
        return String::new();
    };
    match plugin_and_releases(&text) {
        Ok((id, releases)) if releases == Releases::ANY => id.to_owned(),
        Ok((id, releases)) => format!("{id}@{releases}"),
        Err(reason) => {
            decoder.require(false, table, "plugin", Rule::BadPlugin, || {
                (
                    format!("{} names no plugin: {reason}", quoted(&text)),
                    "write `git-history`, `git-history@^0.1` for a range of versions, or `git-history@beta` for a channel".to_owned(),
                )
            });
            String::new()
        }
    }
}

fn timeout(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Option<String> {
    let node = table.get("timeout")?;
    let reason = match &node.kind {
        NodeKind::String(text) => match parse_duration(text) {
            Ok(duration) if duration.is_zero() => "no time at all".to_owned(),
            Ok(duration) => return Some(format_duration(duration)),
            Err(error) => error.to_string(),
        },
        _ => format!("{} without a unit", node.type_name()),
    };
    decoder.require(false, table, "timeout", Rule::BadDuration, || {
        (
            format!("this is no timeout: {reason}"),
            "write a number with a unit: `90s`, `2m`, `1h30m`".to_owned(),
        )
    });
    None
}

fn policy(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Value {
    match table.get("policy") {
        None => Value::Null,
        Some(node) if matches!(node.kind, NodeKind::Table(_)) => node.to_json(),
        Some(node) => {
            decoder.wrong_type(&table.at("policy"), node, "a table of overrides");
            Value::Null
        }
    }
}

fn when(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Option<Value> {
    let node = table.get("when")?;
    if !matches!(node.kind, NodeKind::Bool(_) | NodeKind::String(_)) {
        decoder.wrong_type(&table.at("when"), node, "`${{ expression }}`");
    }
    Some(node.to_json())
}

fn needs(decoder: &mut Decoder<'_>, table: &Table<'_>) -> Vec<String> {
    let Some(node) = table.get("needs") else {
        return Vec::new();
    };
    let NodeKind::List(items) = &node.kind else {
        decoder.wrong_type(&table.at("needs"), node, "a list of ids of steps");
        return Vec::new();
    };
    decoder.require(
        items.len() <= STEPS_MAX,
        table,
        "needs",
        Rule::OutOfBounds,
        || {
            (
                format!("more than {STEPS_MAX} steps"),
                "name each of them once".to_owned(),
            )
        },
    );
    let mut needs = Vec::new();
    for (index, item) in items.iter().take(STEPS_MAX).enumerate() {
        match &item.kind {
            NodeKind::String(id) => needs.push(id.clone()),
            _ => {
                let at = format!("{}/{index}", table.at("needs"));
                decoder.wrong_type(&at, item, "the id of a step");
                // Positions in the list must hold.
                needs.push(String::new());
            }
        }
    }
    needs
}

fn outputs(decoder: &mut Decoder<'_>, table: &Table<'_>) -> BTreeMap<String, OutputDocument> {
    let mut outputs = BTreeMap::new();
    let mut primary: Option<&str> = None;
    for (name, at, node) in decoder
        .entries(table, "outputs", FIELDS_MAX)
        .unwrap_or_default()
    {
        if !is_output_name(name) {
            let message = format!("{} is no name of an output", quoted(name));
            let help = format!(
                "use a file name without a path: letters, digits, `.`, `_` and `-`, at most {OUTPUT_NAME_MAX} characters"
            );
            decoder.fault(&at, Part::Key, Rule::BadName, message, help);
        }
        let Some(fields) = decoder.table(node, &at, &OUTPUT) else {
            continue;
        };
        let from = decoder.required(&fields, "from").map(Node::to_json);
        let is_primary = decoder.flag(&fields, "primary").unwrap_or(false);
        if let (true, Some(other)) = (is_primary, primary) {
            let message = format!("{} is primary already", quoted(other));
            let help = "choose one of them".to_owned();
            decoder.fault(
                &fields.at("primary"),
                Part::Key,
                Rule::TwoPrimaries,
                message,
                help,
            );
        }
        primary = primary.or(is_primary.then_some(name));
        let output = OutputDocument {
            from: from.unwrap_or_default(),
            primary: is_primary,
            description: decoder.description(&fields),
        };
        outputs.insert(name.to_owned(), output);
    }
    if outputs.len() == 1 {
        outputs.values_mut().for_each(|only| only.primary = true);
    }
    outputs
}
