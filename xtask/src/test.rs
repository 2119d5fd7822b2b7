//! Sets up what the tests need, then passes them all.

use std::ffi::OsStr;

use crate::{
    process::{self, Result},
    tools,
};

/// Runs every test of the workspace; `args` go to the test runner.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let nextest = tools::nextest()?;
    let promtool = tools::promtool()?;
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

    let env = [("ORCHESTRATOR_TEST_PROMTOOL", OsStr::new(&promtool))];
    let fixed = ["nextest", "run", "--workspace", "--no-fail-fast"];
    let all: Vec<&str> = fixed.iter().chain(args).copied().collect();
    process::run(&nextest, &all, &env)?;
    process::run(
        &process::cargo(),
        &["test", "--quiet", "--workspace", "--doc"],
        &[],
    )
}
