//! Manifests in folders.

use std::{fs, os::unix::fs::symlink, path::Path};

use orchestrator_manifest::{FILE_SIZE_MAX, Manifest, Rule};
use tempfile::TempDir;

const YAML: &str = "name: a\nversion: 1.0.0\ndescription: d\nentry_point: run\nprompts: {analyze: prompts/analyze.txt}\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn rules(dir: &Path) -> Vec<Rule> {
    let error = Manifest::load(dir).unwrap_err();
    error.faults.iter().map(|fault| fault.rule).collect()
}

#[test]
fn every_file_name_is_found() {
    let json = r#"{"name":"a","version":"1.0.0","description":"d","entry_point":"run"}"#;
    let toml = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"d\"\nentry_point = \"run\"\n";
    for (name, text) in [
        ("plugin.yaml", YAML),
        ("plugin.yml", YAML),
        ("plugin.json", json),
        ("plugin.toml", toml),
    ] {
        let dir = folder(&[(name, text), ("run", ""), ("prompts/analyze.txt", "")]);
        assert_eq!(
            Manifest::load(dir.path()).unwrap().name.as_str(),
            "a",
            "{name}"
        );
    }
}

#[test]
fn none_and_two_are_named_errors() {
    assert_eq!(
        rules(folder(&[("plugin.txt", YAML)]).path()),
        [Rule::NoManifest]
    );
    let two = folder(&[("plugin.yaml", YAML), ("plugin.json", "{}")]);
    assert_eq!(rules(two.path()), [Rule::TwoManifests]);
    let message = Manifest::load(two.path()).unwrap_err().to_string();
    assert!(message.contains("plugin.yaml, plugin.json"), "{message}");
}

#[test]
fn files_that_are_named_have_to_be_there() {
    let dir = folder(&[("plugin.yaml", YAML), ("run", "")]);
    let error = Manifest::load(dir.path()).unwrap_err();
    let fault = &error.faults[0];
    assert_eq!(
        (fault.rule, fault.pointer.as_str(), fault.line),
        (Rule::MissingFile, "/prompts/analyze", Some(5))
    );
    fs::create_dir(dir.path().join("prompts")).unwrap();
    fs::create_dir(dir.path().join("prompts/analyze.txt")).unwrap();
    assert_eq!(
        rules(dir.path()),
        [Rule::MissingFile],
        "a folder is no file"
    );
}

#[test]
fn what_is_no_plain_file_of_bounded_size_is_not_read() {
    let large = folder(&[(
        "plugin.yaml",
        &"#".repeat(usize::try_from(FILE_SIZE_MAX).unwrap() + 1),
    )]);
    assert_eq!(rules(large.path()), [Rule::TooLarge]);
    let endless = folder(&[]);
    symlink("/dev/zero", endless.path().join("plugin.yaml")).unwrap();
    assert_eq!(rules(endless.path()), [Rule::Unreadable]);
    let directory = folder(&[("plugin.yaml/x", "")]);
    assert_eq!(rules(directory.path()), [Rule::Unreadable]);
    let dangling = folder(&[]);
    symlink("nowhere", dangling.path().join("plugin.yaml")).unwrap();
    assert_eq!(rules(dangling.path()), [Rule::Unreadable]);
}
