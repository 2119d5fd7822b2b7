//! A plugin that does what its input says, for tests of the whole engine.
//!
//! | phase | does |
//! |---|---|
//! | `work` | sleeps `ms`, writes step and key to the file `log`, answers `{"n": n + 1}` |
//! | `once` | keeps a note of its result, which is its effect and which it can be asked for, then sleeps `ms` |
//! | `flaky` | sleeps `ms`, then fails for now in one of `of` attempts |
//! | `echo` | answers its input |
//! | `wait` | answers once the file `gate` is there, at most a minute later |

use std::{fs, io::Write as _, path::Path, time::Duration};

use orchestrator_sdk::{
    Context, Error, Info, Input, Payload, PhaseReply, Plugin, Reconciled, Reply, Setup, serve,
};
use serde::{Deserialize, Serialize};

struct Scripted;

#[derive(Deserialize)]
struct Work {
    #[serde(default)]
    n: u64,
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    log: String,
    #[serde(default)]
    of: u64,
    #[serde(default)]
    gate: String,
}

/// How often `wait` looks for its file.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks before it gives up.
const LOOKS_MAX: u32 = 3_000;

#[derive(Deserialize, Serialize)]
struct Count {
    n: u64,
}

/// Where `once` keeps what became of its calls.
#[derive(Deserialize)]
struct Config {
    notes: String,
}

impl Plugin for Scripted {
    fn info(&self) -> Info {
        let id = std::env::var("ORCHESTRATOR_PLUGIN").unwrap_or_else(|_| "scripted".to_owned());
        Info::new(id, "1.0.0", ["work", "once", "flaky", "echo", "wait"]).concurrent_calls(64)
    }

    async fn call(&self, phase: &str, input: Input, context: &Context) -> Result<Reply, Error> {
        if phase == "echo" {
            return Ok(Reply::new(input.into_payload()));
        }
        let work: Work = input.json()?;
        let count = Count { n: work.n + 1 };
        let line = format!("{} {phase} {}\n", context.step(), context.idempotency_key());
        if phase == "once" {
            keep_note(context, &count)?;
            append(&work.log, &line)?;
        }
        if phase == "wait" {
            opened(Path::new(&work.gate)).await?;
        }
        tokio::time::sleep(Duration::from_millis(work.ms)).await;
        if phase == "flaky" && unlucky(context.idempotency_key(), context.attempt(), work.of) {
            return Err(Error::transient("scripted failure"));
        }
        if phase == "work" {
            append(&work.log, &line)?;
        }
        Reply::json(&count)
    }

    async fn reconcile(&self, _: &str, key: &str, setup: &Setup) -> Reconciled {
        let Ok(config) = setup.config::<Config>() else {
            return Reconciled::Unknown;
        };
        let note = Path::new(&config.notes).join(key);
        if let Ok(text) = fs::read(&note) {
            return Reconciled::Done(PhaseReply::new(Payload::from_json_bytes(text)));
        }
        // The effect of `once` is its note, so no note means no effect. A line
        // for each such answer, so that a test can count them.
        let answers = note.with_extension("not_done");
        match append(&answers.to_string_lossy(), "not_done\n") {
            Ok(()) => Reconciled::NotDone,
            Err(_) => Reconciled::Unknown,
        }
    }
}

/// The effect of `once`: a note of the result, whole or not there at all.
fn keep_note(context: &Context, count: &Count) -> Result<(), Error> {
    let config: Config = context.config()?;
    let note = Path::new(&config.notes).join(context.idempotency_key());
    let draft = note.with_extension("draft");
    let text = serde_json::to_vec(count).map_err(Error::permanent)?;
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &note))
        .map_err(Error::permanent)
}

/// Waits until the file is there.
async fn opened(gate: &Path) -> Result<(), Error> {
    for _ in 0..LOOKS_MAX {
        if gate.exists() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::permanent("nobody opened the gate"))
}

/// One line, in one write, so that lines of several processes do not mix.
fn append(path: &str, line: &str) -> Result<(), Error> {
    if path.is_empty() {
        return Ok(());
    }
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(Error::permanent)
}

/// One call in `of`, chosen by key and attempt, so that a run repeats exactly.
fn unlucky(key: &str, attempt: u32, of: u64) -> bool {
    let sum = key.bytes().fold(u64::from(attempt), |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    of > 0 && sum % of == 0
}

fn main() -> std::process::ExitCode {
    serve(Scripted)
}
