//! Packages in one file: made, read back, and every way to make them wrong.

mod damage;
mod forge;
mod hostile;
mod left;
mod round_trip;

use std::{
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

use orchestrator_signing::archive::{self, ArchiveError, Unpacked};

pub(crate) use self::forge::{gzip, sealed};
use crate::fixture::{Fixture, code, content};

/// The archive of a package.
pub(crate) fn packed(fixture: &Fixture) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive::pack(&fixture.dir(), &mut bytes).unwrap();
    bytes
}

/// Where packages are unpacked to.
fn scratch(fixture: &Fixture) -> std::path::PathBuf {
    let path = fixture.path("scratch");
    fs::create_dir_all(&path).unwrap();
    path
}

/// Everything in a folder, hidden things too.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The code with which an archive is refused, and nothing is left of it.
fn refusal(archive: &[u8], dest: &Path) -> String {
    let outcome = archive::unpack(archive, dest);
    let code = outcome_code(&outcome);
    drop(outcome);
    assert_eq!(names(dest), [] as [&str; 0], "{code}");
    code
}

fn outcome_code(outcome: &Result<Unpacked, ArchiveError>) -> String {
    match outcome {
        Ok(unpacked) => format!("{} files", unpacked.files()),
        Err(error) => code(error),
    }
}

#[test]
fn what_was_packed_is_what_is_verified() {
    let fixture = Fixture::signed();
    let long = format!("assets/{}/{}", "d".repeat(120), "f".repeat(130));
    fixture.write(&long, b"a long path", 0o644);
    fixture.sign(6);
    let mut bytes = Vec::new();
    let report = archive::pack(&fixture.dir(), &mut bytes).unwrap();
    assert_eq!(
        (report.name.as_str(), report.version.as_str()),
        ("demo", "1.0.0")
    );
    assert_eq!(report.files, 7);
    assert_eq!(report.archive_bytes, bytes.len() as u64);
    assert_eq!(report.digest, orchestrator_signing::Digest::of(&bytes));

    let scratch = scratch(&fixture);
    let root = fixture.store().root();
    let (unpacked, package) =
        archive::open(&bytes[..], Path::new("demo.opkg"), &scratch, &root).unwrap();
    let expected = fixture.verify().unwrap();
    assert_eq!(package.statement_digest(), expected.statement_digest());
    assert_eq!(package.warnings(), [] as [String; 0]);
    assert_eq!((unpacked.files(), unpacked.bytes()), (7, report.bytes));
    for (file, original) in package.files().zip(expected.files()) {
        assert_eq!(file.path(), original.path());
        assert_eq!(file.mode(), original.mode());
        assert_eq!(content(file).unwrap(), content(original).unwrap());
    }
    drop(unpacked);
    assert_eq!(names(&scratch), [] as [&str; 0]);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let fixture = Fixture::signed();
    let first = packed(&fixture);
    let copy = fixture.path("elsewhere/copy");
    // Written in another order, later, with other modes and an empty folder.
    for file in [
        "prompts/analyze.txt",
        "plugin.yaml",
        "bin/run",
        "META/signatures.json",
        "assets/empty",
        "META/MANIFEST",
    ] {
        let bytes = fs::read(fixture.file(file)).unwrap();
        let mode = if file == "bin/run" { 0o700 } else { 0o600 };
        crate::fixture::write(&copy.join(file), &bytes, mode);
        let file = File::open(copy.join(file)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    fs::create_dir(copy.join("empty")).unwrap();
    let mut second = Vec::new();
    archive::pack(&copy, &mut second).unwrap();
    assert!(first == second);
}

#[test]
fn only_what_was_signed_is_packed() {
    let fixture = Fixture::unsigned();
    let refused = |fixture: &Fixture| {
        let error = archive::pack(&fixture.dir(), std::io::sink()).unwrap_err();
        code(&error)
    };
    assert_eq!(refused(&fixture), "ORC-2040");
    fixture.sign(1);
    fixture.write("assets/empty", b"not any more", 0o644);
    assert_eq!(refused(&fixture), "ORC-2056");
    fixture.write("assets/empty", b"", 0o644);
    fixture.write("extra", b"", 0o644);
    assert_eq!(refused(&fixture), "ORC-2053");
    fs::remove_file(fixture.file("extra")).unwrap();
    fixture.write("bin/run", b"#!/bin/sh\necho HELLO\n", 0o755);
    assert_eq!(refused(&fixture), "ORC-2055");
    // It would be refused wherever it is unpacked.
    let zeros = File::create(fixture.file("zeros")).unwrap();
    zeros.set_len(64 << 20).unwrap();
    fixture.sign(2);
    assert_eq!(refused(&fixture), "ORC-2188");
}

#[test]
fn a_package_is_kept_where_nothing_is() {
    let fixture = Fixture::signed();
    let bytes = packed(&fixture);
    let scratch = scratch(&fixture);
    let target = scratch.join("demo");
    let unpacked = archive::unpack(&bytes[..], &scratch).unwrap();
    unpacked.keep(&target).unwrap();
    assert_eq!(names(&scratch), ["demo"]);
    let root = fixture.store().root();
    orchestrator_signing::verify(&target, &root).unwrap();

    let before = fs::read(target.join("bin/run")).unwrap();
    for taken in [target.clone(), fixture.file("bin/run")] {
        let unpacked = archive::unpack(&bytes[..], &scratch).unwrap();
        let error = unpacked.keep(&taken).unwrap_err();
        assert_eq!(code(&error), "ORC-2189");
    }
    assert_eq!(fs::read(target.join("bin/run")).unwrap(), before);
    assert_eq!(names(&scratch), ["demo"]);
}

/// Everybody has these two, and they know nothing of us.
#[test]
#[expect(
    clippy::disallowed_types,
    reason = "runs other people's tools; the sandbox is for plugins"
)]
fn tar_and_gzip_read_it_too() {
    use std::process::Command;
    let fixture = Fixture::signed();
    let long = format!("assets/{}/{}", "d".repeat(120), "f".repeat(130));
    let split = format!("assets/{}/{}", "d".repeat(120), "f".repeat(90));
    fixture.write(&long, b"a long path", 0o644);
    fixture.write(&split, b"one that fits", 0o644);
    fixture.sign(6);
    let archive = fixture.path("demo.opkg");
    fs::write(&archive, packed(&fixture)).unwrap();
    let target = fixture.path("by-tar");
    fs::create_dir(&target).unwrap();
    let output = Command::new("tar")
        .arg("-xzf")
        .args([&archive, Path::new("-C"), &target])
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let output = Command::new("gzip")
        .arg("-t")
        .stdin(File::open(&archive).unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let root = fixture.store().root();
    let package = orchestrator_signing::verify(&target, &root).unwrap();
    assert!(package.file(&long).is_some() && package.file(&split).is_some());
}
