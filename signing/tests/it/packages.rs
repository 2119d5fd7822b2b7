//! What a verified package is made of.

use std::fs;

use orchestrator_signing::{
    Digest, FileMode, Package, Publisher, SecretKey, SignError, SignOptions, TrustLevel, Verified,
    VerifyError, cosign, sign,
};

use crate::fixture::{Fixture, code, content};

#[test]
fn signed_and_verified() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    assert_eq!(package.manifest().id.as_str(), "demo");
    assert_eq!(package.trust_level(), TrustLevel::Partner);
    assert_eq!(
        *package.publisher(),
        Publisher::Key {
            id: fixture.key.public().id(),
            name: "release".to_owned()
        }
    );
    assert_eq!(package.release().unwrap().serial, 5);
    assert!(!package.is_unsigned());
    assert_eq!(package.warnings(), [] as [String; 0]);
    assert_eq!(
        content(package.entry().unwrap()).unwrap(),
        fs::read(fixture.file("bin/run")).unwrap()
    );
    let listed: Vec<_> = package
        .files()
        .map(|file| (file.path().as_str(), file.mode()))
        .collect();
    assert_eq!(
        listed,
        [
            ("META/MANIFEST", FileMode::Data),
            ("assets/empty", FileMode::Data),
            ("bin/run", FileMode::Executable),
            ("plugin.yaml", FileMode::Data),
            ("prompts/analyze.txt", FileMode::Data),
        ]
    );
    assert!(package.file("META/signatures.json").is_none());
}

#[test]
fn the_listing_is_what_sha256sum_writes() {
    let fixture = Fixture::signed();
    let listing = fs::read_to_string(fixture.file("META/MANIFEST")).unwrap();
    let lines: Vec<_> = listing.lines().collect();
    assert_eq!(lines.len(), 4);
    for line in lines {
        let (digest, path) = line.split_once("  ").unwrap();
        assert_eq!(
            digest,
            Digest::of(&fs::read(fixture.file(path)).unwrap()).to_string(),
            "{path}"
        );
    }
}

#[test]
fn signing_again_replaces_the_signature() {
    let fixture = Fixture::signed();
    let before = fixture.verify().unwrap().statement_digest();
    fixture.write("assets/new.txt", b"new", 0o644);
    fixture.write("META/MANIFEST.minisig", b"an old export", 0o644);
    fixture.write("META/.staged-abc", b"left by an interrupted signing", 0o644);
    fixture.sign(6);
    let package = fixture.verify().unwrap();
    assert_ne!(package.statement_digest(), before);
    assert_eq!(package.files().len(), 6);
    assert!(
        !fixture.file("META/MANIFEST.minisig").exists(),
        "a stale export would mislead"
    );
}

#[test]
fn an_export_for_other_tools_may_lie_beside_the_signature() {
    let fixture = Fixture::signed();
    fixture.write("META/MANIFEST.minisig", b"untrusted comment: \n", 0o644);
    let package = fixture.verify().unwrap();
    assert!(
        package.file("META/MANIFEST.minisig").is_none(),
        "it is not verified, so it is not there"
    );
}

#[test]
fn what_would_not_verify_is_not_signed() {
    let fixture = Fixture::unsigned();
    fs::remove_file(fixture.file("prompts/analyze.txt")).unwrap();
    let error = sign(&fixture.dir(), &fixture.key, &SignOptions::new(1)).unwrap_err();
    assert!(
        matches!(error, SignError::Unfit(VerifyError::MissingFile { .. })),
        "{error}"
    );
    assert!(!fixture.file("META").exists());

    fixture.write("prompts/analyze.txt", b"", 0o644);
    fixture.write("plugin.json", b"{}", 0o644);
    let error = sign(&fixture.dir(), &fixture.key, &SignOptions::new(1)).unwrap_err();
    assert!(
        matches!(
            error,
            SignError::Unfit(VerifyError::Manifests { count: 2, .. })
        ),
        "{error}"
    );
}

#[test]
fn a_second_key_signs_the_same_release() {
    let fixture = Fixture::signed();
    let before = fixture.verify().unwrap().statement_digest();
    let second = SecretKey::generate("second").unwrap();
    cosign(&fixture.dir(), &second).unwrap();
    assert_eq!(fixture.verify().unwrap().statement_digest(), before);
    fixture.write("assets/empty", b"not any more", 0o644);
    let error = cosign(&fixture.dir(), &second).unwrap_err();
    assert_eq!(code(&error), "ORC-2072");
}

#[test]
fn a_builtin_is_vouched_for_by_the_host_and_nothing_else_is() {
    let manifest = |kind: &str| {
        let text = format!(
            "name: docs\nversion: 1.0.0\ndescription: d\nkind: {kind}\nentry_point: docs\n"
        );
        orchestrator_manifest::Manifest::parse(
            text.as_bytes(),
            orchestrator_manifest::Format::Yaml,
            "p",
        )
        .unwrap()
    };
    let package = Verified::<Package>::builtin(manifest("builtin")).unwrap();
    assert_eq!(
        (package.trust_level(), package.publisher()),
        (TrustLevel::Internal, &Publisher::Host)
    );
    assert!(package.entry().is_none());
    for kind in ["exec", "node", "grpc", "wasm", "dylib"] {
        assert!(
            Verified::<Package>::builtin(manifest(kind)).is_none(),
            "{kind}"
        );
    }
}
