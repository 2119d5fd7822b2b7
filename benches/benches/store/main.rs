//! How long does it take to list ten thousand installed packages?

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use orchestrator_benches::{Report, Target, in_turns, median, scratch};
use orchestrator_signing::{Digest, installed};
use serde_json::json;
use tokio::{process::Command, time::Instant};

const PACKAGES: usize = 10_000;
const ROUNDS: usize = 9;

type BenchError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    orchestrator_benches::main(run)
}

fn run() -> Result<(), BenchError> {
    let binary = binary()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let home = tempfile::tempdir_in(scratch()?)?;
    lay_out(&home.path().join("plugins"))?;
    let mut samples: [Vec<f64>; 2] = Default::default();
    // The first round fills the page cache and does not count.
    for round in 0..=ROUNDS {
        for contender in in_turns(round, samples.len()) {
            let start = Instant::now();
            match contender {
                0 => check(installed(&home.path().join("plugins"))?.len())?,
                _ => runtime.block_on(list(&binary, home.path()))?,
            }
            if round > 0 {
                samples[contender].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    report(&samples.map(|samples| median(&samples))).publish()?;
    Ok(())
}

/// Names, links and receipts as the store has them. Listing reads no more.
fn lay_out(plugins: &Path) -> Result<(), BenchError> {
    let store = plugins.join(".store");
    fs::create_dir_all(&store)?;
    for number in 0..PACKAGES {
        let name = format!("plugin-{number}");
        let tree = Digest::of(name.as_bytes());
        let content = store.join(format!("sha256-{tree}"));
        fs::create_dir(&content)?;
        let receipt = json!({
            "plugin": name,
            "version": "1.0.0",
            "statement": tree,
            "source": format!("https://example.org/{name}-1.0.0.opkg"),
            "installed_at": "2026-01-01T00:00:00Z",
        });
        fs::write(content.with_extension("json"), receipt.to_string())?;
        fs::create_dir(plugins.join(&name))?;
        let link = plugins.join(&name).join("1.0.0");
        symlink(format!("../.store/sha256-{tree}"), link)?;
    }
    Ok(())
}

async fn list(binary: &Path, home: &Path) -> Result<(), BenchError> {
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .arg("--home")
        .arg(home)
        .args(["plugin", "list", "--installed"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let limit = Duration::from_secs(60);
    let output = tokio::time::timeout(limit, command.output()).await??;
    // The heading is a line too.
    check(output.stdout.split(|byte| *byte == b'\n').count() - 2)
}

fn check(found: usize) -> Result<(), BenchError> {
    match found {
        PACKAGES => Ok(()),
        found => Err(format!("{found} of {PACKAGES} packages are listed").into()),
    }
}

/// The command that was built with this program's profile, else the other.
fn binary() -> Result<PathBuf, BenchError> {
    let program = env::current_exe()?;
    let own = program.ancestors().nth(2).unwrap_or(&program);
    let target = own.parent().unwrap_or(own);
    [own.to_owned(), target.join("release"), target.join("debug")]
        .iter()
        .map(|dir| dir.join("orchestrator"))
        .find(|path| path.is_file())
        .ok_or_else(|| "build the binary first: cargo build --release -p orchestrator-cli".into())
}

fn report([names, command]: &[f64; 2]) -> Report {
    let mut report = Report::new(
        "store",
        "How long it takes to list ten thousand installed packages.",
    );
    report.text(&format!(
        "{PACKAGES} names, links and receipts as an installation leaves them; {ROUNDS} rounds; \
         files are in the page cache. The command is `orchestrator plugin list --installed`, from \
         start to end."
    ));
    let millis = |value: f64| format!("{value:.1} ms");
    let rows = [
        ["names and digests".to_owned(), millis(*names)],
        ["the command, with sources".to_owned(), millis(*command)],
    ];
    report.table(["", "median"], &rows);
    report.target("the command", *command, " ms", Target::AtMost(1000.0));
    report
}
