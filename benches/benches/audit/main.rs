//! What does it cost to record security events so that later changes show, and
//! to open, prove and verify a log of a million records?

mod measure;

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
