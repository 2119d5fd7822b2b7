//! Each plugin says of itself what its manifest says.

use std::{ffi::OsString, path::PathBuf};

use orchestrator_manifest::Manifest;

use crate::process::{file, run};

fn plugins() -> [(PathBuf, OsString); 4] {
    let script = |path: &str| file(path).into_os_string();
    [
        (
            file("release-notes/plugins/git-history"),
            env!("CARGO_BIN_EXE_git-history").into(),
        ),
        (
            file("release-notes/plugins/commit-classifier"),
            env!("CARGO_BIN_EXE_commit-classifier").into(),
        ),
        (
            file("release-notes/plugins/author-stats"),
            script("release-notes/plugins/author-stats/author-stats.sh"),
        ),
        (file("shell/hello"), script("shell/hello/hello.sh")),
    ]
}

#[test]
fn manifests_are_valid_and_agree_with_info() {
    for (folder, program) in plugins() {
        let manifest = Manifest::load_file(&folder.join("plugin.yaml")).unwrap();
        let info = run(&program, &["info"], &[], b"").json();
        assert_eq!(info["id"], manifest.id.as_str());
        assert_eq!(info["version"], manifest.version.to_string());
        let phases: Vec<&str> = manifest
            .phases
            .iter()
            .map(|phase| phase.name.as_str())
            .collect();
        assert_eq!(info["phases"], serde_json::json!(phases));
        let entry = PathBuf::from(&program);
        assert!(
            entry.ends_with(&manifest.entry_point),
            "{}",
            entry.display()
        );
    }
}

#[test]
fn folders_of_scripts_are_whole_packages() {
    for folder in ["release-notes/plugins/author-stats", "shell/hello"] {
        Manifest::load(&file(folder)).unwrap();
    }
}
