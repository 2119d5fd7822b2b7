//! Whatever the package, and however its archive arrives.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
};

use orchestrator_signing::archive;
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};

use super::{names, packed, scratch};
use crate::fixture::Fixture;

/// Folders start with `d` and files with `f`, so that none is both.
fn paths() -> impl Strategy<Value = String> {
    (
        vec("d[a-z0-9 ._-]{0,80}[a-z]", 0..4),
        "f[a-z0-9 ._-]{0,140}[a-z]",
    )
        .prop_map(|(mut parts, file)| {
            parts.push(file);
            parts.join("/")
        })
}

/// Gives as much as it likes, and is interrupted before each piece.
struct Unsteady<'b> {
    left: &'b [u8],
    pieces: std::iter::Cycle<std::vec::IntoIter<usize>>,
    is_interrupted: bool,
}

impl Read for Unsteady<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_interrupted = !self.is_interrupted;
        if self.is_interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let piece = self.pieces.next().unwrap().min(buffer.len());
        self.left.read(&mut buffer[..piece])
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_comes_out_is_what_went_in(
        files in btree_map(paths(), (vec(any::<u8>(), 0..3_000), any::<bool>()), 0..12),
        pieces in vec(1_usize..5_000, 1..5),
    ) {
        let fixture = Fixture::unsigned();
        for (path, (bytes, is_program)) in &files {
            let mode = if *is_program { 0o755 } else { 0o644 };
            fixture.write(path, bytes, mode);
        }
        fixture.sign(1);
        let bytes = packed(&fixture);
        let source = Unsteady {
            left: &bytes,
            pieces: pieces.into_iter().cycle(),
            is_interrupted: false,
        };
        let dest = scratch(&fixture);
        let unpacked = archive::unpack(source, &dest).unwrap();
        prop_assert_eq!(unpacked.files(), 6 + files.len());
        let expected: BTreeMap<_, _> = files.into_iter().map(|(path, (bytes, _))| (path, bytes)).collect();
        for (path, bytes) in &expected {
            let read = fs::read(unpacked.path().join(path)).unwrap();
            prop_assert!(read == *bytes, "{}", path);
        }
        let mut again = Vec::new();
        archive::pack(unpacked.path(), &mut again).unwrap();
        prop_assert!(again == bytes);
        drop(unpacked);
        prop_assert_eq!(names(&dest), [] as [&str; 0]);
    }
}
