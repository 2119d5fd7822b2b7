//! Runs the programs a task consists of.
#![expect(
    clippy::disallowed_types,
    reason = "a task waits for its programs in the foreground and confines none of them"
)]

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A task's failure is one message for the person who ran it.
pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_path_buf()
}

/// Where cargo puts what it builds, following `CARGO_TARGET_DIR`.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |dir| root().join(PathBuf::from(dir)),
    )
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Runs a program in the workspace's root with our output, and fails unless it
/// succeeds.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    env: &[(&str, &OsStr)],
) -> Result<()> {
    let code = run_for_code(program, args, env)?;
    match code {
        0 => Ok(()),
        code => Err(format!("`{}` ended with status {code}", program.display())),
    }
}

/// As [`run`], for programs whose exit status is what one wants to see.
pub(crate) fn run_for_code<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    env: &[(&str, &OsStr)],
) -> Result<i32> {
    let status = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot run `{}`: {error}", program.display()))?;
    Ok(status.code().unwrap_or(128))
}

/// Runs a program quietly; its output when it succeeds, `None` when it fails or
/// is not there.
pub(crate) fn output<S: AsRef<OsStr>>(program: &str, args: &[S], dir: &Path) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The absolute path of a program on `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
}
