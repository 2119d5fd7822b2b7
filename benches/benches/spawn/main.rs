//! What does it cost to start a process that is confined, beside one that is not and one
//! that `bwrap` confines?

mod contenders;
mod measure;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
