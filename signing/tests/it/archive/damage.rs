//! A damaged download is told from a forged archive, an untrusted key and a
//! bad signature.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use orchestrator_signing::{TrustLevel, archive};

use super::{
    forge::{gzip, sealed},
    names, packed, refusal, scratch,
};
use crate::fixture::{Fixture, code};

/// Every bit of header and seal, and one of each byte between them: that the seal
/// covers every bit of those is shown where it is made.
#[test]
fn any_bit_flipped_anywhere_is_damage() {
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let mut bytes = packed(&fixture);
    let inside = 16..bytes.len() - 64;
    for position in 0..bytes.len() {
        let all = !inside.contains(&position);
        for bit in (0..8_usize).filter(|bit| all || position % 8 == *bit) {
            bytes[position] ^= 1 << bit;
            let code = refusal(&bytes, &scratch);
            assert_eq!(code, "ORC-2171", "bit {bit} of byte {position}");
            bytes[position] ^= 1 << bit;
        }
    }
    assert_eq!(refusal(&bytes, &scratch), "6 files");
}

#[test]
fn a_download_cut_short_anywhere_is_damage() {
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let bytes = packed(&fixture);
    for length in 0..bytes.len() {
        // Of less than this nobody can say what it was to be.
        let expected = if length < 10 + 58 {
            "ORC-2172"
        } else {
            "ORC-2171"
        };
        assert_eq!(refusal(&bytes[..length], &scratch), expected, "{length}");
    }
}

/// Whoever alters an archive on purpose makes the seal fit.
#[test]
fn whatever_is_flipped_beneath_a_new_seal_is_refused() {
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let root = fixture.store().root();
    let mut tar = Vec::new();
    let bytes = packed(&fixture);
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut tar)
        .unwrap();
    // Five and 512 have no common factor: in the end every field was hit.
    for position in (0..tar.len()).step_by(5) {
        let mask = 1 << (position % 8);
        tar[position] ^= mask;
        let forged = sealed(gzip(&tar));
        let error = archive::open(&forged[..], Path::new("demo.opkg"), &scratch, &root);
        let error = error.map(drop).expect_err("went unnoticed");
        assert_ne!(
            code(&error),
            "ORC-2171",
            "byte {position} ^ {mask:#x}: {error}"
        );
        tar[position] ^= mask;
    }
    archive::open(
        &sealed(gzip(&tar))[..],
        Path::new("demo.opkg"),
        &scratch,
        &root,
    )
    .unwrap();
}

#[test]
fn damage_forgery_strangers_and_rules_have_codes_of_their_own() {
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let open = |bytes: &[u8], fixture: &Fixture| {
        let root = fixture.store().root();
        let error = archive::open(bytes, Path::new("demo.opkg"), &scratch, &root)
            .map(drop)
            .unwrap_err();
        assert_eq!(names(&scratch), [] as [&str; 0]);
        code(&error)
    };
    let bytes = packed(&fixture);
    assert_eq!(open(&bytes[..bytes.len() / 2], &fixture), "ORC-2171");

    let signatures = fs::read_to_string(fixture.file("META/signatures.json")).unwrap();
    let position = signatures.find("\"sig\":\"").unwrap() + 10;
    let mut forged = signatures.clone().into_bytes();
    forged[position] = if forged[position] == b'A' { b'B' } else { b'A' };
    fixture.write("META/signatures.json", &forged, 0o644);
    assert_eq!(open(&packed(&fixture), &fixture), "ORC-2042");

    let stranger = Fixture::unsigned();
    stranger.trust(TrustLevel::Partner, "demo");
    assert_eq!(open(&bytes, &stranger), "ORC-2041");
    let other = Fixture::signed();
    other.trust(TrustLevel::Partner, "else");
    assert_eq!(open(&packed(&other), &other), "ORC-2045");
}

#[test]
fn other_files_are_no_archives() {
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let exe = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut tar = vec![0; 10_240];
    tar[..512].copy_from_slice(super::forge::header(b"a", 0).as_bytes());
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("a program", &exe[..1 << 20]),
        ("zip", &[b"PK\x03\x04", &[0; 200][..]].concat()),
        ("plain tar", &tar),
        ("zstd", &[&[0x28, 0xb5, 0x2f, 0xfd], &[0; 200][..]].concat()),
    ] {
        assert_eq!(refusal(bytes, &scratch), "ORC-2172", "{what}");
    }
}

#[test]
fn a_source_that_fails_is_not_damage() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let fixture = Fixture::signed();
    let scratch = scratch(&fixture);
    let bytes = packed(&fixture);
    for length in [0, 5, 10, 100, bytes.len() - 1, bytes.len()] {
        let source = bytes[..length].chain(Broken);
        let error = archive::unpack(source, &scratch).unwrap_err();
        assert_eq!(code(&error), "ORC-2170", "{length}");
    }
    let error = archive::unpack(&bytes[..], &fixture.path("nowhere")).unwrap_err();
    assert_eq!(code(&error), "ORC-2190");
}
