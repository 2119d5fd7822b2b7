//! The rounds, and what they say.

use std::{fs, path::Path, time::Duration};

use orchestrator_benches::{Report, Target, in_turns, median, packages::Publisher, scratch};
use tokio::time::sleep;

use crate::service::Binary;

const ROUNDS: usize = 9;
const PLUGINS: usize = 20;
/// The size of each plugin's program, about that of a stripped plugin in Rust.
const PROGRAM_BYTES: usize = 2 << 20;
/// How long the service is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);

pub(crate) type BenchError = Box<dyn std::error::Error>;

pub(crate) fn run() -> Result<(), BenchError> {
    let binary = Binary::find()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let dir = tempfile::tempdir_in(scratch()?)?;
    let (full, empty) = (dir.path().join("full"), dir.path().join("empty"));
    fs::create_dir_all(&empty)?;
    install(&full)?;
    let numbers = runtime.block_on(measure(&binary, &full, &empty))?;
    report(&binary, &numbers).publish()?;
    Ok(())
}

/// Signs and installs the plugins below `home`.
fn install(home: &Path) -> Result<(), BenchError> {
    let publisher = Publisher::trusted_in(&home.join("trust"))?;
    let program = home.join("program");
    // Never started: nothing calls them.
    let bytes: Vec<u8> = (0..PROGRAM_BYTES).map(|at| (at % 251) as u8).collect();
    fs::write(&program, bytes)?;
    for plugin in 0..PLUGINS {
        publisher.install(&home.join("plugins"), &format!("echo-{plugin}"), &program)?;
    }
    Ok(())
}

/// Milliseconds and bytes, medians.
struct Numbers {
    process: f64,
    empty: f64,
    full: f64,
    memory: f64,
}

async fn measure(binary: &Binary, full: &Path, empty: &Path) -> Result<Numbers, BenchError> {
    let mut samples: [Vec<f64>; 3] = Default::default();
    // The first round fills the page cache and does not count.
    for round in 0..=ROUNDS {
        for contender in in_turns(round, samples.len()) {
            let elapsed = match contender {
                0 => binary.version(full).await?,
                1 => started(binary, empty).await?,
                _ => started(binary, full).await?,
            };
            if round > 0 {
                samples[contender].push(elapsed.as_secs_f64() * 1e3);
            }
        }
    }
    let service = binary.serve(full).await?;
    check_plugins(&service.get("/metrics").await?)?;
    sleep(IDLE).await;
    let memory = service.memory()? as f64;
    service.stop().await?;
    let [process, empty, full] = samples.map(|samples| median(&samples));
    Ok(Numbers {
        process,
        empty,
        full,
        memory,
    })
}

async fn started(binary: &Binary, home: &Path) -> Result<Duration, BenchError> {
    let service = binary.serve(home).await?;
    let elapsed = service.started_in;
    service.stop().await?;
    Ok(elapsed)
}

/// All plugins must have been loaded, or the number says nothing.
fn check_plugins(metrics: &str) -> Result<(), BenchError> {
    let states = metrics.lines().filter(|line| {
        line.starts_with("orchestrator_plugin_state{plugin=\"echo-") && line.ends_with(" 1")
    });
    let (failed, loaded): (Vec<_>, Vec<_>) =
        states.partition(|line| line.contains("state=\"error\""));
    match failed.is_empty() && loaded.len() == PLUGINS {
        true => Ok(()),
        false => Err(format!("{} plugins loaded, {failed:?} failed", loaded.len()).into()),
    }
}

fn report(binary: &Binary, numbers: &Numbers) -> Report {
    let mut report = Report::new(
        "startup",
        "From the start of `orchestrator serve` to its first answer on `/readyz`, and its memory \
         when nothing happens.",
    );
    report.text(&format!(
        "The binary is the {} build. {PLUGINS} signed plugins of kind `node` are installed, each \
         with a program of {} MiB; all are verified and none is started, as by default. The floor \
         is `orchestrator version`, from start to end. {ROUNDS} rounds; files are in the page \
         cache. Memory is read after {} s.",
        binary.profile,
        PROGRAM_BYTES >> 20,
        IDLE.as_secs(),
    ));
    let millis = |value: f64| format!("{value:.1} ms");
    let rows = [
        ["`orchestrator version`".to_owned(), millis(numbers.process)],
        ["ready, no plugins".to_owned(), millis(numbers.empty)],
        [format!("ready, {PLUGINS} plugins"), millis(numbers.full)],
    ];
    report.table(["", "median"], &rows);
    let beyond = numbers.full - numbers.process;
    report.target(
        "ready beyond process start",
        beyond,
        " ms",
        Target::AtMost(300.0),
    );
    let mib = numbers.memory / f64::from(1 << 20);
    report.target("resident memory, idle", mib, " MiB", Target::AtMost(60.0));
    report
}
