//! Files that change while they are verified.

use std::{
    fs,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use orchestrator_signing::VerifyError;

use crate::fixture::{Fixture, code, content};

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
    let (mut accepted, mut read, mut refused) = (0, 0, 0);
    for _ in 0..2_000 {
        match orchestrator_signing::verify(&fixture.dir(), &root) {
            Ok(package) => {
                accepted += 1;
                match content(package.entry().unwrap()) {
                    Ok(bytes) => {
                        assert_eq!(bytes, signed);
                        read += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            Err(_) => refused += 1,
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let swaps = attacker.join().unwrap();
    assert!(
        swaps > 100 && refused > 0,
        "{swaps} swaps, {accepted} accepted, {read} read, {refused} refused"
    );
}

#[test]
fn what_was_verified_is_read_or_nothing_is() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let entry = package.entry().unwrap();
    let signed = content(entry).unwrap();
    let mut evil = signed.clone();
    evil[15] ^= 1;
    for other in [&evil, b"evil".as_slice(), &[&*signed, b"more"].concat()] {
        fs::write(fixture.file("bin/run"), other).unwrap();
        let error = content(entry).unwrap_err().downcast::<VerifyError>();
        assert_eq!(code(&error.unwrap()), "ORC-2058");
    }
    fs::write(fixture.file("bin/run"), &signed).unwrap();
    assert_eq!(content(entry).unwrap(), signed);

    // The folder itself is held, whatever gets its name.
    fs::rename(fixture.dir(), fixture.path("elsewhere")).unwrap();
    fixture.write("bin/run", &evil, 0o755);
    assert_eq!(content(entry).unwrap(), signed);
}

/// A reader that failed does not look like one that came to an end.
#[test]
fn a_refused_file_stays_refused() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let mut reader = package.entry().unwrap().open().unwrap();
    let mut piece = [0; 4];
    assert_eq!(reader.read(&mut piece).unwrap(), 4);
    fs::write(fixture.file("bin/run"), "cut").unwrap();
    for _ in 0..3 {
        assert!(reader.read(&mut piece).is_err());
    }
}

/// Bytes that change under an open reader do not get through either.
#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let mut reader = package.entry().unwrap().open().unwrap();
    let mut piece = [0; 4];
    assert_eq!(reader.read(&mut piece).unwrap(), 4);
    let mut evil = content(package.entry().unwrap()).unwrap();
    evil[15] ^= 1;
    fs::write(fixture.file("bin/run"), &evil).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
}
