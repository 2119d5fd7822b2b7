//! Signing without the package, and putting signatures on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    Delegation, Draft, Envelope, NamePattern, PAYLOAD_TYPE, PublicKey, ReleasePayload,
    SIGNATURES_MAX, SecretKey, SignOptions, TrustLevel, attach, cosign, pae, sign,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, code, content};

const SIGNATURES: &str = "META/signatures.json";

/// What a machine without the key writes, and one with it gives back.
fn signed_elsewhere(fixture: &Fixture, serial: u64, key: &SecretKey) -> Envelope {
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(serial)).unwrap();
    let message = draft.payload().message();
    let payload = ReleasePayload::from_message(&message, Path::new("payload")).unwrap();
    payload.envelope(key.public(), &key.sign(&message)).unwrap()
}

fn publics(keys: &[&SecretKey]) -> Vec<PublicKey> {
    keys.iter().map(|key| key.public().clone()).collect()
}

fn code_of(result: Result<impl Sized, impl miette::Diagnostic>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => code(&error),
    }
}

/// Every file below a folder and its bytes.
fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(everything(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_signature_made_elsewhere_is_attached() {
    let fixture = Fixture::unsigned();
    fixture.trust(TrustLevel::Partner, "demo");
    let before = everything(&fixture.dir());
    let envelope = signed_elsewhere(&fixture, 5, &fixture.key);
    assert_eq!(
        everything(&fixture.dir()),
        before,
        "drafting writes nothing"
    );

    let done = attach(&fixture.dir(), &envelope, &publics(&[&fixture.key]), false).unwrap();
    assert_eq!((done.name.as_str(), done.serial), ("demo", 5));
    let package = fixture.verify().unwrap();
    assert_eq!(package.statement_digest(), Some(done.digest));
    assert_eq!(done.capabilities, ["file:read=/data", "system:info"]);
}

#[test]
fn a_foreign_signature_is_not_attached() {
    let fixture = Fixture::unsigned();
    let stranger = SecretKey::generate("stranger").unwrap();
    let good = signed_elsewhere(&fixture, 5, &fixture.key);
    let attached = |envelope: &Envelope, key: &SecretKey| {
        code_of(attach(&fixture.dir(), envelope, &publics(&[key]), false))
    };
    assert_eq!(attached(&good, &stranger), "ORC-2073");
    let nobody = attach(&fixture.dir(), &good, &[], false);
    assert_eq!(code_of(nobody), "ORC-2073");

    // Of the same key, for other files.
    let other = Fixture::unsigned();
    other.write("assets/more", b"", 0o644);
    let foreign = signed_elsewhere(&other, 5, &fixture.key);
    assert_eq!(attached(&foreign, &fixture.key), "ORC-2072");
    fixture.write("bin/run", b"changed since", 0o755);
    let error = attach(&fixture.dir(), &good, &publics(&[&fixture.key]), false).unwrap_err();
    assert_eq!(code(&error), "ORC-2072");
    assert!(
        error.to_string().contains("`bin/run` is another"),
        "{error}"
    );

    // Of the same key, for another purpose.
    let message = pae("application/json", b"{}");
    let mut purpose = Envelope::unsigned("application/json", b"{}".to_vec());
    purpose
        .add(fixture.key.public(), &fixture.key.sign(&message))
        .unwrap();
    assert_eq!(attached(&purpose, &fixture.key), "ORC-2073");
    assert!(!fixture.file("META").exists(), "nothing was written");
}

#[test]
fn only_a_release_is_signed() {
    let fixture = Fixture::unsigned();
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(5)).unwrap();
    let message = draft.payload().message();
    let read = |message: &[u8]| code_of(ReleasePayload::from_message(message, Path::new("p")));
    assert_eq!(read(&message), "accepted");

    let space = message.iter().rposition(|byte| *byte == b'{').unwrap();
    let payload = String::from_utf8(message.clone()).unwrap();
    let payload = payload
        .split_once(" {")
        .map(|(_, it)| format!("{{{it}"))
        .unwrap();
    assert!(space > 0 && payload.starts_with("{\"_type\""));
    let statement: Value = serde_json::from_str(&payload).unwrap();
    let edited = |edit: fn(&mut Value)| {
        let mut statement = statement.clone();
        edit(&mut statement);
        pae(PAYLOAD_TYPE, statement.to_string().as_bytes())
    };
    let bad = [
        Vec::new(),
        payload.clone().into_bytes(),
        message[..message.len() - 1].to_vec(),
        [&message[..], b" "].concat(),
        [b" ", &message[..]].concat(),
        pae(
            "application/vnd.orchestrator.root.v1+json",
            payload.as_bytes(),
        ),
        pae(PAYLOAD_TYPE, b""),
        pae(PAYLOAD_TYPE, b"{}"),
        pae(PAYLOAD_TYPE, format!("{payload} {payload}").as_bytes()),
        message
            .iter()
            .map(|byte| if *byte == b'9' { b'8' } else { *byte })
            .collect(),
        edited(|it| it["_type"] = json!("other")),
        edited(|it| it["predicateType"] = json!("other")),
        edited(|it| it["predicate"]["extra"] = json!(1)),
        // A list for people that says something else than the files.
        edited(|it| it["subject"][3]["name"] = json!("bin/other")),
        edited(|it| it["predicate"]["files"][0]["path"] = json!("bin/other")),
        vec![b'a'; 5 << 20],
    ];
    for (place, message) in bad.iter().enumerate() {
        assert_eq!(read(message), "ORC-2075", "{place}");
    }
}

/// A release that wants two keys gets two signatures, one after the other, wherever
/// they were made; twice the same key is one.
#[test]
fn distinct_keys_are_counted() {
    let fixture = Fixture::unsigned();
    let second = SecretKey::generate("second").unwrap();
    for key in [&fixture.key, &second] {
        let names = vec![NamePattern::parse("demo").unwrap()];
        let mut trusted = Delegation::new(key.public().clone(), TrustLevel::Partner, names);
        trusted.threshold = 2;
        fixture.store().replace(trusted).unwrap();
    }
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(5)).unwrap();
    let payload = draft.payload().clone();
    let of = |key: &SecretKey| {
        payload
            .envelope(key.public(), &key.sign(&payload.message()))
            .unwrap()
    };
    let keys = publics(&[&fixture.key, &second]);
    for _ in 0..2 {
        attach(&fixture.dir(), &of(&fixture.key), &keys, false).unwrap();
        assert_eq!(fixture.refusal(), "ORC-2043", "one key, however often");
    }
    cosign(&fixture.dir(), &fixture.key).unwrap();
    assert_eq!(fixture.refusal(), "ORC-2043");
    // The same signature under no name, and under the name of the other key.
    let text = fs::read_to_string(fixture.file(SIGNATURES)).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let mut nameless = value["signatures"][0].clone();
    nameless.as_object_mut().unwrap().remove("keyid");
    let mut renamed = value["signatures"][0].clone();
    renamed["keyid"] = json!(second.public().id());
    let list = value["signatures"].as_array_mut().unwrap();
    assert_eq!(list.len(), 1);
    list.extend([nameless, renamed]);
    fs::write(fixture.file(SIGNATURES), value.to_string()).unwrap();
    assert_eq!(fixture.refusal(), "ORC-2043");

    fs::write(fixture.file(SIGNATURES), text).unwrap();
    attach(&fixture.dir(), &of(&second), &keys, false).unwrap();
    fixture.verify().unwrap();
}

#[test]
fn signatures_of_another_release_are_in_the_way() {
    let fixture = Fixture::signed();
    fixture.write("META/MANIFEST.minisig", b"of release 5", 0o644);
    let later = signed_elsewhere(&fixture, 6, &fixture.key);
    let keys = publics(&[&fixture.key]);
    let error = attach(&fixture.dir(), &later, &keys, false).unwrap_err();
    assert_eq!(code(&error), "ORC-2074");
    assert!(error.to_string().contains("number 5"), "{error}");
    assert_eq!(fixture.verify().unwrap().release().unwrap().serial, 5);
    assert!(fixture.file("META/MANIFEST.minisig").exists());

    attach(&fixture.dir(), &later, &keys, true).unwrap();
    assert_eq!(fixture.verify().unwrap().release().unwrap().serial, 6);
    assert!(!fixture.file("META/MANIFEST.minisig").exists());
}

#[test]
fn a_package_takes_as_many_signatures_as_are_read() {
    let fixture = Fixture::signed();
    for number in 1..SIGNATURES_MAX {
        let key = SecretKey::generate(&format!("k{number}")).unwrap();
        cosign(&fixture.dir(), &key).unwrap();
    }
    let more = SecretKey::generate("more").unwrap();
    assert_eq!(code_of(cosign(&fixture.dir(), &more)), "ORC-2020");
    fixture.verify().unwrap();
}

fn attestation(predicate_type: &str) -> Vec<u8> {
    // Another tool's: its own ways with key ids and blanks.
    let payload = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "x", "digest": { "sha256": "00" } }],
        "predicateType": predicate_type,
        "predicate": { "anything": 1 },
    });
    let key = SecretKey::generate("builder").unwrap();
    let text = Envelope::sign(PAYLOAD_TYPE, payload.to_string().into_bytes(), &[&key]).to_json();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["signatures"][0]["keyid"] = json!("SHA256:builder");
    serde_json::to_vec_pretty(&value).unwrap()
}

#[test]
fn attestations_are_carried_along_and_decide_nothing() {
    const SLSA: &str = "https://slsa.dev/provenance/v1";
    let fixture = Fixture::unsigned();
    fixture.trust(TrustLevel::Partner, "demo");
    let bytes = attestation(SLSA);
    let options = SignOptions {
        attestations: vec![("provenance.dsse".to_owned(), bytes.clone())],
        ..SignOptions::new(5)
    };
    sign(&fixture.dir(), &fixture.key, &options).unwrap();
    let package = fixture.verify().unwrap();
    let file = package.file("META/provenance.dsse").unwrap();
    assert_eq!(content(file).unwrap(), bytes);
    let listed = package.attestations();
    let types: Vec<_> = listed
        .iter()
        .map(|it| it.predicate_type.as_deref())
        .collect();
    assert_eq!(types, [Some(SLSA)]);
    assert_eq!(listed[0].path, "META/provenance.dsse");

    // It stays with the next release, and the release signature covers it.
    fixture.sign(6);
    assert_eq!(fixture.verify().unwrap().attestations(), listed);
    fixture.write("META/provenance.dsse", &attestation("other"), 0o644);
    assert!(
        fixture.refusal().starts_with("ORC-205"),
        "{}",
        fixture.refusal()
    );
    fixture.write("META/provenance.dsse", &bytes, 0o644);
    fixture.write("META/second.dsse", &bytes, 0o644);
    assert_eq!(fixture.refusal(), "ORC-2053");
    fs::remove_file(fixture.file("META/second.dsse")).unwrap();

    // Whatever it says: the publisher's signature decides.
    fixture.write("META/provenance.dsse", b"nonsense", 0o644);
    fixture.sign(7);
    let package = fixture.verify().unwrap();
    assert_eq!(package.attestations()[0].predicate_type, None);

    let before = everything(&fixture.dir());
    for (name, bytes) in [
        ("provenance.json", bytes.clone()),
        ("../provenance.dsse", bytes.clone()),
        (".dsse", bytes.clone()),
        ("a b\n.dsse", bytes.clone()),
        ("empty.dsse", Vec::new()),
        ("text.dsse", b"{}".to_vec()),
        ("large.dsse", vec![b' '; (4 << 20) + 1]),
    ] {
        let options = SignOptions {
            attestations: vec![(name.to_owned(), bytes)],
            ..SignOptions::new(8)
        };
        let refused = sign(&fixture.dir(), &fixture.key, &options);
        assert_eq!(code_of(refused), "ORC-2076", "{name}");
    }
    assert_eq!(everything(&fixture.dir()), before, "nothing was written");
}

/// Whoever holds the key reads how large a release is before they sign it.
#[test]
fn sizes_that_add_up_to_too_much_are_not_shown_as_little() {
    let fixture = Fixture::unsigned();
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(5)).unwrap();
    let message = draft.payload().message();
    let start = message.iter().position(|byte| *byte == b'{').unwrap();
    let mut statement: Value = serde_json::from_slice(&message[start..]).unwrap();
    for file in statement["predicate"]["files"].as_array_mut().unwrap() {
        file["size"] = json!(u64::MAX);
    }
    let message = pae(PAYLOAD_TYPE, statement.to_string().as_bytes());
    let payload = ReleasePayload::from_message(&message, Path::new("payload")).unwrap();
    assert_eq!(payload.summary().bytes, u64::MAX);
}
