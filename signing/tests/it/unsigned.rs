//! Unsigned plugins run from listed folders alone.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use orchestrator_signing::{Publisher, TrustLevel, UnsignedPaths, read_unsigned};

use crate::fixture::{Fixture, code};

#[test]
fn only_from_listed_folders_and_marked() {
    let fixture = Fixture::unsigned();
    let dir = fixture.dir();
    let listed = UnsignedPaths::new(std::slice::from_ref(&dir), TrustLevel::Untrusted).unwrap();
    let package = read_unsigned(&dir, &listed).unwrap();
    assert!(package.is_unsigned());
    assert_eq!(
        (package.publisher(), package.trust_level()),
        (&Publisher::Nobody, TrustLevel::Untrusted)
    );
    assert!(package.statement_digest().is_none());
    assert!(!package.warnings().is_empty());

    let twin = fixture.path("package-evil");
    fs::create_dir(&twin).unwrap();
    let error = read_unsigned(&twin, &listed).unwrap_err();
    assert_eq!(code(&error), "ORC-2066", "a longer name is another folder");
    let nobody = UnsignedPaths::new(&[], TrustLevel::Internal).unwrap();
    assert_eq!(code(&read_unsigned(&dir, &nobody).unwrap_err()), "ORC-2066");
    let outside = dir.join("link");
    symlink(fixture.path("package-evil"), &outside).unwrap();
    let error = read_unsigned(&outside, &listed).unwrap_err();
    assert_eq!(code(&error), "ORC-2066", "a link leads where it leads");
}

#[test]
fn the_other_checks_hold_without_a_signature() {
    let fixture = Fixture::unsigned();
    let listed = UnsignedPaths::new(&[fixture.path("")], TrustLevel::Untrusted).unwrap();
    symlink("/etc/passwd", fixture.file("assets/link")).unwrap();
    let error = read_unsigned(&fixture.dir(), &listed).unwrap_err();
    assert_eq!(code(&error), "ORC-2059");
}

#[test]
fn the_list_holds_absolute_folders_that_exist() {
    for folder in ["plugins", "", "/does/not/exist"] {
        assert!(
            UnsignedPaths::new(&[PathBuf::from(folder)], TrustLevel::Untrusted).is_err(),
            "{folder:?}"
        );
    }
}
