//! Sets up what the tests need, then passes them all.

use std::ffi::OsStr;

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
    )
}
