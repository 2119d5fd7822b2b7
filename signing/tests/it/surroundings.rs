//! What is around a package, and what happens to it while it is read.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{PermissionsExt, chown},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use orchestrator_signing::{Draft, Envelope, PAYLOAD_TYPE, SignOptions, TrustLevel};

use crate::fixture::{Fixture, code, content};

/// Whoever owns the folder around a package puts another in its place.
#[test]
fn a_package_in_somebody_elses_folder_is_told_of_or_refused() {
    let fixture = Fixture::signed();
    if !rustix::process::geteuid().is_root() {
        // Nobody else can give a folder away.
        return;
    }
    let parent = fixture.path("theirs");
    fs::create_dir(&parent).unwrap();
    fs::rename(fixture.dir(), parent.join("package")).unwrap();
    let dir = parent.join("package");
    let verify = || orchestrator_signing::verify(&dir, &fixture.store().root());
    for (owner, mode, is_exposed) in [
        (0, 0o755, false),
        (0, 0o1777, false),
        (0, 0o775, true),
        (65_534, 0o755, true),
        (65_534, 0o1777, true),
    ] {
        chown(&parent, Some(owner), None).unwrap();
        fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
        fixture.trust(TrustLevel::Internal, "demo");
        let warnings = verify().unwrap().warnings().to_vec();
        let is_told = warnings.iter().any(|it| it.contains("replace the whole"));
        assert_eq!(is_told, is_exposed, "{owner} {mode:o}: {warnings:?}");
        fixture.trust(TrustLevel::Untrusted, "demo");
        let refused = verify().err().map(|error| code(&error));
        let expected = is_exposed.then(|| "ORC-2063".to_owned());
        assert_eq!(refused, expected, "{owner} {mode:o}");
    }
}

/// The length that is signed is the length that is read, whatever the file does.
#[test]
fn a_file_that_grows_and_shrinks_while_it_is_read_is_what_was_signed_or_refused() {
    let fixture = Fixture::signed();
    let signed = vec![b'x'; 1 << 20];
    fixture.write("assets/large", &signed, 0o644);
    fixture.sign(6);
    let root = fixture.store().root();
    let is_over = AtomicBool::new(false);
    let (mut accepted, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let path = fixture.file("assets/large");
            let mut file = File::options().append(true).open(path).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    file.write_all(&signed[..4096]).unwrap();
                }
                file.set_len(signed.len() as u64 / 2).unwrap();
                file.write_all(&signed[signed.len() / 2..]).unwrap();
                thread::yield_now();
            }
        });
        for number in 0..20_000 {
            if number >= 200 && refused > 0 {
                break;
            }
            match orchestrator_signing::verify(&fixture.dir(), &root) {
                Ok(package) => {
                    let file = package.file("assets/large").unwrap();
                    let is_whole = content(file).is_ok_and(|bytes| bytes != signed);
                    accepted += u32::from(is_whole);
                }
                Err(_) => refused += 1,
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(accepted, 0, "read other bytes; {refused} refused");
    assert!(refused > 0);
}

/// A good signature does not make other bytes than one JSON text a statement.
#[test]
fn what_is_signed_is_one_text_and_nothing_around_it() {
    let fixture = Fixture::signed();
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(5)).unwrap();
    let message = draft.payload().message();
    let payload: Vec<u8> = message
        .splitn(5, |byte| *byte == b' ')
        .last()
        .unwrap()
        .to_vec();
    let text = String::from_utf8(payload.clone()).unwrap();
    let refusal = |payload: Vec<u8>| {
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &[&fixture.key]);
        fixture.write("META/signatures.json", envelope.to_json().as_bytes(), 0o644);
        fixture.refusal()
    };
    assert_eq!(refusal(payload.clone()), "accepted");
    let utf_16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>()
    };
    for (what, bytes) in [
        ("trailing text", [&payload, &b"x"[..]].concat()),
        ("trailing zero", [&payload, &b"\0"[..]].concat()),
        ("two texts", [&payload[..], &payload].concat()),
        ("a mark", [&b"\xef\xbb\xbf"[..], &payload].concat()),
        ("UTF-16", utf_16(&text)),
        ("UTF-16 with a mark", utf_16(&format!("\u{feff}{text}"))),
        (
            "no UTF-8",
            [&payload[..1], &b"\"\xff\":1,"[..], &payload[1..]].concat(),
        ),
        (
            "a key twice",
            text.replacen('{', "{\"_type\":\"x\",", 1).into_bytes(),
        ),
        (
            "a key too many",
            text.replacen('{', "{\"more\":1,", 1).into_bytes(),
        ),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(refusal(bytes), "ORC-2044", "{what}");
    }
}
