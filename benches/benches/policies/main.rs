//! What do the policies cost, beside the same policies by others, and what do
//! they do when it matters?
//!
//! `-- stack` shows that part alone and leaves `results.md` as it is; so do
//! the names of the other parts.

mod contender;
mod costs;
mod counts;
mod measure;
mod ours;
mod peers;
mod recovery;
mod small;
mod stack;

use std::{env, io::Write as _, process::ExitCode};

use orchestrator_benches::{Goal, Report, version_of};

use crate::contender::Pair;

pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

/// What measures a part of it, writes that down, and says where the numbers
/// should be.
type Part = fn(&mut Report) -> Result<Vec<Goal>, BenchError>;

const PARTS: [(&str, Part); 5] = [
    ("stack", stack::run),
    ("single", stack::run_single),
    ("small", small::run),
    ("counts", counts::run),
    ("recovery", recovery::run),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        [costs::COUNT, name, calls] => count(name, calls),
        // Anything but `cargo bench` only wants to know that it starts.
        _ if !words.contains(&"--bench") => Ok(()),
        _ => run(&words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), BenchError> {
    let named: Vec<_> = PARTS
        .iter()
        .filter(|(name, _)| words.contains(name))
        .collect();
    let all = named.is_empty();
    let parts = if all { PARTS.iter().collect() } else { named };
    let mut report = introduction();
    let mut goals = Vec::new();
    for (_, part) in parts {
        goals.extend(part(&mut report)?);
    }
    if !goals.is_empty() {
        report.text(
            "Where that should be. The targets in nanoseconds were set on a machine on which the \
             composition by hand costs 149 ns over bare, and failsafe's refusal, which does not say \
             when to come back, 29 ns; the tables show what those cost here.",
        );
        report.targets(&goals);
    }
    match all {
        true => report.publish()?,
        false => report.print()?,
    }
    Ok(())
}

/// Makes calls for whoever counts their instructions.
fn count(name: &str, calls: &str) -> Result<(), BenchError> {
    let pairs: Vec<Pair> = [stack::pairs()?, stack::single_pairs()?, small::pairs()?]
        .into_iter()
        .flatten()
        .collect();
    let pair = pairs.iter().find(|pair| pair.name == name);
    let pair = pair.ok_or("there is no contender of that name")?;
    costs::count(&pair.at_once, calls.parse()?);
    Ok(())
}

fn introduction() -> Report {
    let mut report = Report::new(
        "policies",
        "What a call through every policy costs, beside the same policies by others, and what \
         the policies do when it matters.",
    );
    let versions: Vec<_> = ["tower-resilience", "failsafe", "governor", "tokio", "tower"]
        .map(|package| format!("{package} {}", version_of(package)))
        .into();
    report.text(&format!(
        "Peers are {}. {}",
        versions.join(", "),
        costs::METHOD
    ));
    report
}
