//! Runs a plugin as a host runs one of kind `exec`.
#![expect(
    clippy::disallowed_types,
    reason = "these tests are about processes, and bound them with `timeout`"
)]

use std::{
    ffi::OsStr,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use serde_json::Value;

/// How a plugin ended.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) output: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    /// The output of a plugin that succeeded.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_slice(&self.output).unwrap()
    }
}

/// A file of this package.
pub(crate) fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs `program` with nothing in its environment but `variables`.
pub(crate) fn run(
    program: impl AsRef<OsStr>,
    arguments: &[&str],
    variables: &[(&str, &str)],
    input: &[u8],
) -> Finished {
    let mut child = Command::new("timeout")
        .arg("30")
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let finished = thread::scope(|scope| {
        // A plugin that refuses its arguments reads no input.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    Finished {
        code: finished.status.code(),
        output: finished.stdout,
        stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
    }
}
