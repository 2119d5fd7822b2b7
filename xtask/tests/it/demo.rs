//! The demo as a person runs it, on repositories of every size.
#![expect(
    clippy::disallowed_types,
    reason = "drives git and the demo as a person does"
)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::root;

/// One test, because all of these use the demo's one home.
#[test]
fn the_demo_works_on_histories_of_every_size() {
    let dir = root().join("target/demo-repositories");
    let _ = fs::remove_dir_all(&dir);

    let small = repository(
        &dir.join("small"),
        &["feat: one", "fix(core)!: two", "plain words"],
    );
    let first = demo(&small);
    assert!(
        first.contains("one") && first.contains("Breaking changes"),
        "{first}"
    );
    assert_eq!(demo(&small), first, "two runs give the same notes");

    let empty = repository(&dir.join("empty"), &[]);
    assert!(
        demo(&empty).contains("No commits yet"),
        "an empty history is no error"
    );

    let subjects: Vec<String> = (0..5_000)
        .map(|number| format!("feat: change {number}"))
        .collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    let large = repository(&dir.join("large"), &subjects);
    let notes = demo(&large);
    assert!(notes.contains("5000 commits"), "{}", &notes[..200]);
    assert_eq!(
        notes.matches("- Change ").count() + notes.matches("- change ").count(),
        5_000
    );
    fs::remove_dir_all(dir).unwrap();
}

/// Runs the demo to its end and returns the notes.
fn demo(repository: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_orchestrator-xtask"))
        .args(["demo".as_ref(), "--repo".as_ref(), repository.as_os_str()])
        .current_dir(root())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");
    assert!(shown.contains("refused with status 6"), "{shown}");
    assert!(errors.contains("ORC-2055"), "{errors}");
    fs::read_to_string(root().join("target/demo/RELEASE_NOTES.md")).unwrap()
}

/// Makes a repository with one commit for each subject.
fn repository(dir: &Path, subjects: &[&str]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    git(dir, &["init", "--quiet", "--initial-branch=main"], "");
    let mut stream = String::new();
    for (number, subject) in subjects.iter().enumerate() {
        let length = subject.len();
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter Ada <ada@example.com> {} +0000\ndata {length}\n{subject}\n",
            1_700_000_000 + number
        ));
    }
    git(dir, &["fast-import", "--quiet"], &stream);
    fs::canonicalize(dir).unwrap()
}

fn git(dir: &Path, args: &[&str], input: &str) {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "git {args:?}");
}
