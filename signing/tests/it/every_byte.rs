//! No bit of a package can change unnoticed.

use std::fs;

use crate::fixture::Fixture;

#[test]
fn any_bit_flipped_anywhere_is_refused() {
    let fixture = Fixture::signed();
    let root = fixture.store().root();
    let dir = fixture.dir();
    let files = [
        "META/signatures.json",
        "META/MANIFEST",
        "plugin.yaml",
        "bin/run",
        "prompts/analyze.txt",
    ];
    let mut flips = 0;
    for file in files {
        let path = fixture.file(file);
        let original = fs::read(&path).unwrap();
        for bit in 0..original.len() * 8 {
            let (position, mask) = (bit / 8, 1_u8 << (bit % 8));
            let mut bytes = original.clone();
            bytes[position] ^= mask;
            fs::write(&path, &bytes).unwrap();
            let result = orchestrator_signing::verify(&dir, &root);
            assert!(
                result.is_err(),
                "byte {position} of {file} ^ {mask:#x} went unnoticed"
            );
            flips += 1;
        }
        for length in [0, original.len() / 2, original.len() - 1] {
            fs::write(&path, &original[..length]).unwrap();
            assert!(
                orchestrator_signing::verify(&dir, &root).is_err(),
                "{file} cut to {length}"
            );
        }
        fs::write(&path, &original).unwrap();
    }
    assert!(flips > 16_000, "{flips}");
    fixture.verify().unwrap();
}
