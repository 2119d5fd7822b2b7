//! A wall clock that somebody sets while tests run.

#![expect(
    clippy::disallowed_types,
    reason = "runs a compiler and the test itself; the sandbox is for plugins"
)]

use std::{
    env, fs,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Says in a process that its clock jumps.
const JUMPS: &str = "ORCHESTRATOR_TEST_CLOCK_JUMPS";
const SOURCE: &str = include_str!("wall_clock.c");

/// Runs the tests of this program whose names have one of `names` in them, but those that
/// have one of `not`, in a process whose wall clock jumps back and forth by an hour
/// many times a second. Returns how many there were.
///
/// # Panics
///
/// When one of them fails.
pub fn pass_while_the_clock_jumps(names: &[&str], not: &[&str]) -> usize {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
    fs::write(&source, SOURCE).expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
    let built = compiler.args([&library, &source]).output();
    let built = built.expect("cc is installed");
    assert!(built.status.success(), "{built:?}");

    let mut tests = Command::new(env::current_exe().expect("the test's own program"));
    for name in not {
        tests.args(["--skip", name]);
    }
    let ended = tests
        .args(names)
        .env("LD_PRELOAD", &library)
        .env(JUMPS, "1")
        .stdin(Stdio::null())
        .output()
        .expect("the test's own program");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let result = said.lines().find_map(|line| {
        let passed = line.strip_prefix("test result: ok. ")?;
        passed.split(' ').next()?.parse().ok()
    });
    result.expect("a test's result")
}

/// Where the clock is to jump: whether it does.
///
/// # Panics
///
/// When it does not.
pub fn the_clock_jumps_where_it_is_to() {
    if env::var_os(JUMPS).is_none() {
        return;
    }
    let mut jumps = [false, false];
    let mut last = SystemTime::now();
    let began = Instant::now();
    while jumps != [true, true] {
        assert!(began.elapsed() < Duration::from_secs(20), "{jumps:?}");
        std::thread::park_timeout(Duration::from_millis(1));
        let now = SystemTime::now();
        let (step, back) = match now.duration_since(last) {
            Ok(step) => (step, 0),
            Err(error) => (error.duration(), 1),
        };
        jumps[back] |= step > Duration::from_secs(3_000);
        last = now;
    }
}
