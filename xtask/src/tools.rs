//! The programs the tests need beside the Rust toolchain. What is not on `PATH`
//! is put under `target/tools`, and nothing is installed anywhere else.

use std::{fs, path::PathBuf};

use crate::process::{self, Result};

const NEXTEST: &str = "0.9.143";
const DENY: &str = "0.20.2";

/// The test runner: the one on `PATH`, else built into `target/tools`.
pub(crate) fn nextest() -> Result<PathBuf> {
    cargo_tool("cargo-nextest", NEXTEST)
}

/// What checks licences and who may use which crate: the one on `PATH`, else
/// built into `target/tools`.
pub(crate) fn deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", DENY)
}

fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    if let Some(found) = process::find(name) {
        return Ok(found);
    }
    let dir = process::target().join("tools");
    let program = dir.join("bin").join(name);
    if !program.is_file() {
        let root = dir.display().to_string();
        let args = [
            "install",
            "--locked",
            "--root",
            &root,
            "--version",
            version,
            name,
        ];
        process::run(&process::cargo(), &args, &[])?;
    }
    Ok(program)
}

/// Prometheus's own linter of metrics.
pub(crate) fn promtool() -> Result<PathBuf> {
    debian_tool("prometheus", "promtool")
}

/// What counts instructions.
pub(crate) fn valgrind() -> Result<PathBuf> {
    debian_tool("valgrind", "valgrind")
}

/// A program of one of Debian's packages: the one on `PATH`, else unpacked
/// into `target/tools` without installing anything.
fn debian_tool(package: &str, name: &str) -> Result<PathBuf> {
    if let Some(found) = process::find(name) {
        return Ok(found);
    }
    let dir = process::target().join("tools").join(package);
    let program = dir.join("usr/bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let help =
        || format!("{name} is needed: install {package}, or run on a system with Debian's apt-get");
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let download = || process::output("apt-get", &["download", package], &dir);
    if download().is_none() {
        // A fresh image has no package lists yet.
        process::output("apt-get", &["update"], &dir).ok_or_else(help)?;
        download().ok_or_else(help)?;
    }
    let archive = fs::read_dir(&dir)
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(help)?;
    let archive = archive.display().to_string();
    process::output("dpkg-deb", &["-x", &archive, "."], &dir).ok_or_else(help)?;
    match program.is_file() {
        true => Ok(program),
        false => Err(help()),
    }
}
