//! One plugin, written in every format and every accepted spelling, is one
//! manifest.

use orchestrator_manifest::{Channel, Effect, Format, Kind, Manifest, Role, json_schema};
use proptest::prelude::*;
use serde_json::{Value, json};

const YAML: &str = "\
id: com.example.plugin
name: Plugin Name
version: 1.0.0
description: What it does
main: dist/index.js
interpreter: /usr/bin/node
minHostVersion: 1.0.0
requiredFeatures: [events, storage]
dependencies: {other-plugin: ^1.0.0}
permissions:
  storage: {read: true, write: true}
  network: {fetch: true}
x-ratio: 0.5
";

const JSON: &str = r#"{
  "id": "com.example.plugin", "name": "plugin", "display_name": "Plugin Name",
  "version": "1.0.0", "description": "What it does",
  "entry_point": "dist/index.js", "interpreter": "/usr/bin/node",
  "min_orchestrator_version": "1.0.0",
  "required_features": ["storage", "events"],
  "dependencies": ["other-plugin@^1.0.0"],
  "capabilities": ["network:access", "storage:write", "storage:read"],
  "x-ratio": 0.5
}"#;

const TOML: &str = "
id = \"com.example.plugin\"
displayName = \"Plugin Name\"
version = \"1.0.0\"
description = \"What it does\"
cmd = \"./dist/index.js\"
interpreter = \"//usr/bin/node\"
min_version = \"1.0.0\"
requiredFeatures = [\"events\", \"storage\", \"events\"]
x-ratio = 0.5
transport = \"exec\"
role = \"command\"
[dependencies]
other-plugin = \"^1.0.0\"
[[permissions]]
resource = \"storage\"
action = \"read\"
scope = \"plugin-only\"
[[permissions]]
resource = \"storage\"
action = \"write\"
[[permissions]]
resource = \"network\"
action = \"connect\"
scope = \"user-approved\"
";

fn parse(text: &str, format: Format) -> Manifest {
    Manifest::parse(text.as_bytes(), format, "plugin").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_same_plugin_has_the_same_canonical_bytes_and_digest() {
    let yaml = parse(YAML, Format::Yaml);
    let json = parse(JSON, Format::Json);
    let toml = parse(TOML, Format::Toml);
    assert_eq!(yaml.canonical_json(), json.canonical_json());
    assert_eq!(json.canonical_json(), toml.canonical_json());
    assert_eq!(yaml.digest(), toml.digest());
    assert_eq!(yaml.digest().len(), 64);
    let other = YAML.replace("1.0.0\ndescription", "1.0.1\ndescription");
    assert_ne!(parse(&other, Format::Yaml).digest(), yaml.digest());
}

#[test]
fn what_is_written_reads_back_the_same() {
    let full = include_str!("../../../examples/manifests/plugin-manifest.yaml");
    for manifest in [parse(YAML, Format::Yaml), parse(full, Format::Yaml)] {
        let again = parse(&manifest.canonical_json(), Format::Json);
        assert_eq!(again, manifest);
        assert_eq!(
            Manifest::from_value(&manifest.to_value(), "p").unwrap(),
            manifest
        );
        assert_eq!(again.digest(), manifest.digest());
    }
}

proptest! {
    /// Whatever is cut out of a manifest and put elsewhere, reading it ends
    /// without a panic, and what is accepted reads back the same.
    #[test]
    fn mangled_manifests_are_read_or_refused(cut in 0_usize..3_000, length in 0_usize..80, to in 0_usize..3_000) {
        let full = include_str!("../../../examples/manifests/plugin-manifest.yaml");
        let mut text: Vec<char> = full.chars().collect();
        let cut = cut.min(text.len() - length);
        let piece: Vec<char> = text.drain(cut..cut + length).collect();
        let to = to.min(text.len());
        text.splice(to..to, piece);
        let text: String = text.into_iter().collect();
        if let Ok(manifest) = Manifest::parse(text.as_bytes(), Format::Yaml, "p") {
            prop_assert_eq!(parse(&manifest.canonical_json(), Format::Json), manifest);
        }
    }
}

#[test]
fn ids_and_names_stand_in_for_each_other() {
    let identity = |lines: &str| {
        let text = format!("{lines}\nversion: 1.0.0\ndescription: d\nentry_point: x\n");
        let manifest = parse(&text, Format::Yaml);
        (
            manifest.id.to_string(),
            manifest.name.to_string(),
            manifest.display_name,
        )
    };
    let text = |id: &str, name: &str, shown: Option<&str>| {
        (id.to_owned(), name.to_owned(), shown.map(ToOwned::to_owned))
    };
    assert_eq!(
        identity("id: com.example.ocr"),
        text("com.example.ocr", "ocr", None)
    );
    assert_eq!(identity("name: my-ocr"), text("my-ocr", "my-ocr", None));
    assert_eq!(
        identity("id: com.example.ocr\nname: other"),
        text("com.example.ocr", "other", None)
    );
    assert_eq!(
        identity("id: com.example.ocr\nname: My OCR"),
        text("com.example.ocr", "ocr", Some("My OCR"))
    );
}

#[test]
fn the_kind_comes_from_whatever_says_it() {
    for (lines, kind) in [
        ("entry_point: run", Kind::Exec),
        ("entry_point: p.wasm", Kind::Wasm),
        ("entry_point: lib.so", Kind::Dylib),
        ("entry_point: run\ntype: external\nbinary: true", Kind::Exec),
        ("entry_point: run\nbinary: false", Kind::Dylib),
        (
            "entry_point: run\ntransport: grpc\nbinary: true",
            Kind::Grpc,
        ),
        ("entry_point: p.wasm\nkind: node", Kind::Node),
        ("type: builtin", Kind::Builtin),
        ("kind: builtin\nentry_point: docs", Kind::Builtin),
    ] {
        let text = format!("name: a\nversion: 1.0.0\ndescription: d\n{lines}\n");
        assert_eq!(parse(&text, Format::Yaml).kind, kind, "{lines}");
    }
}

#[test]
fn the_effect_of_a_phase_is_derived_and_can_be_said() {
    for (lines, effect, retryable) in [
        ("", Effect::AtMostOnce, false),
        (", retryable: false", Effect::AtMostOnce, false),
        (", retryable: true", Effect::Idempotent, true),
        (", effect: pure", Effect::Pure, true),
        (", effect: pure, retryable: false", Effect::Pure, false),
        (
            ", effect: at_most_once, retryable: true",
            Effect::AtMostOnce,
            false,
        ),
        (", effect: compensatable", Effect::Compensatable, true),
        (", effect: transactional", Effect::Transactional, true),
    ] {
        let text = format!(
            "name: a\nversion: 1.0.0\ndescription: d\nmain: x\nphases: [{{name: p{lines}}}]\n"
        );
        let phase = parse(&text, Format::Yaml).phase("p").unwrap();
        assert_eq!(
            (phase.effect, phase.retryable),
            (effect, retryable),
            "{lines}"
        );
        assert_eq!(phase.timeout.as_secs(), 600);
        assert!(phase.required);
    }
}

#[test]
fn roles_and_channels_are_assumed_from_the_rest() {
    let manifest = |lines: &str| {
        let text = format!("name: a\nversion: 1.0.0\ndescription: d\nmain: x\n{lines}\n");
        parse(&text, Format::Yaml)
    };
    assert_eq!(manifest("").role, [Role::Command]);
    assert_eq!(manifest("phases: [{name: a}]").role, [Role::Domain]);
    assert_eq!(manifest("").channel, Channel::Stable);
    assert_eq!(manifest("deprecated: true").channel, Channel::Deprecated);
    let resource = manifest("namespace: FakeAWS");
    assert_eq!(resource.role, [Role::Resource]);
    let phases: Vec<_> = resource
        .callable_phases()
        .into_iter()
        .map(|phase| phase.name)
        .collect();
    assert_eq!(
        phases,
        ["create", "read", "update", "delete", "list", "status"]
    );
    assert_eq!(resource.phase("read").unwrap().effect, Effect::Pure);
    assert_eq!(resource.phase("create").unwrap().effect, Effect::AtMostOnce);
}

#[test]
fn the_schema_knows_every_spelling_and_refuses_unknown_keys() {
    let schema = jsonschema::validator_for(&json_schema()).unwrap();
    let yaml: Value = serde_saphyr::from_str(YAML).unwrap();
    let json: Value = serde_json::from_str(JSON).unwrap();
    let toml: Value = toml::from_str(TOML).unwrap();
    for document in [yaml, json.clone(), toml] {
        let errors: Vec<_> = schema
            .iter_errors(&document)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    for (key, value) in [
        ("capabilites", json!([])),
        ("version", json!("v1")),
        ("kind", json!("vm")),
        ("phases", json!([{"name": "a", "tiemout": "1s"}])),
        ("phases", json!([{"name": "a", "timeout": "10"}])),
        ("resources", json!({"max_memory_mb": -1})),
    ] {
        let mut broken = json.clone();
        broken[key] = value.clone();
        assert!(!schema.is_valid(&broken), "{key}: {value}");
    }
}
