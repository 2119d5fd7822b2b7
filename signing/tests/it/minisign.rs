//! minisign's files, against Debian's own `minisign`.
#![expect(
    clippy::disallowed_types,
    reason = "runs another verifier; the sandbox is for plugins"
)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use orchestrator_signing::{
    Kdf, KeyFileError, KeyFileKind, MinisignError, MinisignSignature, Protection, PublicKey,
    SecretKey, attach_minisig, signed_payload,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::fixture::{Fixture, code};

/// Runs minisign in `dir`; whether it succeeded.
fn minisign(dir: &Path, args: &[&str], stdin: &str) -> bool {
    let program = std::env::var_os("ORCHESTRATOR_TEST_MINISIGN")
        .expect("ORCHESTRATOR_TEST_MINISIGN names minisign; `cargo xtask test` fetches it");
    run(Command::new(program).current_dir(dir).args(args), stdin)
}

fn run(command: &mut Command, stdin: &str) -> bool {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // A program that asks for nothing has closed its end.
    pipe.write_all(stdin.as_bytes()).ok();
    drop(pipe);
    child.wait().unwrap().success()
}

/// A key of minisign without a passphrase, and a file.
fn foreign() -> (TempDir, SecretKey, PublicKey) {
    let dir = tempfile::tempdir().unwrap();
    let args = ["-G", "-W", "-p", "their.pub", "-s", "their.key"];
    assert!(minisign(dir.path(), &args, ""));
    let secret =
        SecretKey::read_minisign_file(&dir.path().join("their.key"), "theirs", || None).unwrap();
    let public = PublicKey::read_file(&dir.path().join("their.pub")).unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    (dir, secret, public)
}

fn sign(dir: &Path, extra: &[&str]) -> String {
    let args = ["-S", "-s", "their.key", "-m", "file", "-t", "said so"];
    assert!(minisign(dir, &[&args[..], extra].concat(), ""));
    fs::read_to_string(dir.join("file.minisig")).unwrap()
}

/// The package of a fixture with the export for minisign in it.
fn exported() -> (Fixture, PathBuf) {
    let fixture = Fixture::signed();
    let payload = signed_payload(&fixture.dir()).unwrap();
    let signature = MinisignSignature::sign(
        &fixture.key,
        payload.listing().as_bytes(),
        &payload.trusted_comment(),
    );
    attach_minisig(&fixture.dir(), fixture.key.public(), &signature.unwrap()).unwrap();
    let public = fixture.path("release.minisign.pub");
    fs::write(&public, fixture.key.public().to_minisign()).unwrap();
    (fixture, public)
}

#[test]
fn a_package_verifies_without_this_program() {
    let (fixture, public) = exported();
    let dir = fixture.dir();
    let verified = || {
        let args = ["-V", "-m", "META/MANIFEST", "-p", public.to_str().unwrap()];
        let sums = ["--check", "--strict", "--quiet", "META/MANIFEST"];
        let mut sha256sum = Command::new("sha256sum");
        minisign(&dir, &args, "") && run(sha256sum.current_dir(&dir).args(sums), "")
    };
    assert!(verified());
    fixture.verify().unwrap();
    let listing = fs::read_to_string(fixture.file("META/MANIFEST")).unwrap();
    let paths: Vec<_> = listing.lines().map(|line| &line[66..]).collect();
    let mut sorted = paths.clone();
    sorted.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(paths, sorted);

    fixture.write("assets/empty", b"no more", 0o644);
    assert!(!verified(), "a changed file");
    fixture.write("assets/empty", b"", 0o644);
    assert!(verified());
    fixture.write(
        "META/MANIFEST",
        listing.replace("empty", "other").as_bytes(),
        0o644,
    );
    assert!(!verified(), "a changed list");
}

#[test]
fn what_minisign_signs_is_verified_and_what_was_altered_is_not() {
    let (dir, secret, public) = foreign();
    assert_eq!(
        public,
        *secret.public().clone().renamed("their").as_ref().unwrap()
    );
    assert_eq!(public.minisign_id(), secret.public().minisign_id());
    let text = sign(dir.path(), &[]);
    let signature = MinisignSignature::parse(&text).unwrap();
    signature.verify(&public, b"content").unwrap();
    assert_eq!(signature.trusted_comment(), "said so");

    let refusal = |text: &str, key: &PublicKey, file: &[u8]| {
        let signature = MinisignSignature::parse(text);
        let error = signature.and_then(|signature| signature.verify(key, file));
        code(&error.unwrap_err())
    };
    assert_eq!(refusal(&text, &public, b"other"), "ORC-2032");
    let commented = text.replace("said so", "said no");
    assert_eq!(refusal(&commented, &public, b"content"), "ORC-2033");
    let stranger = SecretKey::generate("stranger").unwrap();
    assert_eq!(refusal(&text, stranger.public(), b"content"), "ORC-2034");

    // Over the file itself, and each kind with the mark of the other.
    let legacy = sign(dir.path(), &["-l"]);
    assert_eq!(refusal(&legacy, &public, b"content"), "ORC-2031");
    let marked = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1)
    };
    // The first two bytes: `Ed` is `RW` and a bit in base64, `ED` is `RU` and a bit.
    let legacy_as_hashed = marked(&legacy, "\nRW", "\nRU");
    assert_eq!(refusal(&legacy_as_hashed, &public, b"content"), "ORC-2032");
    let hashed_as_legacy = marked(&text, "\nRU", "\nRW");
    assert_eq!(refusal(&hashed_as_legacy, &public, b"content"), "ORC-2031");

    for cut in [0, 10, text.len() / 2, text.len() - 10] {
        assert_eq!(refusal(&text[..cut], &public, b"content"), "ORC-2030");
    }
    for bad in [
        format!("{text}\nmore"),
        text.replace("trusted comment: said", "said"),
    ] {
        assert_eq!(refusal(&bad, &public, b"content"), "ORC-2030");
    }
}

#[test]
fn a_key_of_minisign_signs_here_and_there() {
    let (dir, secret, public) = foreign();
    let signature = MinisignSignature::sign(&secret, b"content", "by another program").unwrap();
    let file = dir.path().join("file.minisig");
    fs::write(&file, signature.to_text()).unwrap();
    let verify = ["-V", "-m", "file", "-p", "their.pub"];
    assert!(minisign(dir.path(), &verify, ""));
    fs::write(&file, signature.to_text().replace("another", "no other")).unwrap();
    assert!(!minisign(dir.path(), &verify, ""));

    // As a key of ours it keeps its number, in both of its files.
    let ours = dir.path().join("ours.key");
    let protection = Protection::Passphrase(Zeroizing::new("p".to_owned()), Kdf::LEAST);
    secret.write_file(&ours, &protection).unwrap();
    let read = SecretKey::read_file(&ours, || Some(Zeroizing::new("p".to_owned()))).unwrap();
    assert_eq!(read.public().minisign_id(), public.minisign_id());
    let theirs = fs::read_to_string(dir.path().join("their.pub")).unwrap();
    let exported = read.public().to_minisign();
    assert_eq!(exported.lines().nth(1), theirs.lines().nth(1));
    let number = read.public().minisign_id().to_string();
    // Minisign writes it as a number, without zeros before it.
    let written = format!(" {}", number.trim_start_matches('0'));
    assert!(
        theirs.lines().next().unwrap().ends_with(&written),
        "{theirs}"
    );
    // The number is authenticated like everything else.
    let text = fs::read_to_string(&ours).unwrap();
    fs::write(&ours, text.replace(&number, "0123456789ABCDEF")).unwrap();
    let error = SecretKey::read_file(&ours, || Some(Zeroizing::new("p".to_owned()))).unwrap_err();
    assert!(
        matches!(error, KeyFileError::WrongPassphrase { .. }),
        "{error}"
    );
}

/// Takes minisign's own time and memory, 1 GiB, three times.
#[test]
fn an_encrypted_key_of_minisign_is_read_with_its_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["-G", "-p", "their.pub", "-s", "their.key"];
    assert!(minisign(dir.path(), &args, "open sesame\nopen sesame\n"));
    let path = dir.path().join("their.key");
    assert_eq!(
        KeyFileKind::of_file(&path).unwrap(),
        KeyFileKind::MinisignSecret
    );
    let read = |text: Option<&str>| {
        let text = text.map(|text| Zeroizing::new(text.to_owned()));
        SecretKey::read_minisign_file(&path, "theirs", || text)
    };
    assert!(matches!(read(None), Err(KeyFileError::PassphraseNeeded)));
    assert_eq!(code(&read(Some("open barley")).unwrap_err()), "ORC-2035");
    let key = read(Some("open sesame")).unwrap();
    let public = PublicKey::read_file(&dir.path().join("their.pub")).unwrap();
    assert_eq!(key.public().as_bytes(), public.as_bytes());

    // A file that would take the machine down is refused before it costs anything.
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().nth(1).unwrap();
    let mut bytes = BASE64.decode(line).unwrap();
    bytes[38..54].fill(0xff);
    fs::write(&path, text.replace(line, &BASE64.encode(bytes))).unwrap();
    assert_eq!(code(&read(Some("open sesame")).unwrap_err()), "ORC-2036");
}

#[test]
fn weak_keys_are_refused_in_minisigns_files_too() {
    let good = SecretKey::generate("k").unwrap().public().to_minisign();
    PublicKey::from_minisign(&good, "k").unwrap();
    let line = good.lines().nth(1).unwrap();
    // All zero is of small order.
    let mut bytes = BASE64.decode(line).unwrap();
    bytes[10..].fill(0);
    let weak = BASE64.encode(bytes);
    let error = PublicKey::from_minisign(&good.replace(line, &weak), "k").unwrap_err();
    assert_eq!(code(&error), "ORC-2003", "{error}");
    for bad in [
        &good[..good.len() / 2],
        &good[20..],
        "",
        &good.replace("RW", "RX"),
    ] {
        let error = PublicKey::from_minisign(bad, "k").unwrap_err();
        assert!(
            matches!(error, MinisignError::Format(_)),
            "{bad:?}: {error}"
        );
    }
}

/// The export lies beside the signature, decides nothing, and is checked for those
/// who have nothing else.
#[test]
fn an_export_that_misleads_is_told() {
    let (fixture, _) = exported();
    let told = |fixture: &Fixture| {
        let package = fixture.verify().unwrap();
        let export = package.minisign_export([fixture.key.public()])?;
        Some(export.map(|it| it.trusted_comment().to_owned()))
    };
    let comment = told(&fixture).unwrap().unwrap();
    assert!(
        comment.contains("plugin:demo version:1.0.0 release:5"),
        "{comment}"
    );

    let export = "META/MANIFEST.minisig";
    let good = fs::read_to_string(fixture.file(export)).unwrap();
    fixture.write(
        export,
        good.replace("release:5", "release:6").as_bytes(),
        0o644,
    );
    let error = told(&fixture).unwrap().unwrap_err();
    assert!(matches!(error, MinisignError::BadComment { .. }), "{error}");
    fixture.write(export, b"untrusted comment: \n", 0o644);
    assert!(matches!(
        told(&fixture),
        Some(Err(MinisignError::Format(_)))
    ));
    let other = Fixture::signed();
    fixture.write(export, good.as_bytes(), 0o644);
    let package = fixture.verify().unwrap();
    let unknown = package.minisign_export([other.key.public()]).unwrap();
    assert!(matches!(unknown, Err(MinisignError::BadSignature { .. })));
    fs::remove_file(fixture.file(export)).unwrap();
    assert!(told(&fixture).is_none());

    // Signing anew takes the old one away; one of another package is not put there.
    fixture.write(export, good.as_bytes(), 0o644);
    fixture.sign(6);
    assert!(!fixture.file(export).exists());
    let signature = MinisignSignature::sign(&fixture.key, b"something else", "c").unwrap();
    let error = attach_minisig(&fixture.dir(), fixture.key.public(), &signature).unwrap_err();
    assert_eq!(code(&error), "ORC-2032");
    assert!(!fixture.file(export).exists());
}
