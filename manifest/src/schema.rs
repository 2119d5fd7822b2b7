//! The JSON Schema of manifests, for editors.
//!
//! It comes from the types, so it cannot drift from them; what only the
//! decoder knows (other spellings, older keys) is added from the decoder's
//! own tables.

use serde_json::{Map, Value, json};

use crate::{
    decode::{
        Aliases, MANIFEST_ALIASES, MANIFEST_EXTRAS, PHASE_EXTRAS, RESOURCES_ALIASES, camel_case,
    },
    manifest::Manifest,
};

/// The JSON Schema (draft 2020-12) of a manifest.
///
/// A document that fits may still break a rule that schemas cannot express;
/// a manifest that [`Manifest::parse`] accepts always fits.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Manifest).to_value();
    require_only(&mut schema, &["version", "description"]);
    replace(
        &mut schema,
        "role",
        |role| json!({"anyOf": [role["items"], role]}),
    );
    replace(
        &mut schema,
        "deprecated",
        |text| json!({"anyOf": [text, {"type": "boolean"}]}),
    );
    replace(&mut schema, "name", |_| json!({"type": "string"}));
    replace(
        &mut schema,
        "dependencies",
        |map| json!({"anyOf": [map, {"type": "array", "items": {"type": "string"}}]}),
    );
    for (key, value) in MANIFEST_EXTRAS.into_iter().zip([
        json!({"enum": ["builtin", "external"]}),
        json!({"type": "boolean"}),
        json!({"type": ["object", "array"]}),
    ]) {
        schema["properties"][key] = value;
    }
    let phase = &mut schema["$defs"]["Phase"];
    require_only(phase, &["name"]);
    for key in PHASE_EXTRAS {
        phase["properties"][key] = phase["properties"]["max_retries"].clone();
    }
    require_only(&mut schema["$defs"]["Provided"], &["name"]);
    add_spellings(&mut schema, MANIFEST_ALIASES);
    add_spellings(&mut schema["$defs"]["Resources"], RESOURCES_ALIASES);
    for name in ["Phase", "Provided", "OutputSpec"] {
        add_spellings(&mut schema["$defs"][name], &[]);
    }
    schema
}

fn require_only(schema: &mut Value, keys: &[&str]) {
    schema["required"] = json!(keys);
}

fn replace(schema: &mut Value, key: &str, with: impl FnOnce(Value) -> Value) {
    let property = &mut schema["properties"][key];
    *property = with(property.take());
}

/// Every key in camelCase and under its other names as well. A required key
/// may then stand under any of them. A key without a value counts as absent.
fn add_spellings(schema: &mut Value, aliases: Aliases) {
    let Some(properties) = schema["properties"].as_object_mut() else {
        return;
    };
    let mut spelled = Map::new();
    for (key, property) in properties.iter() {
        let nullable = json!({"anyOf": [property, {"type": "null"}]});
        let others = aliases.iter().filter(|(canonical, _)| canonical == key);
        for other in others.flat_map(|(_, others)| others.iter()) {
            spelled.insert((*other).to_owned(), nullable.clone());
        }
        spelled.insert(camel_case(key), nullable.clone());
        spelled.insert(key.clone(), nullable);
    }
    *properties = spelled;
}
