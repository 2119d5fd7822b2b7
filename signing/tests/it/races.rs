//! Files that change while they are verified.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::fixture::Fixture;

/// Somebody swaps the entry back and forth all the time. Whatever is
/// accepted is what was signed, whatever lies on disk by then.
#[test]
fn a_swapped_entry_never_gets_through() {
    let fixture = Fixture::signed();
    let root = fixture.store().root();
    let entry = fixture.file("bin/run");
    let signed = fs::read(&entry).unwrap();
    let mut evil = signed.clone();
    evil[15] ^= 1;
    let is_over = Arc::new(AtomicBool::new(false));
    let attacker = {
        let (entry, signed, evil) = (entry.clone(), signed.clone(), evil.clone());
        let (staged, is_over) = (fixture.path("staged"), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut swaps = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                for bytes in [&evil, &signed] {
                    crate::fixture::write(&staged, bytes, 0o755);
                    fs::rename(&staged, &entry).unwrap();
                    swaps += 1;
                }
                // In place as well, through another descriptor.
                fs::write(&entry, &evil).unwrap();
                fs::write(&entry, &signed).unwrap();
            }
            swaps
        })
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..2_000 {
        match orchestrator_signing::verify(&fixture.dir(), &root) {
            Ok(package) => {
                assert_eq!(&*package.entry_bytes().unwrap(), signed.as_slice());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let swaps = attacker.join().unwrap();
    assert!(
        swaps > 100 && refused > 0,
        "{swaps} swaps, {accepted} accepted, {refused} refused"
    );
}

#[test]
fn what_was_verified_does_not_change_with_the_disk() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let before = package.entry_bytes().unwrap();
    fs::write(fixture.file("bin/run"), "evil").unwrap();
    fs::remove_dir_all(fixture.file("prompts")).unwrap();
    assert_eq!(package.entry_bytes().unwrap(), before);
    assert_eq!(
        &**package.file("prompts/analyze.txt").unwrap().bytes(),
        b"Analyse this.\n"
    );
}
