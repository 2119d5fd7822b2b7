//! The lock file as text: one form, and nothing else is taken.

use std::fs;

use orchestrator_signing::{
    Digest, GrantStore, InstallOptions, LOCK_FILE_SIZE_MAX, LockFile, LockFileError, install,
};

use crate::fixture::{Fixture, MANIFEST, code};

fn locked(fixture: &Fixture) -> LockFile {
    let grants = GrantStore::open(&fixture.path("grants.toml")).unwrap();
    let root = fixture.store().root();
    LockFile::of_store(&fixture.path("plugins"), &root, &grants).unwrap()
}

fn put(fixture: &Fixture, version: &str, serial: u64) {
    let manifest = MANIFEST.replace("1.0.0", version);
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
    fixture.sign(serial);
    let (dir, plugins) = (fixture.dir(), fixture.path("plugins"));
    let options = InstallOptions::default();
    install(&dir, &mut fixture.store(), &plugins, options).unwrap();
}

/// A home with two versions, and its lock file as text.
fn two_versions() -> (Fixture, String) {
    let fixture = Fixture::signed();
    put(&fixture, "10.0.0", 5);
    put(&fixture, "2.0.0", 6);
    let text = locked(&fixture).to_text().unwrap();
    (fixture, text)
}

#[test]
fn the_same_home_gives_the_same_bytes() {
    let (fixture, text) = two_versions();
    assert_eq!(locked(&fixture).to_text().unwrap(), text);
    let parsed = LockFile::parse(&text).unwrap();
    assert_eq!(parsed, locked(&fixture));
    assert_eq!(parsed.to_text().unwrap(), text);
    let release = &parsed.plugins()[0];
    let statement = format!("statement = \"sha256:{}\"", release.statement());
    let key = format!("keys = [\"{}\"]", fixture.key.public().id());
    for line in [
        "version = 1",
        "name = \"demo\"",
        "version = \"10.0.0\"",
        "serial = 5",
        "root_version = 1",
        &statement,
        &key,
        "[plugin.trees]",
        "any = \"sha256:",
        "grants = \"sha256:",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn what_is_not_as_written_down_is_told() {
    let (fixture, text) = two_versions();
    let now = locked(&fixture);
    now.require(&now).unwrap();
    let told = |old: &str, new: &str| {
        let other = LockFile::parse(&text.replacen(old, new, 1)).unwrap();
        let refused = other.require(&now).unwrap_err();
        assert_eq!(code(&refused), "ORC-2161");
        refused.to_string()
    };
    let digest = Digest::of(b"other").to_string();
    let release = &now.plugins()[0];
    let cases = [
        (release.statement().to_string(), &digest, "another release"),
        (release.keys[0].to_string(), &digest, "no longer signed"),
        (
            "root_version = 1".into(),
            &"root_version = 9".into(),
            "older",
        ),
        (
            "version = \"2.0.0\"".into(),
            &"version = \"3.0.0\"".into(),
            "3.0.0 is not installed",
        ),
        (
            "version = \"2.0.0\"".into(),
            &"version = \"3.0.0\"".into(),
            "2.0.0 is not in",
        ),
    ];
    for (old, new, what) in &cases {
        let message = told(old, new);
        assert!(message.contains(what), "{message}");
    }
    let tree = text.split("any = \"").nth(1).unwrap();
    let tree = tree.split('"').next().unwrap();
    assert!(told(tree, &format!("sha256:{digest}")).contains("other files"));
    let grants = text.split("grants = \"").nth(1).unwrap();
    let grants = grants.split('"').next().unwrap();
    assert!(told(grants, &format!("sha256:{digest}")).contains("other capabilities"));
    // A release for another platform may be added.
    let more = format!("any = \"{tree}\"\naarch64-unknown-linux-gnu = \"sha256:{digest}\"");
    let other = text.replacen(&format!("any = \"{tree}\""), &more, 1);
    LockFile::parse(&other).unwrap().require(&now).unwrap();
}

#[test]
fn nothing_but_a_lock_file_is_taken() {
    let (_, text) = two_versions();
    let refused = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        let changed = text.replacen(old, new, 1);
        LockFile::parse(&changed).expect_err(new)
    };
    for (old, new) in [
        ("version = 1\n", "version = 2\n"),
        ("version = 1\n", "version = 1\nextra = 1\n"),
        ("version = 1\n", ""),
        ("serial = 5\n", "serial = -5\n"),
        ("serial = 5\n", "serial = \"5\"\n"),
        ("serial = 5\n", "serial = 5\nserial = 5\n"),
        ("serial = 5\n", "serial = 5\nseriall = 5\n"),
        ("version = \"2.0.0\"", "version = \"10.0.0\""),
        ("version = \"2.0.0\"", "version = \"2.0\""),
        ("version = \"2.0.0\"", "version = \"../2.0.0\""),
        ("name = \"demo\"", "name = \"../demo\""),
        ("statement = \"sha256:", "statement = \"sha512:"),
        ("statement = \"sha256:", "statement = \"SHA256:"),
        ("any = ", "\"a b\" = "),
        ("any = ", "\"\" = "),
        ("source = \"", "source = \"\\u001b[2J"),
        ("source = \"", &format!("source = \"{}", "x".repeat(5000))),
    ] {
        let reason = refused(old, new);
        assert!(
            !reason.contains('\u{1b}') && !reason.contains('\n'),
            "{reason}"
        );
    }
    for end in 2..text.len() {
        let cut = LockFile::parse(&text[..text.len() - end]);
        assert!(cut.is_err() || cut.unwrap().plugins().len() < 2, "{end}");
    }
    let long = format!(
        "#{}",
        "x".repeat(usize::try_from(LOCK_FILE_SIZE_MAX).unwrap())
    );
    assert!(LockFile::parse(&long).is_err());
    let deep = format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(LockFile::parse(&deep).is_err());
}

/// Thirty thousand texts that are nearly lock files. Whatever is taken has one
/// form, which says the same; whatever is not is refused with a sentence.
#[test]
fn mutilated_lock_files_are_taken_in_one_form_or_refused() {
    let (fixture, text) = two_versions();
    let now = locked(&fixture);
    let corpus = [
        text.clone(),
        text.replace("any", "x86_64-unknown-linux-gnu"),
        "version = 1\n".to_owned(),
        text.replace('"', "'"),
        text.replace("[[plugin]]", "[[ plugin ]]"),
    ];
    let pieces = [
        "\"",
        "[[plugin]]\n",
        "[plugin.trees]\n",
        "sha256:",
        "= ",
        "\n",
        "\\u0000",
        "''' ",
        "9223372036854775808",
        "\u{202e}",
        "# ",
        "{",
        "}",
        "[",
        "]",
        "1979-05-27",
        "inf",
        "0x",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut taken = 0;
    for _ in 0..30_000 {
        let mut text = corpus[random.usize(..corpus.len())].clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=text.len());
            match random.u8(..5) {
                0 => text.truncate(at),
                1 => drop(text.drain(at..(at + random.usize(..40)).min(text.len()))),
                2 => drop(text.splice(at..at, pieces[random.usize(..pieces.len())].bytes())),
                3 if at < text.len() => text[at] = random.u8(..),
                _ => {
                    let (from, to) = (at.min(text.len() / 2), at.max(text.len() / 2));
                    let copy = text[from..to].to_vec();
                    text.extend(copy);
                }
            }
        }
        let text = String::from_utf8_lossy(&text);
        match LockFile::parse(&text) {
            Ok(parsed) => {
                taken += 1;
                let again = parsed.to_text().unwrap();
                assert_eq!(LockFile::parse(&again).as_ref(), Ok(&parsed), "{text}");
                drop(parsed.require(&now));
            }
            Err(reason) => assert!(!reason.is_empty() && !reason.contains('\n')),
        }
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn a_file_that_is_not_there_and_one_that_cannot_be_read() {
    let (fixture, text) = two_versions();
    let path = fixture.path("orchestrator.lock");
    assert_eq!(LockFile::read(&path).unwrap(), None);
    LockFile::parse(&text).unwrap().write(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let written = path.metadata().unwrap().modified().unwrap();
    LockFile::parse(&text).unwrap().write(&path).unwrap();
    assert_eq!(path.metadata().unwrap().modified().unwrap(), written);
    fs::write(&path, b"\xff").unwrap();
    assert_eq!(code(&LockFile::read(&path).unwrap_err()), "ORC-2160");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(fixture.path("elsewhere"), &path).unwrap();
    assert_eq!(code(&LockFile::read(&path).unwrap_err()), "ORC-2164");
    let nowhere = fixture.path("nowhere/orchestrator.lock");
    let refused = LockFile::default().write(&nowhere).unwrap_err();
    assert!(matches!(refused, LockFileError::Io { .. }));
}

#[test]
fn a_home_that_does_not_verify_is_not_written_down() {
    let (fixture, _) = two_versions();
    fixture.trust(orchestrator_signing::TrustLevel::Partner, "other");
    let grants = GrantStore::open(&fixture.path("grants.toml")).unwrap();
    let root = fixture.store().root();
    let refused = LockFile::of_store(&fixture.path("plugins"), &root, &grants).unwrap_err();
    assert_eq!(code(&refused), "ORC-2163");
}

/// A serial that no number of TOML can be: what a stolen key signs so that
/// nothing comes after it.
#[test]
fn the_largest_serial_is_written_down() {
    let fixture = Fixture::signed();
    put(&fixture, "2.0.0", u64::MAX);
    let now = locked(&fixture);
    let text = now.to_text().unwrap();
    let parsed = LockFile::parse(&text).unwrap();
    assert_eq!(parsed, now);
    assert_eq!(parsed.plugins()[0].serial, u64::MAX);
    assert_eq!(parsed.to_text().unwrap(), text);
    let largest = u64::MAX.to_string();
    for other in [
        "-1",
        "1",
        "018446744073709551615",
        "18446744073709551616",
        "1e3",
        "",
    ] {
        let changed = text.replace(&format!("\"{largest}\""), &format!("\"{other}\""));
        assert_ne!(changed, text);
        LockFile::parse(&changed).expect_err(other);
    }
}
