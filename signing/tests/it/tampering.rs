//! Every way to change a package, each refused with its own code.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use orchestrator_signing::{Envelope, PAYLOAD_TYPE, SIGNATURES_MAX, SecretKey, TrustLevel, cosign};
use serde_json::{Value, json};

use crate::fixture::{Fixture, MANIFEST};

const SIGNATURES: &str = "META/signatures.json";

/// Changes a signed package and returns the code it is then refused with.
fn after(change: impl FnOnce(&Fixture)) -> String {
    let fixture = Fixture::signed();
    assert_eq!(fixture.refusal(), "accepted");
    change(&fixture);
    fixture.refusal()
}

/// Changes what was signed, signs that again with the trusted key, and
/// returns the code the package is then refused with.
fn after_resigning(change: impl FnOnce(&mut Value)) -> String {
    after(|fixture| {
        let envelope = Envelope::parse(&fs::read(fixture.file(SIGNATURES)).unwrap()).unwrap();
        let (payload, _) = envelope
            .verified_by(PAYLOAD_TYPE, [fixture.key.public()])
            .unwrap();
        let mut statement: Value = serde_json::from_slice(payload).unwrap();
        change(&mut statement);
        let payload = serde_json::to_vec(&statement).unwrap();
        resign(fixture, PAYLOAD_TYPE, payload);
    })
}

fn resign(fixture: &Fixture, payload_type: &str, payload: Vec<u8>) {
    let envelope = Envelope::sign(payload_type, payload, &[&fixture.key]);
    fs::write(fixture.file(SIGNATURES), envelope.to_json()).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "no `{from}`");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_signature_file() {
    let gone = after(|it| fs::remove_file(it.file(SIGNATURES)).unwrap());
    assert_eq!(gone, "ORC-2040");
    let all_gone = after(|it| fs::remove_dir_all(it.file("META")).unwrap());
    assert_eq!(all_gone, "ORC-2040");
    let empty = after(|it| fs::write(it.file(SIGNATURES), "").unwrap());
    assert_eq!(empty, "ORC-2021");
    let huge = after(|it| fs::write(it.file(SIGNATURES), vec![b' '; (4 << 20) + 1]).unwrap());
    assert_eq!(huge, "ORC-2020");
    let many = after(|it| {
        let text = fs::read_to_string(it.file(SIGNATURES)).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let one = value["signatures"][0].clone();
        value["signatures"] = Value::Array(vec![one; SIGNATURES_MAX + 1]);
        fs::write(it.file(SIGNATURES), value.to_string()).unwrap();
    });
    assert_eq!(many, "ORC-2020");
    let none = after(|it| {
        let text = fs::read_to_string(it.file(SIGNATURES)).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["signatures"] = json!([]);
        fs::write(it.file(SIGNATURES), value.to_string()).unwrap();
    });
    assert_eq!(none, "ORC-2022");
    let link = after(|it| {
        fs::rename(it.file(SIGNATURES), it.path("elsewhere")).unwrap();
        symlink(it.path("elsewhere"), it.file(SIGNATURES)).unwrap();
    });
    assert_eq!(link, "ORC-2059");
}

#[test]
fn signatures_of_others() {
    let stranger = |it: &Fixture| {
        let key = SecretKey::generate("stranger").unwrap();
        orchestrator_signing::sign(&it.dir(), &key, &orchestrator_signing::SignOptions::new(9))
            .unwrap();
    };
    assert_eq!(after(stranger), "ORC-2041");
    let forged = after(|it| {
        // The trusted key's identity over another key's signature.
        let key = SecretKey::generate("stranger").unwrap();
        orchestrator_signing::sign(&it.dir(), &key, &orchestrator_signing::SignOptions::new(9))
            .unwrap();
        edit(
            &it.file(SIGNATURES),
            &key.public().id().to_string(),
            &it.key.public().id().to_string(),
        );
    });
    assert_eq!(forged, "ORC-2042");
    let with_garbage = after(|it| {
        cosign(&it.dir(), &SecretKey::generate("stranger").unwrap())
            .map(drop)
            .unwrap()
    });
    assert_eq!(
        with_garbage, "accepted",
        "signatures of others neither help nor harm"
    );
}

#[test]
fn signatures_for_another_purpose() {
    let envelope = |it: &Fixture| Envelope::parse(&fs::read(it.file(SIGNATURES)).unwrap()).unwrap();
    let renamed = after(|it| edit(&it.file(SIGNATURES), PAYLOAD_TYPE, "application/json"));
    assert_eq!(renamed, "ORC-2100");
    let as_root = after(|it| {
        let signed = envelope(it);
        let (payload, _) = signed.verified_by(PAYLOAD_TYPE, [it.key.public()]).unwrap();
        resign(
            it,
            "application/vnd.orchestrator.root.v1+json",
            payload.to_vec(),
        );
    });
    assert_eq!(as_root, "ORC-2100");
    for payload in ["{}", "[]", "3", "not json"] {
        let signed = after(|it| resign(it, PAYLOAD_TYPE, payload.as_bytes().to_vec()));
        assert_eq!(signed, "ORC-2044", "{payload}");
    }
    for (key, value) in [
        ("_type", json!("https://in-toto.io/Statement/v2")),
        ("predicateType", json!("https://slsa.dev/provenance/v1")),
        ("extra", json!(1)),
    ] {
        assert_eq!(
            after_resigning(|statement| statement[key] = value),
            "ORC-2044",
            "{key}"
        );
    }
}

#[test]
fn the_bytes_of_files() {
    for file in [
        "bin/run",
        "plugin.yaml",
        "prompts/analyze.txt",
        "META/MANIFEST",
    ] {
        let flipped = after(|it| {
            let mut bytes = fs::read(it.file(file)).unwrap();
            bytes[3] ^= 1;
            fs::write(it.file(file), bytes).unwrap();
        });
        assert_eq!(flipped, "ORC-2055", "{file}");
        let longer = after(|it| fs::write(it.file(file), "other content, another length").unwrap());
        assert_eq!(longer, "ORC-2056", "{file}");
        let gone = after(|it| fs::remove_file(it.file(file)).unwrap());
        assert_eq!(gone, "ORC-2054", "{file}");
    }
    let other_release = after(|it| {
        let signatures = fs::read(it.file(SIGNATURES)).unwrap();
        it.write("bin/run", b"#!/bin/sh\necho HELLO\n", 0o755);
        it.sign(6);
        fs::write(it.file(SIGNATURES), signatures).unwrap();
    });
    assert_eq!(
        other_release, "ORC-2055",
        "an older signature on newer files"
    );
}

#[test]
fn files_that_nobody_signed() {
    for extra in [
        "assets/libevil.so",
        "META/other",
        "META/more.dsse",
        "assets/MANIFEST",
        ".hidden",
        "META/x/signatures.json",
    ] {
        assert_eq!(
            after(|it| it.write(extra, b"", 0o644)),
            "ORC-2053",
            "{extra}"
        );
    }
    assert_eq!(after(|it| it.write("BIN/run", b"", 0o644)), "ORC-2061");
}

#[test]
fn what_is_no_plain_file() {
    let replace = |it: &Fixture| fs::remove_file(it.file("assets/empty")).unwrap();
    let link = after(|it| {
        replace(it);
        symlink("../plugin.yaml", it.file("assets/empty")).unwrap();
    });
    assert_eq!(link, "ORC-2059");
    let linked_manifest = after(|it| {
        fs::rename(it.file("plugin.yaml"), it.path("other.yaml")).unwrap();
        symlink(it.path("other.yaml"), it.file("plugin.yaml")).unwrap();
    });
    assert_eq!(linked_manifest, "ORC-2059");
    let linked_folder = after(|it| {
        fs::rename(it.file("bin"), it.path("bin")).unwrap();
        symlink(it.path("bin"), it.file("bin")).unwrap();
    });
    assert_eq!(linked_folder, "ORC-2059");
    let pipe = after(|it| {
        replace(it);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            it.file("assets/empty"),
            kind,
            0o644.into(),
            0,
        )
        .unwrap();
    });
    assert_eq!(pipe, "ORC-2059");
    let socket = after(|it| {
        replace(it);
        drop(UnixListener::bind(it.file("assets/empty")).unwrap());
    });
    assert_eq!(socket, "ORC-2059");
    let twice = after(|it| fs::hard_link(it.file("bin/run"), it.path("second-name")).unwrap());
    assert_eq!(twice, "ORC-2059");
    let setuid = after(|it| {
        fs::set_permissions(it.file("bin/run"), Permissions::from_mode(0o4755)).unwrap()
    });
    assert_eq!(setuid, "ORC-2059");
    let root_link = {
        let fixture = Fixture::signed();
        symlink(fixture.dir(), fixture.path("link")).unwrap();
        orchestrator_signing::verify(&fixture.path("link"), &fixture.store().root()).unwrap_err()
    };
    assert_eq!(crate::fixture::code(&root_link), "ORC-2067");
}

#[test]
fn modes_and_owners() {
    for (file, mode) in [("bin/run", 0o644), ("assets/empty", 0o755)] {
        let code =
            after(|it| fs::set_permissions(it.file(file), Permissions::from_mode(mode)).unwrap());
        assert_eq!(code, "ORC-2057", "{file}");
    }
    let read_only =
        after(|it| fs::set_permissions(it.file("bin/run"), Permissions::from_mode(0o555)).unwrap());
    assert_eq!(read_only, "accepted", "an installed package is read-only");
    for target in ["", "bin", "bin/run"] {
        let open = |it: &Fixture| {
            fs::set_permissions(it.file(target), Permissions::from_mode(0o777)).unwrap()
        };
        assert_eq!(after(open), "ORC-2063", "{target}");
        let fixture = Fixture::unsigned();
        fixture.sign(1);
        fixture.trust(TrustLevel::Internal, "demo");
        open(&fixture);
        let package = fixture.verify().unwrap();
        assert!(
            !package.warnings().is_empty(),
            "our own code is accepted with a warning"
        );
    }
}

#[test]
fn names_of_files() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    for name in [
        "a\\b",
        "C:x",
        "a\nb",
        "e\u{301}",
        "\u{202e}gpj.exe",
        "trailing.",
        "con",
    ] {
        assert_eq!(
            after(|it| it.write(name, b"", 0o644)),
            "ORC-2060",
            "{name:?}"
        );
    }
    let not_text =
        after(|it| fs::write(it.dir().join(OsStr::from_bytes(b"\xff\xfe")), "").unwrap());
    assert_eq!(not_text, "ORC-2060");
}

#[test]
fn sizes_and_counts() {
    let many = after(|it| {
        for file in 0..=10_000 {
            fs::write(it.file(&format!("assets/{file}")), "").unwrap();
        }
    });
    assert_eq!(many, "ORC-2062");
    let deep = after(|it| fs::create_dir_all(it.file(&"a/".repeat(30))).unwrap());
    assert!(["ORC-2060", "ORC-2062"].contains(&deep.as_str()), "{deep}");
    let sparse = after(|it| {
        let file = fs::File::create(it.file("assets/sparse")).unwrap();
        file.set_len(8 << 40).unwrap();
    });
    assert_eq!(sparse, "ORC-2062");
}

#[test]
fn statements_that_contradict_the_package() {
    for (pointer, value) in [
        ("/predicate/version", json!("1.0.1")),
        ("/predicate/entry/path", json!("bin/other")),
        ("/predicate/entry/kind", json!("wasm")),
        ("/predicate/manifest_sha256", json!("00".repeat(32))),
        ("/predicate/capabilities_requested", json!(["system:info"])),
    ] {
        let code = after_resigning(|statement| *statement.pointer_mut(pointer).unwrap() = value);
        assert_eq!(code, "ORC-2052", "{pointer}");
    }
    let other_name = after_resigning(|statement| statement["predicate"]["name"] = json!("other"));
    assert_eq!(other_name, "ORC-2045", "the key may not sign that name");
    let api =
        after_resigning(|statement| statement["predicate"]["api"] = json!({"min": 9, "max": 9}));
    assert_eq!(api, "ORC-2050");
}

#[test]
fn statements_that_contradict_themselves() {
    let twice = after_resigning(|statement| {
        let first = statement["subject"][0].clone();
        statement["subject"].as_array_mut().unwrap().push(first);
    });
    assert_eq!(twice, "ORC-2051");
    let file_twice = after_resigning(|statement| {
        let first = statement["predicate"]["files"][0].clone();
        statement["predicate"]["files"]
            .as_array_mut()
            .unwrap()
            .push(first);
    });
    assert_eq!(file_twice, "ORC-2051");
    for list in ["/subject", "/predicate/files"] {
        let shorter = after_resigning(|statement| {
            statement
                .pointer_mut(list)
                .unwrap()
                .as_array_mut()
                .unwrap()
                .pop();
        });
        assert_eq!(shorter, "ORC-2052", "{list}");
    }
    let escaping = after_resigning(|statement| statement["subject"][0]["name"] = json!("../x"));
    assert_eq!(escaping, "ORC-2044");
}

#[test]
fn a_manifest_that_breaks_rules() {
    let code = after(|it| {
        // As a publisher with another tool would sign it.
        let broken = MANIFEST.replace("system:info", "system:root");
        it.write("plugin.yaml", broken.as_bytes(), 0o644);
        let envelope = Envelope::parse(&fs::read(it.file(SIGNATURES)).unwrap()).unwrap();
        let (payload, _) = envelope
            .verified_by(PAYLOAD_TYPE, [it.key.public()])
            .unwrap();
        let mut statement: Value = serde_json::from_slice(payload).unwrap();
        let digest = orchestrator_signing::Digest::of(broken.as_bytes()).to_string();
        for subject in statement["subject"].as_array_mut().unwrap() {
            if subject["name"] == "plugin.yaml" {
                subject["digest"]["sha256"] = json!(digest);
            }
        }
        resign(it, PAYLOAD_TYPE, serde_json::to_vec(&statement).unwrap());
    });
    assert_eq!(code, "ORC-2065");
}
