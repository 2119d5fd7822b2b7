//! Every example is read by the decoder and fits the JSON Schema.

use std::path::PathBuf;

use orchestrator_manifest::{Capability, Effect, Kind, Manifest, Role, json_schema};
use serde_json::Value;

fn examples() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/manifests");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn example(name: &str) -> Manifest {
    let found = examples().into_iter().find(|path| path.ends_with(name));
    Manifest::load_file(&found.unwrap()).unwrap()
}

#[test]
fn every_example_parses_both_ways() {
    let schema = jsonschema::validator_for(&json_schema()).unwrap();
    let files = examples();
    assert!(files.len() >= 2, "the examples are gone: {files:?}");
    for path in files {
        let manifest = Manifest::load_file(&path).unwrap_or_else(|error| panic!("{error}"));
        let text = std::fs::read_to_string(&path).unwrap();
        let written: Value = serde_saphyr::from_str(&text).unwrap();
        for document in [written, manifest.to_value()] {
            let errors: Vec<_> = schema
                .iter_errors(&document)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        }
    }
}

#[test]
fn the_full_example_says_what_it_says() {
    let manifest = example("plugin-manifest.yaml");
    assert_eq!(manifest.id.as_str(), "com.example.my-plugin");
    assert_eq!(manifest.kind, Kind::Exec);
    assert_eq!(manifest.role, [Role::Domain, Role::Command]);
    assert_eq!(manifest.capabilities.len(), 9);
    let wanted = Capability::parse_request("file:read=/data/in").unwrap();
    assert!(manifest.capabilities.contains(&wanted));
    let analyze = manifest.phase("analyze").unwrap();
    assert_eq!(analyze.timeout.as_secs(), 600);
    assert_eq!(analyze.effect, Effect::Idempotent);
    assert_eq!(
        (analyze.max_retries, analyze.max_attempts()),
        (Some(3), Some(4))
    );
    let publish = manifest.phase("publish").unwrap();
    assert!(!publish.retryable && publish.sensitive && !publish.required);
    assert_eq!(manifest.extensions["x-team"], "platform");
}

#[test]
fn the_builtin_example_needs_no_entry_point() {
    let manifest = example("builtin-plugin-manifest.yaml");
    assert_eq!(manifest.kind, Kind::Builtin);
    assert_eq!(manifest.entry_point, "docs");
    assert!(manifest.entry_path().is_none());
}
