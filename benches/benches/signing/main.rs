//! What does it cost to sign a package and to verify it, beside hashing its
//! bytes once and beside minisign?

mod measure;
mod package;
mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
