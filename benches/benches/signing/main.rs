//! What does it cost to sign a package and to verify it, beside hashing its
//! bytes once and beside minisign?

mod measure;
mod package;
mod peer;

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
