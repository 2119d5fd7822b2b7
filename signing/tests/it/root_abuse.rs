//! What somebody tries who wants to be trusted, or wants nobody to be.

use std::fs;

use jiff::{Timestamp, ToSpan};
use miette::Diagnostic;
use orchestrator_signing::{
    Delegation, Envelope, InstallError, InstallOptions, KeyStatus, NamePattern, PAYLOAD_TYPE,
    SecretKey, SignOptions, TrustLevel, TrustStore, cosign, install, sign, verify,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, MANIFEST, code},
    root::{ROOT_TYPE, following, key, key_text, root_text, signed},
};

const SIGNATURES: &str = "META/signatures.json";

fn set_version(fixture: &Fixture, version: &str) {
    let manifest = MANIFEST.replace("1.0.0", version);
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
}

fn put(fixture: &Fixture) -> Result<(), InstallError> {
    let plugins = fixture.path("plugins");
    let options = InstallOptions::default();
    install(&fixture.dir(), &mut fixture.store(), &plugins, options).map(drop)
}

fn terms(key: &SecretKey) -> Delegation {
    let names = vec![NamePattern::parse("demo").unwrap()];
    Delegation::new(key.public().clone(), TrustLevel::Partner, names)
}

/// The codes with which the installed versions are refused, or nothing.
fn installed_codes(fixture: &Fixture, versions: &[&str]) -> Vec<String> {
    let root = fixture.store().root();
    let load = |version: &&str| {
        let loaded = verify(&fixture.path("plugins/demo").join(version), &root);
        loaded.map_or_else(|error| code(&error), |_| String::new())
    };
    versions.iter().map(load).collect()
}

#[test]
fn what_was_signed_for_one_purpose_is_not_taken_for_another() {
    let fixture = Fixture::signed();
    let package = fs::read(fixture.file(SIGNATURES)).unwrap();
    let (_dir, mut store) = following(&[&fixture.key], 1);
    let error = store.apply_root(&package).unwrap_err();
    assert_eq!(code(&error), "ORC-2091");
    assert!(error.to_string().contains(PAYLOAD_TYPE), "{error}");
    let root = signed(&root_text(2, &[&fixture.key], 1), &[&fixture.key]);
    fs::write(fixture.file(SIGNATURES), &root).unwrap();
    let error = fixture.verify().unwrap_err();
    assert_eq!(code(&error), "ORC-2100");
    assert!(error.to_string().contains(ROOT_TYPE), "{error}");
}

/// Puts `signature` in place of the one that the fixture's key made.
fn with_signature(envelope: &str, signature: &[u8; 64]) -> String {
    let mut text: Value = serde_json::from_str(envelope).unwrap();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(signature);
    text["signatures"][0]["sig"] = json!(encoded);
    text.to_string()
}

#[test]
fn garbage_beside_enough_good_signatures_is_ignored_and_told_of() {
    let fixture = Fixture::signed();
    let second = key("second");
    fixture.store().add(terms(&second)).unwrap();
    cosign(&fixture.dir(), &second).map(drop).unwrap();
    let both = fs::read_to_string(fixture.file(SIGNATURES)).unwrap();
    fs::write(fixture.file(SIGNATURES), with_signature(&both, &[7; 64])).unwrap();
    let package = fixture.verify().unwrap();
    assert!(
        package.warnings()[0].contains("names the key `release`"),
        "{:?}",
        package.warnings()
    );
    for key in [&fixture.key, &second] {
        let mut terms = terms(key);
        terms.threshold = 2;
        fixture.store().replace(terms).unwrap();
    }
    assert_eq!(fixture.refusal(), "ORC-2043");
    fs::write(fixture.file(SIGNATURES), both).unwrap();
    assert_eq!(fixture.refusal(), "accepted");
}

/// S not reduced, S far too large, R of small order, and nothing at all.
fn odd_signatures(good: &[u8; 64]) -> [[u8; 64]; 5] {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut unreduced = *good;
    let mut carry = 0_u16;
    for (byte, more) in unreduced[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(more);
        *byte = u8::try_from(carry & 0xff).unwrap();
        carry >>= 8;
    }
    let mut huge = *good;
    huge[32..].fill(0xff);
    let mut small = *good;
    small[..32].fill(0);
    small[0] = 1;
    let mut both = small;
    both[32..].fill(0);
    [unreduced, huge, small, both, [0; 64]]
}

#[test]
fn odd_signatures_count_for_nothing() {
    let fixture = Fixture::signed();
    let package = fs::read_to_string(fixture.file(SIGNATURES)).unwrap();
    let (_dir, mut store) = following(&[&fixture.key], 1);
    let next = signed(&root_text(2, &[&fixture.key], 1), &[&fixture.key]);
    let signature = |envelope: &str| -> [u8; 64] {
        use base64::Engine as _;
        let text: Value = serde_json::from_str(envelope).unwrap();
        let encoded = text["signatures"][0]["sig"].as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
        bytes.unwrap().try_into().unwrap()
    };
    for odd in odd_signatures(&signature(&package)) {
        fs::write(fixture.file(SIGNATURES), with_signature(&package, &odd)).unwrap();
        assert_eq!(fixture.refusal(), "ORC-2042");
    }
    for odd in odd_signatures(&signature(&next)) {
        let error = store.apply_root(with_signature(&next, &odd).as_bytes());
        assert_eq!(code(&error.unwrap_err()), "ORC-2093");
    }
    fs::write(fixture.file(SIGNATURES), &package).unwrap();
    assert_eq!(
        fixture.refusal(),
        "accepted",
        "what they were made from is good"
    );
    store.apply_root(next.as_bytes()).unwrap();
}

#[test]
fn keys_that_are_none_are_refused_when_the_root_is_read() {
    let a = key("a");
    let hex: String = a
        .public()
        .to_base64()
        .bytes()
        .map(|it| format!("{it:02x}"))
        .collect();
    let other = key("other");
    for (what, field, value) in [
        (
            "31 bytes",
            "public",
            json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="),
        ),
        ("33 bytes", "public", json!("A".repeat(44))),
        ("hex", "public", json!(&hex[..64])),
        (
            "small order",
            "public",
            json!(format!("AQ{}=", "A".repeat(41))),
        ),
        (
            "no point",
            "public",
            json!(format!("Ag{}=", "A".repeat(41))),
        ),
        ("another algorithm", "keytype", json!("rsa")),
        ("a name of two lines", "name", json!("a\nb")),
        (
            "another key's identity",
            "keyid",
            json!(other.public().id()),
        ),
    ] {
        for role in ["root", "release"] {
            let mut text = root_text(2, &[&a], 1);
            let mut bad = key_text(a.public());
            bad[field] = value.clone();
            match role {
                "root" => text["roles"]["root"]["keys"] = json!([bad]),
                _ => {
                    text["roles"]["release"] = json!([{ "key": bad, "names": ["*"],
                        "threshold": 1, "trust_level": 3, "status": "active" }]);
                }
            }
            let (dir, mut store) = following(&[&a], 1);
            let root = signed(&text, &[&a]);
            let error = store.apply_root(root.as_bytes()).unwrap_err();
            assert_eq!(code(&error), "ORC-2092", "{what} as {role}: {error}");
            // So it is where an earlier release, which was less strict, has stored it.
            fs::write(dir.path().join("trust/anchor.json"), r#"{"version":1}"#).unwrap();
            fs::write(dir.path().join("trust/root.json"), root).unwrap();
            let error = TrustStore::open(&dir.path().join("trust")).unwrap_err();
            assert_eq!(code(&error), "ORC-2092", "{what} as {role}: {error}");
        }
    }
}

/// A stolen key signed the greatest number there is, and the host believed it.
#[test]
fn a_host_recovers_from_a_serial_that_leaves_no_room() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    set_version(&fixture, "1.1.0");
    fixture.sign(u64::MAX);
    put(&fixture).unwrap();
    let id = fixture.key.public().id().to_string();
    let fresh = key("fresh");
    let mut recovery = terms(&fresh);
    let revoke = |next: &mut orchestrator_signing::NextRoot| {
        next.set_status(&id, KeyStatus::Revoked, Some("stolen"))
    };
    fixture.store().edit(revoke).unwrap();
    fixture.store().add(recovery.clone()).unwrap();
    set_version(&fixture, "1.2.0");
    let release = |serial| {
        sign(&fixture.dir(), &fresh, &SignOptions::new(serial))
            .map(drop)
            .unwrap();
        put(&fixture)
    };
    assert_eq!(
        code(&release(7).unwrap_err()),
        "ORC-2150",
        "a step back still"
    );
    recovery.min_serial = Some(6);
    fixture.store().replace(recovery).unwrap();
    release(7).unwrap();
    // Retired, the stolen key does not count as known for all that is below its number.
    let retire =
        |next: &mut orchestrator_signing::NextRoot| next.set_status(&id, KeyStatus::Retired, None);
    let refused = fixture.store().edit(retire).unwrap_err();
    assert_eq!(code(&refused), "ORC-2103", "not from revoked");
    let reinstate =
        |next: &mut orchestrator_signing::NextRoot| next.set_status(&id, KeyStatus::Active, None);
    fixture.store().edit(reinstate).unwrap();
    fixture.store().edit(retire).unwrap();
    fixture.sign(1_000);
    assert_eq!(fixture.refusal(), "ORC-2047");
    set_version(&fixture, "1.3.0");
    assert_eq!(
        code(&release(6).unwrap_err()),
        "ORC-2150",
        "counted from there on"
    );
}

#[test]
fn an_expired_root_installs_nothing_new_and_uninstalls_nothing() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    set_version(&fixture, "1.1.0");
    fixture.sign(6);
    let end = Timestamp::now() - 1.hour();
    let expire = |end: Option<Timestamp>| {
        let mut store = fixture.store();
        store
            .edit(|next| {
                next.set_expires(end);
                Ok(())
            })
            .unwrap();
    };
    expire(Some(end));
    let error = put(&fixture).unwrap_err();
    assert_eq!(code(&error), "ORC-2094");
    assert!(
        error.to_string().contains("this host's clock says"),
        "{error}"
    );
    assert!(error.help().unwrap().to_string().contains("clock"));
    assert!(!fixture.path("plugins/demo/1.1.0").exists());
    let installed = verify(&fixture.path("plugins/demo/1.0.0"), &fixture.store().root());
    let installed = installed.unwrap();
    assert!(
        installed.warnings()[0].contains("clock"),
        "{:?}",
        installed.warnings()
    );
    expire(None);
    put(&fixture).unwrap();
}

#[test]
fn a_clock_that_is_wrong_is_named_and_brings_nothing_back() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let mut ended = terms(&fixture.key);
    ended.not_after = Some(Timestamp::now() - 1.hour());
    let mut store = fixture.store();
    store.replace(ended).unwrap();
    store
        .edit(|next| {
            next.set_expires(Some(Timestamp::now() + 1.hour()));
            Ok(())
        })
        .unwrap();
    fixture.sign(6);
    let root = store.root();
    let (past, future): (Timestamp, Timestamp) = (
        "1970-01-02T00:00:00Z".parse().unwrap(),
        "2099-01-01T00:00:00Z".parse().unwrap(),
    );
    let installed = fixture.path("plugins/demo/1.0.0");
    for clock in [past, future] {
        let root = root.clone().at(clock);
        let error = verify(&fixture.dir(), &root).unwrap_err();
        assert_eq!(code(&error), "ORC-2047", "the key is no younger at {clock}");
        assert!(error.help().unwrap().to_string().contains("clock"));
        let package = verify(&installed, &root).unwrap();
        let warnings = package.warnings().join("\n");
        assert!(warnings.contains(&clock.to_string()), "{clock}: {warnings}");
    }
    root.clone().at(past).check_not_expired().unwrap();
    let error = root.clone().at(future).check_not_expired().unwrap_err();
    assert!(error.to_string().contains("2099-01-01"), "{error}");
    // What counts steps is no clock.
    fixture.trust(TrustLevel::Partner, "demo");
    fixture.sign(4);
    set_version(&fixture, "1.1.0");
    fixture.sign(4);
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2150");
}

#[test]
fn names_that_look_alike_are_no_names() {
    let long = "a".repeat(129);
    for name in [
        "com.\u{430}cme",
        "com.\u{ff41}cme",
        "com.ac\u{200b}me",
        "com.\u{202e}emca",
        "demo ",
        "demo.",
        "Com.Acme",
        &long,
        "",
        "..",
        "con",
        "com.con.x",
    ] {
        assert!(NamePattern::parse(name).is_err(), "{name:?}");
        let fixture = Fixture::unsigned();
        let quoted = serde_json::to_string(name).unwrap();
        let manifest = MANIFEST.replace("name: demo", &format!("name: {quoted}"));
        fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
        let error = sign(&fixture.dir(), &fixture.key, &SignOptions::new(1));
        assert_eq!(code(&error.map(drop).unwrap_err()), "ORC-2070", "{name:?}");
    }
}

/// For a time both keys count; then the old one's installed releases do, and
/// in the end only those that were named.
#[test]
fn a_key_is_replaced_with_an_overlap_and_revoked() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let new = key("release-2");
    let until = Timestamp::now() + 1.hour();
    let rotate = |next: &mut orchestrator_signing::NextRoot| {
        next.rotate("release", new.public().clone(), Some(until))
    };
    fixture.store().edit(rotate).unwrap();
    let end = fixture.store().list()[0].not_after;
    assert_eq!(end, Some(until));
    fixture.store().edit(rotate).unwrap();
    assert_eq!(fixture.store().root().version(), 2, "once is enough");
    set_version(&fixture, "1.1.0");
    fixture.sign(6);
    put(&fixture).unwrap();
    set_version(&fixture, "1.2.0");
    sign(&fixture.dir(), &new, &SignOptions::new(7))
        .map(drop)
        .unwrap();
    put(&fixture).unwrap();
    let versions = ["1.0.0", "1.1.0", "1.2.0"];
    assert_eq!(installed_codes(&fixture, &versions), ["", "", ""]);

    set_version(&fixture, "1.3.0");
    fixture.sign(8);
    let later = fixture.store().root().at(until + 1.second());
    let error = verify(&fixture.dir(), &later).unwrap_err();
    assert_eq!(code(&error), "ORC-2047", "the overlap is over");
    for version in versions {
        verify(&fixture.path("plugins/demo").join(version), &later).unwrap();
    }
    let digest = verify(&fixture.path("plugins/demo/1.1.0"), &fixture.store().root());
    let digest = digest.unwrap().statement_digest().unwrap();
    let revoke = |next: &mut orchestrator_signing::NextRoot| {
        next.set_status("release", KeyStatus::Revoked, Some("stolen"))
    };
    fixture.store().edit(revoke).unwrap();
    assert_eq!(
        installed_codes(&fixture, &versions),
        ["ORC-2046", "ORC-2046", ""]
    );
    fixture
        .store()
        .edit(|next| next.allow_digest(digest))
        .unwrap();
    assert_eq!(installed_codes(&fixture, &versions), ["ORC-2046", "", ""]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of what a revoked key signed, exactly the allowed releases load; of
    /// what another key signed, all but the revoked releases.
    #[test]
    fn allowing_brings_back_exactly_what_is_named(
        allowed in vec(any::<bool>(), 4),
        revoked in vec(any::<bool>(), 4),
    ) {
        let fixture = Fixture::signed();
        let other = key("other");
        fixture.store().add(terms(&other)).unwrap();
        let mut digests = Vec::new();
        for at in 0..4_usize {
            let packages = [(&fixture.key, 0), (&other, 10)];
            for (key, base) in packages {
                set_version(&fixture, &format!("1.{}.0", base + at));
                let serial = 100 + u64::try_from(at).unwrap();
                sign(&fixture.dir(), key, &SignOptions::new(serial)).map(drop).unwrap();
                let target = fixture.path(&format!("kept/{}-{at}", key.public().name()));
                copy(&fixture.dir(), &target);
                let digest = verify(&target, &fixture.store().root()).unwrap();
                digests.push((key.public().name().to_owned(), at, digest.statement_digest().unwrap()));
            }
        }
        fixture.store().edit(|next| {
            next.set_status("release", KeyStatus::Revoked, Some("stolen"))?;
            for (key, at, digest) in &digests {
                match key.as_str() {
                    "release" if allowed[*at] => next.allow_digest(*digest).unwrap(),
                    "other" if revoked[*at] => next.revoke_digest(*digest, "bad").unwrap(),
                    _ => {}
                }
            }
            Ok(())
        }).unwrap();
        let root = fixture.store().root();
        for (key, at, _) in &digests {
            let loaded = verify(&fixture.path(&format!("kept/{key}-{at}")), &root);
            let wanted = if key == "release" { allowed[*at] } else { !revoked[*at] };
            prop_assert_eq!(loaded.is_ok(), wanted, "{} {}", key, at);
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if path.is_dir() {
            copy(&path, &target);
        } else {
            let mode = path.metadata().unwrap().permissions();
            let mode = std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777;
            crate::fixture::write(&target, &fs::read(&path).unwrap(), mode);
        }
    }
}

#[test]
fn an_envelope_is_bound_to_its_purpose_by_what_is_signed() {
    let a = key("a");
    let envelope = Envelope::sign(PAYLOAD_TYPE, b"{}".to_vec(), &[&a]);
    let text = envelope.to_json().replace(PAYLOAD_TYPE, ROOT_TYPE);
    let (_dir, mut store) = following(&[&a], 1);
    let error = store.apply_root(text.as_bytes()).unwrap_err();
    assert_eq!(code(&error), "ORC-2093", "{error}");
}
