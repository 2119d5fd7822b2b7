//! What do the engine's policies, metrics and registry add to a call of a
//! builtin plugin?

mod measure;
mod plugin;

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_benches::main(measure::run)
}
