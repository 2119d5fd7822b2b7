//! The programs the tests need beside the Rust toolchain. What is not on `PATH`
//! is put under `target/tools`, and nothing is installed anywhere else.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

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
            // It takes longer to optimise them than they ever run.
            "--debug",
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

/// What others confine processes with, to compare ours with.
pub(crate) fn bubblewrap() -> Result<PathBuf> {
    debian_tool("bubblewrap", "bwrap")
}

/// The reference implementation of minisign, to compare ours with.
pub(crate) fn minisign() -> Result<PathBuf> {
    if let Some(found) = process::find("minisign") {
        return Ok(found);
    }
    let dir = unpacked("minisign", "usr/bin/minisign")?;
    let libraries = "usr/lib/x86_64-linux-gnu";
    let library = format!("{libraries}/libsodium.so.23");
    let library = unpacked("libsodium23", &library)?.join(libraries);
    // What is not installed has to be told where its library lies.
    let program = dir.join("with-its-library");
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        library.display(),
        dir.join("usr/bin/minisign").display()
    );
    write_program(&program, &script).map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(program)
}

fn write_program(path: &Path, script: &str) -> std::io::Result<()> {
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// The folder of the reference implementation of DSSE for Python, which runs on
/// `python3` alone.
pub(crate) fn securesystemslib() -> Result<PathBuf> {
    let dir = process::target().join("tools/securesystemslib");
    if dir.join("securesystemslib/dsse.py").is_file() {
        return Ok(dir);
    }
    let pins = process::root().join("xtask/securesystemslib.txt");
    let (dir_text, pins) = (dir.display().to_string(), pins.display().to_string());
    let args = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-deps",
        "--no-compile",
        "--target",
        &dir_text,
        "--requirement",
        &pins,
    ];
    process::run(Path::new("python3"), &args, &[])?;
    Ok(dir)
}

/// A program of one of Debian's packages: the one on `PATH`, else unpacked
/// into `target/tools` without installing anything.
fn debian_tool(package: &str, name: &str) -> Result<PathBuf> {
    if let Some(found) = process::find(name) {
        return Ok(found);
    }
    let wanted = format!("usr/bin/{name}");
    Ok(unpacked(package, &wanted)?.join(wanted))
}

/// The folder that one of Debian's packages is unpacked in; the file `wanted` is
/// in it.
fn unpacked(package: &str, wanted: &str) -> Result<PathBuf> {
    let dir = process::target().join("tools").join(package);
    if dir.join(wanted).is_file() {
        return Ok(dir);
    }
    let help = || {
        format!("{wanted} is needed: install {package}, or run on a system with Debian's apt-get")
    };
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
    match dir.join(wanted).is_file() {
        true => Ok(dir),
        false => Err(help()),
    }
}
