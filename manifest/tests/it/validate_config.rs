//! A plugin's configuration against its schema.

use orchestrator_manifest::{Format, Manifest, Rule};
use serde_json::json;

fn manifest(schema: &str) -> Manifest {
    let text = format!("name: a\nversion: 1.0.0\ndescription: d\nmain: x\n{schema}");
    Manifest::parse(text.as_bytes(), Format::Yaml, "plugin.yaml").unwrap()
}

#[test]
fn every_bad_value_is_named_by_its_pointer() {
    let manifest = manifest(
        "config_schema:\n  type: object\n  required: [model]\n  properties:\n    model: {type: string}\n    database: {type: object, properties: {port: {type: integer, maximum: 65535}}}\n",
    );
    manifest
        .check_config(&json!({"model": "m", "database": {"port": 5432}}))
        .unwrap();
    let faults = manifest
        .check_config(&json!({"model": 3, "database": {"port": "hunter2"}}))
        .unwrap_err();
    let mut pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/database/port", "/model"]);
    for fault in &faults {
        assert_eq!(fault.rule, Rule::BadConfig);
        let text = format!("{fault:?}");
        assert!(!text.contains("hunter2"), "a value leaked: {text}");
    }
    let missing = manifest.check_config(&json!({})).unwrap_err();
    assert_eq!(missing[0].pointer, "");
    assert!(
        missing[0].message.contains("model"),
        "{}",
        missing[0].message
    );
}

#[test]
fn without_a_schema_everything_fits() {
    manifest("")
        .check_config(&json!({"anything": [1, 2]}))
        .unwrap();
}

/// Takes for ever on an engine that goes back and tries again.
#[test]
fn a_hostile_pattern_costs_nothing() {
    let manifest = manifest("config_schema: {type: string, pattern: '^(a+)+$'}\n");
    let input = json!(format!("{}b", "a".repeat(5_000)));
    manifest.check_config(&input).unwrap_err();
}
