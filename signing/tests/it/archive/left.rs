//! What a killed process leaves is removed, and what the living have is not.
#![expect(
    clippy::disallowed_types,
    reason = "runs this test again to kill it; the sandbox is for plugins"
)]

use std::{
    env, fs,
    io::{self, Read},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use orchestrator_signing::archive;

use super::{names, packed, scratch};
use crate::fixture::Fixture;

const DEST: &str = "ORCHESTRATOR_TEST_UNPACK_TO";

/// Gives nothing, forever.
struct Stuck;

impl Read for Stuck {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        loop {
            thread::park();
        }
    }
}

/// What the killed process does; nothing when it is run for itself.
#[test]
fn unpacks_until_it_is_killed() {
    if let Some(dest) = env::var_os(DEST) {
        let dest = PathBuf::from(dest);
        let bytes = fs::read(dest.join("../demo.opkg")).unwrap();
        let half = bytes[..bytes.len() - 1].chain(Stuck);
        archive::unpack(half, &dest).map(drop).unwrap();
    }
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let fixture = Fixture::signed();
    let bytes = packed(&fixture);
    fs::write(fixture.path("demo.opkg"), &bytes).unwrap();
    let dest = scratch(&fixture);
    let living = archive::unpack(&bytes[..], &dest).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "archive::left::unpacks_until_it_is_killed"])
        .env(DEST, &dest)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let is_unpacked = |name: &String| dest.join(name).join("package/plugin.yaml").exists();
    let started = (0..3_000).any(|_| {
        thread::park_timeout(Duration::from_millis(10));
        names(&dest).iter().filter(|name| is_unpacked(name)).count() == 2
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(started, "{:?}", names(&dest));
    assert_eq!(names(&dest).len(), 2);

    fs::create_dir(dest.join(".opkg-else")).unwrap();
    let next = archive::unpack(&bytes[..], &dest).unwrap();
    assert_eq!(names(&dest).len(), 3, "{:?}", names(&dest));
    assert!(living.path().exists() && next.path().exists());
    drop((living, next));
    assert_eq!(names(&dest), [".opkg-else"]);
}
