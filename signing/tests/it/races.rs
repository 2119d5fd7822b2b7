//! Files that change while they are verified.
#![expect(
    clippy::disallowed_types,
    reason = "a test runs itself where nobody else sees what it mounts"
)]

use std::{
    fs,
    io::Read as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use orchestrator_signing::VerifyError;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    mount::{UnmountFlags, mount_bind, unmount},
};

use crate::fixture::{Fixture, code, content};

/// Somebody swaps the entry back and forth all the time.
#[test]
fn a_swapped_entry_never_gets_through() {
    let fixture = Fixture::signed();
    let (entry, staged) = (fixture.file("bin/run"), fixture.path("staged"));
    let (signed, evil) = signed_and_evil(&fixture);
    what_is_accepted_was_signed(&fixture, move || {
        for bytes in [&evil, &signed] {
            crate::fixture::write(&staged, bytes, 0o755);
            fs::rename(&staged, &entry).unwrap();
        }
        // In place as well, through another descriptor.
        fs::write(&entry, &evil).unwrap();
        fs::write(&entry, &signed).unwrap();
    });
}

/// The folder and one like it change places.
#[test]
fn an_exchanged_folder_never_gets_through() {
    let fixture = Fixture::signed();
    let (folder, other) = (fixture.file("bin"), fixture.path("other"));
    let (_, evil) = signed_and_evil(&fixture);
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    crate::fixture::write(&other.join("run"), &evil, 0o755);
    what_is_accepted_was_signed(&fixture, move || {
        renameat_with(CWD, &folder, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        thread::yield_now();
    });
}

/// Has the rest of a test run in a mount namespace that no other process shares.
const OWN_MOUNTS: &str = "ORCHESTRATOR_TEST_OWN_MOUNTS";

/// Another file is mounted over the entry, and taken away again.
#[test]
fn a_file_that_is_mounted_over_never_gets_through() {
    if std::env::var_os(OWN_MOUNTS).is_none() {
        let name = "races::a_file_that_is_mounted_over_never_gets_through";
        let mut program = Command::new("unshare");
        program.args(["--user", "--map-root-user", "--mount"]);
        program.arg(std::env::current_exe().unwrap());
        program.args(["--exact", name]).env(OWN_MOUNTS, "1");
        let ended = program.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{ended:?}"
        );
        return;
    }
    let fixture = Fixture::signed();
    let (entry, evil_file) = (fixture.file("bin/run"), fixture.path("evil"));
    let (_, evil) = signed_and_evil(&fixture);
    crate::fixture::write(&evil_file, &evil, 0o755);
    what_is_accepted_was_signed(&fixture, move || {
        mount_bind(&evil_file, &entry).unwrap();
        thread::yield_now();
        unmount(&entry, UnmountFlags::DETACH).unwrap();
        thread::yield_now();
    });
}

fn signed_and_evil(fixture: &Fixture) -> (Vec<u8>, Vec<u8>) {
    let signed = fs::read(fixture.file("bin/run")).unwrap();
    let mut evil = signed.clone();
    evil[15] ^= 1;
    (signed, evil)
}

/// Verifies and reads while somebody goes on to `swap`: whatever is accepted is what
/// was signed, whatever lies on disk by then.
fn what_is_accepted_was_signed(fixture: &Fixture, mut swap: impl FnMut() + Send + 'static) {
    let root = fixture.store().root();
    let (signed, _) = signed_and_evil(fixture);
    let is_over = Arc::new(AtomicBool::new(false));
    let attacker = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let mut swaps = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                swap();
                swaps += 1;
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
        swaps > 50 && refused > 0,
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
