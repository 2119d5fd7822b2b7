//! Sorts commits into the sections of release notes.
//!
//! Start with `message.rs`, which reads one commit's message, then `notes.rs`,
//! which puts many together.

mod history;
mod message;
mod notes;
mod section;

use std::process::ExitCode;

use orchestrator_sdk::{Context, Error, Info, Input, Plugin, Reply, serve};

use history::History;
use notes::Notes;

/// After this many commits other calls have their turn.
const TURN: usize = 500;

struct CommitClassifier;

impl Plugin for CommitClassifier {
    fn info(&self) -> Info {
        Info::new("commit-classifier", env!("CARGO_PKG_VERSION"), ["classify"])
    }

    async fn call(&self, _: &str, input: Input, context: &Context) -> Result<Reply, Error> {
        let history: History = input.json()?;
        let mut notes = Notes::new(&history);
        let total = history.commits.len();
        for (done, commits) in history.commits.chunks(TURN).enumerate() {
            for commit in commits {
                notes.add(commit);
            }
            let done = done * TURN + commits.len();
            let percent = u8::try_from(done * 100 / total).unwrap_or(100);
            context.progress(percent, format_args!("{done} of {total} commits"));
            tokio::task::yield_now().await;
            if context.is_cancelled() {
                return Err(Error::transient("cancelled"));
            }
        }
        Reply::json(&notes.finish())
    }
}

fn main() -> ExitCode {
    serve(CommitClassifier)
}
