//! What does it cost to make every step of 64 runs durable: in our journal, in
//! a bare file, and by the whole engine?

mod engine;
mod file;
mod histories;
mod measure;
mod ours;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
