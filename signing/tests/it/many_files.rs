//! Packages that are large enough to be hashed by several threads.

use orchestrator_signing::{Digest, VerifyError};

use crate::fixture::{Fixture, code};

const FILES: usize = 24;
const FILE_BYTES: usize = 512 * 1024;

fn name(number: usize) -> String {
    format!("data/{number:02}")
}

fn large() -> Fixture {
    let fixture = Fixture::signed();
    for number in 0..FILES {
        let mut bytes = vec![0; FILE_BYTES];
        fastrand::Rng::with_seed(number as u64).fill(&mut bytes);
        fixture.write(&name(number), &bytes, 0o644);
    }
    fixture.sign(6);
    fixture
}

#[test]
fn every_file_gets_its_own_digest() {
    let fixture = large();
    let package = fixture.verify().unwrap();
    for number in 0..FILES {
        let path = name(number);
        let digest = Digest::of(&std::fs::read(fixture.file(&path)).unwrap());
        assert_eq!(package.file(&path).unwrap().digest(), digest, "{path}");
    }
    let paths: Vec<_> = package.files().map(|file| file.path().clone()).collect();
    assert!(paths.is_sorted());
}

#[test]
fn a_changed_byte_anywhere_is_found_and_the_first_file_named() {
    let fixture = large();
    for (number, at) in [(0, 0), (11, FILE_BYTES / 2), (FILES - 1, FILE_BYTES - 1)] {
        let path = name(number);
        let whole = std::fs::read(fixture.file(&path)).unwrap();
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fixture.write(&path, &changed, 0o644);
        // Another one behind it, which is not the one to be named.
        let last = name(FILES - 1);
        let rest = std::fs::read(fixture.file(&last)).unwrap();
        if path != last {
            fixture.write(&last, &vec![0; FILE_BYTES], 0o644);
        }
        let error = fixture.verify().unwrap_err();
        assert_eq!(code(&error), "ORC-2055");
        let VerifyError::FileDigest { path: named } = error else {
            panic!("{error}");
        };
        assert_eq!(named, path);
        fixture.write(&last, &rest, 0o644);
        fixture.write(&path, &whole, 0o644);
    }
    fixture.verify().unwrap();
}
