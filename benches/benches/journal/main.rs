//! What does it cost to make every step of 64 runs durable: in our journal, in
//! a bare file, and by the whole engine?

mod engine;
mod file;
mod histories;
mod measure;
mod ours;

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
