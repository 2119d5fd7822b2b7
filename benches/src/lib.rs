//! What the benches share: samples taken in turns, processor clocks, and the
//! report.
//!
//! A bench measures ours and its peers in one run on one machine, in turns, so
//! that whatever else the machine does falls on all of them alike; what it
//! reports are medians over the rounds. Nothing here decides whether a number
//! is good: a missed target is written down, it does not fail.
//!
//! Start with [`Report`], then `benches/`, one program a question. Results are
//! in `results.md`, a section a program, written by the programs themselves.

pub mod cpu;
pub mod figure;
pub mod instructions;
mod machine;
pub mod packages;
pub mod policies;
pub mod recovery;
mod report;
mod samples;

use std::{
    env,
    fmt::Display,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub use machine::version_of;
pub use report::{Goal, Report, Target};
pub use samples::{Spread, in_turns, median};

/// Runs a bench, and says why if it fails. Anything but `cargo bench` only wants to
/// know that it starts.
pub fn main<E: Display>(run: impl FnOnce() -> Result<(), E>) -> ExitCode {
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// A new directory below the workspace's `target`, so that everything that is
/// measured on disk is measured on the same disk.
///
/// # Errors
///
/// When `target` cannot be written to.
pub fn scratch() -> std::io::Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/benches");
    std::fs::create_dir_all(&target)?;
    target.canonicalize()
}
