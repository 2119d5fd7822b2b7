//! The programs the tests need beside the Rust toolchain. What is not on `PATH`
//! is put under `target/tools`, and nothing is installed anywhere else.

use std::{fs, path::PathBuf};

use crate::process::{self, Result};

const NEXTEST: &str = "0.9.143";

/// The test runner: the one on `PATH`, else built into `target/tools`.
pub(crate) fn nextest() -> Result<PathBuf> {
    if let Some(found) = process::find("cargo-nextest") {
        return Ok(found);
    }
    let dir = process::target().join("tools");
    let program = dir.join("bin/cargo-nextest");
    if !program.is_file() {
        let root = dir.display().to_string();
        let args = [
            "install",
            "--locked",
            "--root",
            &root,
            "--version",
            NEXTEST,
            "cargo-nextest",
        ];
        process::run(&process::cargo(), &args, &[])?;
    }
    Ok(program)
}

/// Prometheus's own linter of metrics: the one on `PATH`, else unpacked from
/// Debian's package into `target/tools` without installing anything.
pub(crate) fn promtool() -> Result<PathBuf> {
    if let Some(found) = process::find("promtool") {
        return Ok(found);
    }
    let dir = process::target().join("tools/prometheus");
    let program = dir.join("usr/bin/promtool");
    if program.is_file() {
        return Ok(program);
    }
    let help = "promtool is needed: install Prometheus, or run on a system with Debian's apt-get";
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let download = || process::output("apt-get", &["download", "prometheus"], &dir);
    if download().is_none() {
        // A fresh image has no package lists yet.
        process::output("apt-get", &["update"], &dir).ok_or(help)?;
        download().ok_or(help)?;
    }
    let package = fs::read_dir(&dir)
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or(help)?;
    let package = package.display().to_string();
    process::output("dpkg-deb", &["-x", &package, "."], &dir).ok_or(help)?;
    match program.is_file() {
        true => Ok(program),
        false => Err(help.to_owned()),
    }
}
