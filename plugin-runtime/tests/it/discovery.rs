//! What is found below a search path.

use std::{fs, os::unix::fs::symlink};

use orchestrator_plugin_runtime::{SearchPath, discover};
use serde_json::json;

fn manifest(id: &str, version: &str, domains: &[&str]) -> String {
    json!({
        "id": id, "version": version, "description": "d", "kind": "exec", "entry_point": "x",
        "phases": [{ "name": "run" }], "domains": domains,
    })
    .to_string()
}

#[test]
fn the_first_copy_wins_and_every_fault_is_reported_without_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, manifest: &str| {
        let package = dir.path().join(path);
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("plugin.json"), manifest).unwrap();
        fs::write(package.join("x"), "").unwrap();
    };
    put("first/a/1.0.0", &manifest("a", "1.0.0", &["docs"]));
    put("first/broken", "{ not json");
    put("first/.hidden", &manifest("hidden", "1.0.0", &[]));
    put("first/1/2/3/4/5", &manifest("deep", "1.0.0", &[]));
    put("first/1/2/3/inner", &manifest("inner", "1.0.0", &["code"]));
    put("second/a-again", &manifest("a", "1.0.0", &["docs"]));
    put("second/a-newer", &manifest("a", "1.1.0", &["docs", "code"]));
    put("second/a-newer/nested", &manifest("nested", "1.0.0", &[]));
    symlink(dir.path().join("second"), dir.path().join("first/link")).unwrap();

    let mut path = SearchPath::default();
    path.add(dir.path().join("absent"), "absent");
    path.add(dir.path().join("first"), "first");
    path.add(dir.path().join("second"), "second");
    let seen = discover(&path);

    let found: Vec<_> = seen
        .found
        .iter()
        .map(|found| {
            let (id, version) = (&found.manifest.id, &found.manifest.version);
            let shadowed = found.shadowed_by.is_some();
            format!("{} {id} {version} {shadowed}", found.label)
        })
        .collect();
    assert_eq!(
        found,
        [
            "first inner 1.0.0 false",
            "first a 1.0.0 false",
            "second a 1.0.0 true",
            "second a 1.1.0 false"
        ]
    );
    assert_eq!(
        seen.found[2].shadowed_by.as_deref(),
        Some(&*dir.path().join("first/a/1.0.0"))
    );
    let faults: Vec<_> = seen
        .faults
        .iter()
        .map(|fault| fault.problem.code.as_str())
        .collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    for code in ["ORC-1000", "ORC-3061", "ORC-3063"] {
        assert!(faults.contains(&code), "{code} in {faults:?}");
    }
    let code: Vec<_> = seen
        .for_domain("code")
        .map(|found| found.manifest.id.to_string())
        .collect();
    assert_eq!(code, ["inner", "a"]);
}

#[test]
fn something_that_is_no_directory_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut path = SearchPath::default();
    path.add(dir.path().join("file"), "file");
    let seen = discover(&path);
    assert_eq!(seen.faults[0].problem.code, "ORC-3060");
}
