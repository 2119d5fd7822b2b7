//! Sets up what the tests need, then passes them all.

use std::{ffi::OsStr, path::Path};

use crate::{
    process::{self, Result},
    tools,
};

const INSTRUCTIONS: &str = "policies_instructions";

/// Runs every test of the workspace; `args` go to the test runner.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let nextest = tools::nextest()?;
    let promtool = tools::promtool()?;
    let valgrind = tools::valgrind()?;
    let minisign = tools::minisign()?;
    let securesystemslib = tools::securesystemslib()?;
    // The tests start the command and the example plugins as real processes.
    let bins = [
        "build",
        "--quiet",
        "--package",
        "orchestrator-cli",
        "--package",
        "orchestrator-examples",
        "--package",
        "orchestrator-testkit",
        "--bins",
    ];
    process::run(&process::cargo(), &bins, &[])?;

    // Its instructions are counted, which only means something of code that is
    // optimised.
    let counted = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "orchestrator-benches",
        "--bin",
        INSTRUCTIONS,
    ];
    process::run(&process::cargo(), &counted, &[])?;
    let counted = process::target().join("release").join(INSTRUCTIONS);

    let env = [
        ("ORCHESTRATOR_TEST_PROMTOOL", OsStr::new(&promtool)),
        ("ORCHESTRATOR_TEST_VALGRIND", OsStr::new(&valgrind)),
        ("ORCHESTRATOR_TEST_MINISIGN", OsStr::new(&minisign)),
        (
            "ORCHESTRATOR_TEST_SECURESYSTEMSLIB",
            OsStr::new(&securesystemslib),
        ),
        (
            "ORCHESTRATOR_TEST_POLICIES_INSTRUCTIONS",
            OsStr::new(&counted),
        ),
    ];
    let fixed = ["nextest", "run", "--workspace", "--no-fail-fast"];
    let all: Vec<&str> = fixed.iter().chain(args).copied().collect();
    process::run(&nextest, &all, &env)?;
    process::run(
        &process::cargo(),
        &["test", "--quiet", "--workspace", "--doc"],
        &[],
    )?;
    explore(&nextest)
}

/// Has loom try every order in which threads can meet at the words that the
/// policies share without a lock. It is a build of its own: in it, atomics are
/// loom's, and nothing that needs a network exists.
fn explore(nextest: &Path) -> Result<()> {
    let target = process::target().join("loom");
    let env = [
        ("RUSTFLAGS", OsStr::new("--cfg loom")),
        ("CARGO_TARGET_DIR", target.as_os_str()),
    ];
    let args = [
        "nextest",
        "run",
        "--release",
        "--lib",
        "--package",
        "orchestrator-policies",
        "loom_tests",
    ];
    process::run(nextest, &args, &env)
}
