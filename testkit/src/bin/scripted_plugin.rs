//! A plugin that does what its input says, for tests of the whole engine.
//!
//! | phase | does |
//! |---|---|
//! | `work` | sleeps `ms`, writes step and key to the file `log`, answers `{"n": n + 1}` |
//! | `once` | keeps a note of its result, which is its effect and which it can be asked for, then sleeps `ms` |
//! | `flaky` | sleeps `ms`, then fails for now in one of `of` attempts |
//! | `echo` | answers its input |
//! | `tally` | counts its calls, over reloads too; the one phase where the plugin's id begins with `tally` |
//! | `wait` | answers once the file `gate` is there, at most a minute later |

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use orchestrator_sdk::{
    Context, Error, Info, Input, Payload, PhaseReply, Plugin, Reconciled, Reply, Setup, serve,
};
use serde::{Deserialize, Serialize};

#[derive(Default)]
struct Scripted {
    /// Calls of `tally`.
    tally: AtomicU64,
}

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
        if id.starts_with("tally") {
            let version = std::env::var("ORCHESTRATOR_VERSION").unwrap_or_default();
            return Info::new(id, version, ["tally"]).keeps_state();
        }
        Info::new(id, "1.0.0", ["work", "once", "flaky", "echo", "wait"]).concurrent_calls(64)
    }

    async fn call(&self, phase: &str, input: Input, context: &Context) -> Result<Reply, Error> {
        if phase == "echo" {
            return Ok(Reply::new(input.into_payload()));
        }
        if phase == "tally" {
            let n = self.tally.fetch_add(1, Ordering::Relaxed) + 1;
            return Reply::json(&Count { n });
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

    async fn get_state(&self) -> Result<Vec<u8>, Error> {
        Ok(self.tally.load(Ordering::Relaxed).to_be_bytes().to_vec())
    }

    async fn restore_state(&self, state: &[u8], _: &str) -> Result<(), Error> {
        let tally = state.try_into().map_err(Error::permanent)?;
        let tally = u64::from_be_bytes(tally);
        self.tally.store(tally, Ordering::Relaxed);
        Ok(())
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
    serve(Scripted::default())
}
