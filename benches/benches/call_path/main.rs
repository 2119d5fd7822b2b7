//! What do the engine's policies, metrics and registry add to a call of a
//! builtin plugin?

mod measure;
mod plugin;

use std::{env, io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    // Anything but `cargo bench` only wants to know that it starts.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match measure::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
