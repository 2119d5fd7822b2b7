//! Somebody changes a package between the moment it is verified and the moment
//! it runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use orchestrator_sandbox::{ExitStatus, Image, Spec, spawn};
use orchestrator_signing::{
    Delegation, NamePattern, SecretKey, SignOptions, TrustLevel, TrustRoot, TrustStore, sign,
    verify,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// How often a package is verified and then started.
const TRIES: u32 = 10_000;
/// Of the programs that must have run, so that there was something to see.
const RUNS_MIN: u32 = 100;
/// What the signed program ends with, and what any other does.
const SIGNED: u8 = 42;
const EVIL: u8 = 66;

/// The smallest program that ends with `status`: one byte tells two of them
/// apart.
fn program(status: u8) -> Vec<u8> {
    let code = [0xbf, status, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let (base, head) = (0x40_0000_u64, 64 + 56_u64);
    let size = head + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [base + head, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, size, size, 0x1000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code);
    bytes
}

fn put(dir: &Path, program: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    let manifest = "name: swap\nversion: 1.0.0\ndescription: d\nkind: exec\nentry_point: run\n\
                    phases: [{ name: go }]\n";
    fs::write(dir.join("plugin.yaml"), manifest).unwrap();
    fs::write(dir.join("run"), program).unwrap();
    fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Swaps the program in every way there is, until it is over: another file
/// under its name, other bytes in the file, another folder under the folder's.
fn attack(root: &Path, is_over: &AtomicBool) -> u32 {
    let (package, twin) = (root.join("package"), root.join("twin"));
    let (good, evil) = (program(SIGNED), program(EVIL));
    let entry = package.join("run");
    let staged = root.join("staged");
    let mut swaps = 0;
    while !is_over.load(Ordering::Relaxed) {
        for bytes in [&evil, &good] {
            fs::write(&staged, bytes).unwrap();
            fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&staged, &entry).unwrap();
            thread::yield_now();
        }
        for bytes in [&evil, &good] {
            // Fails while the file runs, which it never should.
            fs::write(&entry, bytes).unwrap();
        }
        for _ in 0..2 {
            renameat_with(CWD, &package, CWD, &twin, RenameFlags::EXCHANGE).unwrap();
            thread::yield_now();
        }
        swaps += 6;
        // So that there are moments in which nothing is wrong.
        thread::park_timeout(Duration::from_millis(1));
    }
    swaps
}

/// What became of one try: the status it ended with, if anything ran.
async fn try_once(package: &Path, root: &TrustRoot) -> Option<ExitStatus> {
    let verified = verify(package, root).ok()?;
    let entry = verified.entry()?;
    let image = Image::seal("run", entry.open().ok()?, entry.size()).ok()?;
    let child = spawn(Spec::new(&image, "run")).await.unwrap();
    let ended = timeout(PATIENCE, child.ended()).await.unwrap();
    Some(ended.unwrap())
}

#[tokio::test]
async fn ten_thousand_swaps_between_verifying_and_starting_run_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let key = SecretKey::generate("swap").unwrap();
    let mut store = TrustStore::open(&dir.path().join("trust")).unwrap();
    let names = vec![NamePattern::parse("swap").unwrap()];
    let terms = Delegation::new(key.public().clone(), TrustLevel::Internal, names);
    store.add(terms).unwrap();
    let package = dir.path().join("package");
    put(&package, &program(SIGNED));
    sign(&package, &key, &SignOptions::new(1)).unwrap();
    // The same signatures beside another program.
    put(&dir.path().join("twin"), &program(EVIL));
    fs::create_dir(dir.path().join("twin/META")).unwrap();
    for file in fs::read_dir(package.join("META")).unwrap().flatten() {
        let target = dir.path().join("twin/META").join(file.file_name());
        fs::copy(file.path(), target).unwrap();
    }
    let evil = Image::interpreter(&dir.path().join("twin/run")).unwrap();
    let child = spawn(Spec::new(&evil, "run")).await.unwrap();
    let ended = timeout(PATIENCE, child.ended()).await.unwrap().unwrap();
    assert_eq!(
        ended,
        ExitStatus::Exited(i32::from(EVIL)),
        "it would be seen"
    );

    let is_over = Arc::new(AtomicBool::new(false));
    let attacker = {
        let (root, is_over) = (dir.path().to_owned(), Arc::clone(&is_over));
        thread::spawn(move || attack(&root, &is_over))
    };
    let root = store.root();
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..TRIES {
        match try_once(&package, &root).await {
            Some(status) => {
                assert_eq!(status, ExitStatus::Exited(i32::from(SIGNED)));
                ran += 1;
            }
            None => refused += 1,
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let swaps = attacker.join().unwrap();
    assert!(
        swaps > 500 && ran >= RUNS_MIN && refused > 0,
        "{swaps} swaps, {ran} ran, {refused} refused"
    );
}
