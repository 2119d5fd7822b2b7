//! Secret keys in files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    Kdf, KeyError, KeyFacts, KeyFileError, Protection, PublicKey, SecretKey,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::fixture::code;

fn passphrase(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn encrypted() -> (TempDir, PathBuf, SecretKey) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("release.key");
    let key = SecretKey::generate("release").unwrap();
    key.write_file(
        &path,
        &Protection::Passphrase(passphrase("correct horse"), Kdf::LEAST),
    )
    .unwrap();
    (dir, path, key)
}

fn read(path: &Path, text: &str) -> Result<SecretKey, KeyFileError> {
    SecretKey::read_file(path, || Some(passphrase(text)))
}

/// Writes the file again with one text replaced by another.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "no `{from}` in {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn what_was_written_reads_back() {
    let (dir, path, key) = encrypted();
    assert_eq!(
        read(&path, "correct horse").unwrap().sign(b"m"),
        key.sign(b"m")
    );
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );

    let plain = dir.path().join("plain.key");
    key.write_file(&plain, &Protection::None).unwrap();
    let not_asked = || panic!("a plain file needs no passphrase");
    assert_eq!(
        SecretKey::read_file(&plain, not_asked).unwrap().sign(b"m"),
        key.sign(b"m")
    );
    let plain_text = fs::read_to_string(&plain).unwrap();
    assert!(
        plain_text.contains("whoever reads this file can sign"),
        "{plain_text}"
    );
    let secret = plain_text
        .lines()
        .find_map(|line| line.strip_prefix("secret = "))
        .unwrap();
    assert!(
        !text.contains(secret),
        "the secret stands in the encrypted file"
    );

    let public = dir.path().join("release.pub");
    key.public().write_file(&public).unwrap();
    assert_eq!(PublicKey::read_file(&public).unwrap(), *key.public());
    assert_eq!(fs::read_to_string(&public).unwrap().lines().count(), 1);
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let (dir, path, _) = encrypted();
    let before = fs::read(&path).unwrap();
    let other = SecretKey::generate("other").unwrap();
    let error = other.write_file(&path, &Protection::None).unwrap_err();
    assert!(matches!(error, KeyFileError::Io { .. }), "{error}");
    assert!(other.public().write_file(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left behind"
    );
}

#[test]
fn a_wrong_passphrase_and_an_altered_file_are_refused() {
    let (_dir, path, _) = encrypted();
    for wrong in ["", "correct horse\n", "Correct horse"] {
        assert!(
            matches!(
                read(&path, wrong),
                Err(KeyFileError::WrongPassphrase { .. })
            ),
            "{wrong:?}"
        );
    }
    assert!(matches!(
        SecretKey::read_file(&path, || None),
        Err(KeyFileError::PassphraseNeeded)
    ));
    edit(&path, "name = \"release\"", "name = \"other\"");
    let error = read(&path, "correct horse").unwrap_err();
    assert!(
        matches!(error, KeyFileError::WrongPassphrase { .. }),
        "the name is authenticated: {error}"
    );
}

#[test]
fn a_file_that_others_can_read_is_not_read() {
    let (dir, path, _) = encrypted();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o700 | 0o001] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = read(&path, "correct horse").unwrap_err();
        assert!(
            matches!(error, KeyFileError::Exposed { .. }),
            "{mode:o}: {error}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    read(&path, "correct horse").unwrap();
    let link = dir.path().join("link.key");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        read(&link, "correct horse"),
        Err(KeyFileError::Io { .. })
    ));
}

#[test]
fn the_cost_of_a_passphrase_is_bounded_both_ways() {
    let (_dir, path, key) = encrypted();
    for (from, to) in [
        ("memory_kib = 8192", "memory_kib = 8"),
        ("memory_kib = 8192", "memory_kib = 4294967295"),
        ("passes = 4", "passes = 0"),
        ("passes = 4", "passes = 1"),
        ("passes = 4", "passes = 4000000000"),
        ("lanes = 1", "lanes = 0"),
        ("lanes = 1", "lanes = 1000000"),
    ] {
        let before = fs::read(&path).unwrap();
        edit(&path, from, to);
        let error = read(&path, "correct horse").unwrap_err();
        assert!(matches!(error, KeyFileError::Cost { .. }), "{to}: {error}");
        fs::write(&path, before).unwrap();
    }
    edit(&path, "passes = 4", "passes = 1099511627776");
    assert!(matches!(
        read(&path, "correct horse"),
        Err(KeyFileError::Damaged { .. })
    ));

    let cheap = Kdf {
        passes: 1,
        ..Kdf::LEAST
    };
    let target = path.with_extension("cheap");
    let error = key
        .write_file(&target, &Protection::Passphrase(passphrase("p"), cheap))
        .unwrap_err();
    assert!(matches!(error, KeyFileError::Cost { .. }));
    let error = key
        .write_file(&target, &Protection::Passphrase(passphrase(""), Kdf::LEAST))
        .unwrap_err();
    assert!(matches!(error, KeyFileError::EmptyPassphrase));
    assert!(!target.exists());
}

#[test]
fn a_damaged_file_is_refused_whatever_is_missing() {
    let (_dir, path, _) = encrypted();
    let whole = fs::read(&path).unwrap();
    // Without its last line break the file is still whole.
    for length in (0..whole.len() - 1).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(
            read(&path, "correct horse").is_err(),
            "the first {length} bytes"
        );
    }
    for (from, to) in [
        ("orchestrator-secret-key-v1", "orchestrator-secret-key-v2"),
        ("argon2id", "argon2i"),
        ("xchacha20poly1305", "none"),
        ("salt = \"", "salt = \"A"),
        ("format", "extra = 1\nformat"),
    ] {
        fs::write(&path, &whole).unwrap();
        edit(&path, from, to);
        let error = read(&path, "correct horse").unwrap_err();
        assert!(
            matches!(error, KeyFileError::Damaged { .. }),
            "{to}: {error}"
        );
    }
    fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
    assert!(matches!(
        read(&path, "correct horse"),
        Err(KeyFileError::Damaged { .. })
    ));
}

/// Signing with a public half that is not one's own gives the secret away.
#[test]
fn an_altered_public_half_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.key");
    let (key, other) = (
        SecretKey::generate("a").unwrap(),
        SecretKey::generate("b").unwrap(),
    );
    key.write_file(&path, &Protection::None).unwrap();
    edit(
        &path,
        &key.public().to_base64(),
        &other.public().to_base64(),
    );
    let error = SecretKey::read_file(&path, || None).unwrap_err();
    assert!(
        matches!(error, KeyFileError::HalvesDiffer { .. }),
        "{error}"
    );
}

#[test]
fn errors_do_not_quote_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.key");
    SecretKey::generate("a")
        .unwrap()
        .write_file(&path, &Protection::None)
        .unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let secret = text
        .lines()
        .find_map(|line| line.strip_prefix("secret = "))
        .unwrap();
    edit(&path, secret, &format!("{} oops", secret));
    let error = SecretKey::read_file(&path, || None).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains(secret.trim_matches('"')),
        "the secret leaked: {shown}"
    );
}

#[test]
fn a_file_says_of_itself_what_needs_no_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("release.key");
    let key = SecretKey::generate("release").unwrap();
    let key = key.with_comment("offline, in the safe").unwrap();
    let protection = Protection::Passphrase(passphrase("correct horse"), Kdf::LEAST);
    key.write_file(&path, &protection).unwrap();
    let facts = KeyFacts::read_file(&path).unwrap();
    assert_eq!(facts.public, *key.public());
    assert_eq!(facts.kdf, Some(Kdf::LEAST));
    assert_eq!(facts.comment.as_deref(), Some("offline, in the safe"));
    assert_eq!(facts.created, key.created());
    assert!(facts.created.is_some() && facts.revoked.is_none());

    // All of it is authenticated: changed, removed or added.
    let whole = fs::read_to_string(&path).unwrap();
    let line = |name: &str| {
        let found = whole.lines().find(|line| line.starts_with(name)).unwrap();
        format!("{found}\n")
    };
    for (from, to) in [
        (line("comment"), String::new()),
        (line("comment"), "comment = \"in my pocket\"\n".to_owned()),
        (line("created"), String::new()),
        (
            line("created"),
            "created = \"2020-01-01T00:00:00Z\"\n".to_owned(),
        ),
        (
            line("created"),
            format!("{}minisign_id = \"0123456789ABCDEF\"\n", line("created")),
        ),
    ] {
        fs::write(&path, whole.replace(&from, &to)).unwrap();
        let error = read(&path, "correct horse").unwrap_err();
        assert!(
            matches!(error, KeyFileError::WrongPassphrase { .. }),
            "{to}: {error}"
        );
    }
    for bad in ["a\nb", "a\u{202e}b", &"n".repeat(257)] {
        let key = SecretKey::generate("k").unwrap();
        assert_eq!(
            key.with_comment(bad).err(),
            Some(KeyError::Comment),
            "{bad:?}"
        );
    }
}

/// Files from before there were notes in them.
#[test]
fn a_file_without_notes_still_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.key");
    let text = include_str!("old_key_file.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let key = read(&path, "correct horse").unwrap();
    assert_eq!(key.public(), &KeyFacts::read_file(&path).unwrap().public);
    assert_eq!((key.created(), key.comment()), (None, None));
}

#[test]
fn a_revoked_key_is_not_read() {
    let (_dir, path, key) = encrypted();
    let facts = KeyFacts::revoke_file(&path, "stolen laptop").unwrap();
    assert_eq!(facts.public, *key.public());
    let not_asked = || panic!("nobody types a passphrase for nothing");
    let error = SecretKey::read_file(&path, not_asked).unwrap_err();
    assert_eq!(code(&error), "ORC-2018");
    assert!(error.to_string().contains("release.key"), "{error}");
    let first = KeyFacts::read_file(&path).unwrap().revoked.unwrap();
    assert_eq!(first.reason, "stolen laptop");
    KeyFacts::revoke_file(&path, "again").unwrap();
    assert_eq!(KeyFacts::read_file(&path).unwrap().revoked, Some(first));
    assert!(KeyFacts::revoke_file(&path, "two\nlines").is_err());
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
}

#[test]
fn a_protection_is_replaced_in_place() {
    let (dir, path, key) = encrypted();
    let new = Protection::Passphrase(passphrase("battery staple"), Kdf::LEAST);
    key.replace_file(&path, &new).unwrap();
    assert!(read(&path, "correct horse").is_err());
    let read = read(&path, "battery staple").unwrap();
    assert_eq!(read.sign(b"m"), key.sign(b"m"));
    assert_eq!(read.created(), key.created());
    let cheap = Kdf {
        passes: 1,
        ..Kdf::LEAST
    };
    let refused = Protection::Passphrase(passphrase("p"), cheap);
    key.replace_file(&path, &refused).unwrap_err();
    super::key_files::read(&path, "battery staple").unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
