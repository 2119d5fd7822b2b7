//! Where the scripted plugin's program is.

#![expect(
    clippy::disallowed_types,
    reason = "runs cargo; the sandbox is for plugins"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

/// What the program is made of, below the workspace.
const SOURCES: [&str; 3] = ["testkit/src", "sdk/rust/src", "contract/src"];

/// The program of the plugin that does what its input says. Cargo builds the
/// programs of a package for the tests of that package alone, so the tests of
/// another one may find it missing or out of date; it is built then.
///
/// # Panics
///
/// When it cannot be built.
pub fn scripted_plugin() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own program");
    let dir = profile_dir(&test).expect("a test below a target directory");
    let program = dir.join("scripted-plugin");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    if is_current(&program, workspace) {
        return program;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let built = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--quiet", "--package", "orchestrator-testkit"])
        .args(["--bin", "scripted-plugin", "--profile", profile])
        .arg("--target-dir")
        .arg(dir.parent().expect("a target directory"))
        .stdin(Stdio::null())
        .status()
        .expect("cargo");
    assert!(built.success(), "the scripted plugin was not built");
    assert!(program.exists(), "it is not at {}", program.display());
    program
}

/// `target/debug` of `target/debug/deps/it-0123`.
fn profile_dir(test: &Path) -> Option<&Path> {
    test.parent()?.parent()
}

/// Whether the program is there and no older than what it is made of.
fn is_current(program: &Path, workspace: &Path) -> bool {
    let Ok(built) = fs::metadata(program).and_then(|it| it.modified()) else {
        return false;
    };
    let newest = SOURCES.map(|dir| newest(&workspace.join(dir)));
    newest.into_iter().flatten().all(|changed| changed <= built)
}

/// When the newest file below `dir` was changed.
fn newest(dir: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| match entry.file_type().ok()?.is_dir() {
            true => newest(&entry.path()),
            false => entry.metadata().ok()?.modified().ok(),
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_or_built_and_then_current() {
        let program = scripted_plugin();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(is_current(&program, workspace));
        assert_eq!(program, scripted_plugin());
    }

    #[test]
    fn what_is_missing_or_older_than_its_sources_is_not_current() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        assert!(!is_current(&program, dir.path()));
        let source = dir.path().join("contract/src/a/lib.rs");
        fs::create_dir_all(source.parent().unwrap()).unwrap();
        for path in [&source, &program] {
            fs::write(path, "").unwrap();
        }
        assert!(is_current(&program, dir.path()));
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        let file = fs::File::options().write(true).open(&source).unwrap();
        file.set_modified(later).unwrap();
        assert!(!is_current(&program, dir.path()));
    }
}
