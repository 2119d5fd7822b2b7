//! How long does `orchestrator serve` take until it is ready, and what does it
//! hold when nothing happens?

mod measure;
mod service;

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
