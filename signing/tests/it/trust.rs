//! Whose signatures count.

use std::{fs, os::unix::fs::PermissionsExt};

use jiff::{Timestamp, ToSpan};
use orchestrator_manifest::PluginName;
use orchestrator_signing::{
    Delegation, Envelope, InstallOptions, KeyStatus, NamePattern, SecretKey, SignOptions,
    TrustError, TrustLevel, TrustStore, cosign, install, sign, verify,
};

use crate::fixture::{Fixture, MANIFEST, code};

fn delegation(key: &SecretKey, level: TrustLevel, names: &str) -> Delegation {
    Delegation::new(
        key.public().clone(),
        level,
        vec![NamePattern::parse(names).unwrap()],
    )
}

#[test]
fn name_patterns_stop_at_labels() {
    for (pattern, name, matches) in [
        ("com.acme.ocr", "com.acme.ocr", true),
        ("com.acme.ocr", "com.acme.ocr2", false),
        ("com.acme.*", "com.acme.ocr", true),
        ("com.acme.*", "com.acme.a.b", true),
        ("com.acme.*", "com.acme", false),
        ("com.acme.*", "com.acme-evil.x", false),
        ("com.acme.*", "com.acmeevil", false),
        ("*", "anything", true),
    ] {
        let name = PluginName::parse(name).unwrap();
        assert_eq!(
            NamePattern::parse(pattern).unwrap().matches(&name),
            matches,
            "{pattern} {name}"
        );
    }
    for bad in [
        "",
        ".*",
        "com.*.x",
        "com.acme*",
        "**",
        "Com.Acme.*",
        "com.\u{430}cme.*",
    ] {
        assert!(NamePattern::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_key_signs_the_names_it_is_trusted_for() {
    let fixture = Fixture::signed();
    assert_eq!(fixture.refusal(), "accepted");
    fixture.trust(TrustLevel::Partner, "other");
    assert_eq!(fixture.refusal(), "ORC-2045");
    fixture.trust(TrustLevel::Internal, "*");
    assert_eq!(
        fixture.verify().unwrap().trust_level(),
        TrustLevel::Internal
    );
    fixture.store().edit(|next| next.remove("release")).unwrap();
    assert_eq!(fixture.refusal(), "ORC-2041");
    let error = fixture
        .store()
        .edit(|next| next.remove("release"))
        .unwrap_err();
    assert_eq!(code(&error), "ORC-2086");
}

#[test]
fn the_root_changes_by_one_signed_version_at_a_time() {
    let fixture = Fixture::signed();
    let root_json = fixture.path("trust/root.json");
    assert_eq!(fixture.store().root().version(), 1);
    let first = fs::read(&root_json).unwrap();
    Envelope::parse(&first).unwrap();
    fixture.trust(TrustLevel::Internal, "demo");
    let second = fs::read(&root_json).unwrap();
    fixture.trust(TrustLevel::Untrusted, "demo");
    assert_eq!(fixture.store().root().version(), 3);
    assert_eq!(
        fixture.store().list().len(),
        1,
        "the same key with new terms"
    );

    // A follower gets every version in its order and no other way.
    let mut follower = TrustStore::open(&fixture.path("follower")).unwrap();
    let error = follower.apply_root(&first).unwrap_err();
    assert_eq!(code(&error), "ORC-2095", "not in passing");
    follower.adopt(&first).unwrap();
    assert_eq!(code(&follower.adopt(&second).unwrap_err()), "ORC-2096");
    let third = fs::read(&root_json).unwrap();
    for wrong in [&third, &first] {
        let error = follower.apply_root(wrong).unwrap_err();
        assert_eq!(code(&error), "ORC-2085");
    }
    follower.apply_root(&second).unwrap();
    follower.apply_root(&third).unwrap();
    assert_eq!(follower.list()[0].trust_level, TrustLevel::Untrusted);
    let error = follower
        .replace(delegation(&fixture.key, TrustLevel::Internal, "*"))
        .unwrap_err();
    assert!(
        matches!(error, TrustError::ForeignRoot),
        "a follower cannot sign: {error}"
    );

    // A root of somebody else does not follow.
    let mut other = TrustStore::open(&fixture.path("other")).unwrap();
    for level in [TrustLevel::Internal, TrustLevel::Partner].repeat(2) {
        other.replace(delegation(&fixture.key, level, "*")).unwrap();
    }
    assert_eq!(other.root().version(), 4);
    let foreign = fs::read(fixture.path("other/root.json")).unwrap();
    assert_eq!(
        code(&follower.apply_root(&foreign).unwrap_err()),
        "ORC-2093"
    );
    assert_eq!(follower.root().version(), 3);
}

#[test]
fn a_root_that_vanished_went_back_or_was_changed_trusts_nobody() {
    let fixture = Fixture::signed();
    let root_json = fixture.path("trust/root.json");
    let first = fs::read(&root_json).unwrap();
    fixture.trust(TrustLevel::Internal, "*");
    let second = fs::read(&root_json).unwrap();
    let refused = || {
        let error = TrustStore::open(&fixture.path("trust")).unwrap_err();
        code(&error)
    };
    fs::write(&root_json, &first).unwrap();
    assert_eq!(refused(), "ORC-2081", "went back");
    fs::remove_file(&root_json).unwrap();
    assert_eq!(refused(), "ORC-2081", "vanished");
    for position in (0..second.len()).step_by(11) {
        let mut changed = second.clone();
        changed[position] ^= 1;
        fs::write(&root_json, &changed).unwrap();
        assert_eq!(refused(), "ORC-2081", "byte {position}");
    }
    fs::write(&root_json, &second).unwrap();
    TrustStore::open(&fixture.path("trust")).unwrap();
    fs::set_permissions(fixture.path("trust"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(refused(), "ORC-2082", "others could write to it");
}

#[test]
fn an_empty_store_trusts_nobody_and_writes_nothing() {
    let fixture = Fixture::unsigned();
    fixture.sign(1);
    assert_eq!(fixture.refusal(), "ORC-2041");
    assert!(!fixture.path("trust").exists());
}

#[test]
fn revoked_and_retired_keys() {
    let fixture = Fixture::signed();
    let plugins = fixture.path("plugins");
    install(
        &fixture.dir(),
        &mut fixture.store(),
        &plugins,
        InstallOptions::default(),
    )
    .unwrap();
    let digest = fixture.verify().unwrap().statement_digest().unwrap();

    fixture
        .store()
        .edit(|next| next.set_status("release", KeyStatus::Retired, None))
        .unwrap();
    let package = fixture.verify().unwrap();
    assert!(
        package.warnings()[0].contains("retired"),
        "known releases stay good"
    );
    fixture.sign(6);
    assert_eq!(fixture.refusal(), "ORC-2047", "new ones are refused");

    fixture
        .store()
        .edit(|next| {
            let id = fixture.key.public().id().to_string();
            next.set_status(&id, KeyStatus::Revoked, Some("stolen laptop"))
        })
        .unwrap();
    assert_eq!(fixture.refusal(), "ORC-2046");
    let installed = plugins.join("demo/1.0.0");
    let error = verify(&installed, &fixture.store().root()).unwrap_err();
    assert_eq!(code(&error), "ORC-2046");
    assert!(
        error.to_string().ends_with("is revoked: stolen laptop"),
        "{error}"
    );
    fixture
        .store()
        .edit(|next| next.allow_digest(digest))
        .unwrap();
    let package = verify(&installed, &fixture.store().root()).unwrap();
    assert!(package.warnings()[0].contains("revoked"));

    fixture
        .store()
        .edit(|next| next.set_status("release", KeyStatus::Active, None))
        .unwrap();
    fixture
        .store()
        .edit(|next| next.revoke_digest(digest, "steals cookies"))
        .unwrap();
    let error = verify(&installed, &fixture.store().root()).unwrap_err();
    assert_eq!(code(&error), "ORC-2048");
    assert!(error.to_string().contains("steals cookies"));
}

#[test]
fn a_key_expires_into_retirement() {
    let fixture = Fixture::signed();
    let end = Timestamp::now() + 1.hour();
    let mut terms = delegation(&fixture.key, TrustLevel::Partner, "demo");
    terms.not_after = Some(end);
    fixture.store().replace(terms).unwrap();
    let root = fixture.store().root();
    verify(&fixture.dir(), &root).unwrap();
    let later = root.at(end + 1.second());
    let error = verify(&fixture.dir(), &later).unwrap_err();
    assert_eq!(code(&error), "ORC-2047");
    install(
        &fixture.dir(),
        &mut fixture.store(),
        &fixture.path("plugins"),
        InstallOptions::default(),
    )
    .unwrap();
    let later = fixture.store().root().at(end + 1.second());
    let package = verify(&fixture.dir(), &later).unwrap();
    assert!(
        package.warnings()[0].contains("expired"),
        "what is installed goes on working"
    );
}

#[test]
fn a_threshold_counts_distinct_keys_of_enough_trust() {
    let fixture = Fixture::signed();
    let (second, weak) = (
        SecretKey::generate("second").unwrap(),
        SecretKey::generate("weak").unwrap(),
    );
    let mut store = fixture.store();
    for key in [&fixture.key, &second] {
        let mut terms = delegation(key, TrustLevel::Internal, "demo");
        terms.threshold = 2;
        store.replace(terms).unwrap();
    }
    let mut terms = delegation(&weak, TrustLevel::Untrusted, "demo");
    terms.threshold = 2;
    store.add(terms).unwrap();
    assert_eq!(fixture.refusal(), "ORC-2043");
    cosign(&fixture.dir(), &fixture.key).unwrap();
    assert_eq!(
        fixture.refusal(),
        "ORC-2043",
        "the same key twice is one key"
    );
    cosign(&fixture.dir(), &weak).unwrap();
    assert_eq!(
        fixture.verify().unwrap().trust_level(),
        TrustLevel::Untrusted,
        "worth what the weaker is worth"
    );
    cosign(&fixture.dir(), &second).unwrap();
    assert_eq!(
        fixture.verify().unwrap().trust_level(),
        TrustLevel::Internal
    );
}

#[test]
fn a_minimum_serial_refuses_older_releases() {
    let fixture = Fixture::signed();
    let mut terms = delegation(&fixture.key, TrustLevel::Partner, "demo");
    terms.min_serial = Some(6);
    fixture.store().replace(terms).unwrap();
    assert_eq!(fixture.refusal(), "ORC-2049");
    fixture.sign(6);
    assert_eq!(fixture.refusal(), "accepted");
}

#[test]
fn an_expired_release_is_said_to_be_so() {
    let fixture = Fixture::signed();
    let mut options = SignOptions::new(6);
    options.expires = Some(Timestamp::now() - 1.hour());
    sign(&fixture.dir(), &fixture.key, &options).unwrap();
    assert!(fixture.verify().unwrap().warnings()[0].contains("expired"));
    let error = install(
        &fixture.dir(),
        &mut fixture.store(),
        &fixture.path("plugins"),
        InstallOptions::default(),
    );
    assert_eq!(code(&error.unwrap_err()), "ORC-2151");
}

#[test]
fn a_manifest_cannot_raise_its_own_trust() {
    for line in ["trust_level: 3", "trustLevel: 3", "signed_by: internal"] {
        let fixture = Fixture::unsigned();
        fixture.write(
            "plugin.yaml",
            format!("{MANIFEST}{line}\n").as_bytes(),
            0o644,
        );
        let error = sign(&fixture.dir(), &fixture.key, &SignOptions::new(1)).unwrap_err();
        assert_eq!(code(&error), "ORC-2070", "{line}");
    }
}

#[test]
fn two_processes_do_not_change_the_store_at_once() {
    let fixture = Fixture::signed();
    let lock = fs::File::open(fixture.path("trust/.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = fixture
        .store()
        .edit(|next| next.remove("release"))
        .unwrap_err();
    assert_eq!(code(&error), "ORC-2083");
    drop(lock);
    fixture.store().edit(|next| next.remove("release")).unwrap();
}

/// Neither less nor more than before, and nothing that another version of the
/// root would be needed for.
#[test]
fn a_trusted_key_keeps_its_terms_until_they_are_replaced() {
    let fixture = Fixture::signed();
    let mut store = fixture.store();
    let version = store.root().version();
    let same = delegation(&fixture.key, TrustLevel::Partner, "demo");
    store.add(same.clone()).unwrap();
    assert_eq!(store.root().version(), version, "nothing changed");

    let mut other = delegation(&fixture.key, TrustLevel::Internal, "other");
    other.threshold = 2;
    other.min_serial = Some(7);
    let error = store.add(other.clone()).unwrap_err();
    assert_eq!(code(&error), "ORC-2090");
    let message = error.to_string();
    for change in [
        "level 2 (partner) → 3 (internal)",
        "names demo → other",
        "threshold 1 → 2",
        "oldest release none → 7",
    ] {
        assert!(message.contains(change), "{change}: {message}");
    }
    assert_eq!(fixture.store().list(), [same]);
    store.replace(other.clone()).unwrap();
    assert_eq!(fixture.store().list(), [other]);
}

#[test]
fn replacing_the_terms_of_a_revoked_key_says_so() {
    let fixture = Fixture::signed();
    fixture
        .store()
        .edit(|next| next.set_status("release", KeyStatus::Revoked, None))
        .unwrap();
    let active = delegation(&fixture.key, TrustLevel::Partner, "demo");
    let error = fixture.store().add(active).unwrap_err();
    assert!(
        error.to_string().contains("status revoked → active"),
        "{error}"
    );
    assert_eq!(fixture.refusal(), "ORC-2046");
}

#[test]
fn what_an_interrupted_change_left_goes_with_the_next() {
    let fixture = Fixture::signed();
    let left = fixture.path("trust/.staged-abcdef");
    fs::write(&left, "half a root").unwrap();
    fixture.store().list();
    assert!(left.exists(), "reading changes nothing");
    fixture.store().edit(|next| next.remove("release")).unwrap();
    assert!(!left.exists());
}

/// Whoever stole a retired key may choose the number of what they sign.
#[test]
fn a_retired_key_vouches_for_what_was_installed_and_not_for_a_number() {
    let fixture = Fixture::signed();
    let plugins = fixture.path("plugins");
    let options = InstallOptions::default();
    install(&fixture.dir(), &mut fixture.store(), &plugins, options).unwrap();
    fixture
        .store()
        .edit(|next| next.set_status("release", KeyStatus::Retired, None))
        .unwrap();
    let installed = plugins.join("demo/1.0.0");
    verify(&installed, &fixture.store().root()).unwrap();
    fixture.write("assets/more", b"hostile", 0o644);
    for serial in [5, 4] {
        fixture.sign(serial);
        assert_eq!(fixture.refusal(), "ORC-2047", "number {serial}");
    }
}
