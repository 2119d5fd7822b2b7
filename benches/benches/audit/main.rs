//! What does it cost to record security events so that later changes show, and
//! to open, prove and verify a log of a million records?

mod measure;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
