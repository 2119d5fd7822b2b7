//! How long does `orchestrator serve` take until it is ready, and what does it
//! hold when nothing happens?

mod measure;
mod service;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
