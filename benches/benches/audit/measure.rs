//! The rounds, and what they say.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use orchestrator_benches::{Report, Target, cpu, in_turns, median, scratch};
use orchestrator_signing::audit::{
    AuditEvent, AuditLog, AuditSettings, Kind, Outcome, prove, verify,
};
use tokio::time::Instant;

const ROUNDS: usize = 5;
/// How long each contender is measured in a round.
const WINDOW: Duration = Duration::from_millis(700);
/// Threads that record, and how many records each hands over before it waits
/// for all of them.
const CALLERS: usize = 4;
const BATCH: usize = 4_096;
/// The log that is opened, proved and verified.
const LARGE: u64 = 1_000_000;
/// About the length of a record.
const LINE_BYTES: usize = 330;

pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

const CONTENDERS: [&str; 3] = [
    "audit log, tree and checkpoints",
    "audit log, each record waited for",
    "file, `fdatasync` a batch, no tree",
];

#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    /// Microseconds of processor time a record.
    cpu: f64,
}

pub(crate) fn run() -> Result<(), BenchError> {
    let dir = tempfile::tempdir_in(scratch()?)?;
    let mut samples: [Vec<Sample>; 3] = Default::default();
    let log = open(&dir.path().join("log"))?;
    let file = File::create_new(dir.path().join("file"))?;
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        for turn in in_turns(round, CONTENDERS.len()) {
            let sample = match turn {
                0 => measured(|| record(&log, BATCH))?,
                1 => measured(|| record(&log, 1))?,
                _ => measured(|| append(&file))?,
            };
            if round > 0 {
                samples[turn].push(sample);
            }
        }
    }
    drop(log);
    let large = large(&dir.path().join("large"))?;
    report(&samples, &large).publish()?;
    Ok(())
}

fn open(dir: &Path) -> Result<AuditLog, BenchError> {
    let settings = AuditSettings::new(|name| name.contains("token"));
    Ok(AuditLog::open(dir, settings, None, Box::new(|_| {}))?)
}

fn event() -> AuditEvent {
    let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied)
        .plugin("com.example.importer")
        .detail("capability network:access=api.example.com:443 not allowed")
        .with("phase", "import");
    event.version = Some("1.4.2".to_owned());
    event.capability = Some("network:access=api.example.com:443".to_owned());
    event.code = Some("ORC-2120".to_owned());
    event
}

fn measured(work: impl FnOnce() -> Result<u64, BenchError>) -> Result<Sample, BenchError> {
    let (cpu_before, begun) = (cpu::process(), Instant::now());
    #[expect(clippy::cast_precision_loss, reason = "far below what a float holds")]
    let many = work()? as f64;
    Ok(Sample {
        per_second: many / begun.elapsed().as_secs_f64(),
        cpu: (cpu::process() - cpu_before).as_secs_f64() * 1e6 / many,
    })
}

/// Keeps the callers recording for a while. Returns how many became durable.
fn record(log: &AuditLog, batch: usize) -> Result<u64, BenchError> {
    let begun = Instant::now();
    let caller = || {
        let mut many = 0;
        while begun.elapsed() < WINDOW {
            let receipts: Vec<_> = (0..batch).map(|_| log.record(event())).collect();
            for receipt in receipts {
                receipt.wait()?;
                many += 1;
            }
        }
        Ok::<u64, BenchError>(many)
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers
            .into_iter()
            .map(|caller| {
                caller
                    .join()
                    .unwrap_or_else(|_| Err("a caller panicked".into()))
            })
            .sum()
    })
}

/// The same bytes at the same granularity, made durable and no more.
fn append(file: &File) -> Result<u64, BenchError> {
    let lines = vec![b'x'; LINE_BYTES * BATCH];
    let begun = Instant::now();
    let (mut many, mut at) = (0, 0);
    while begun.elapsed() < WINDOW {
        file.write_all_at(&lines, at)?;
        file.sync_data()?;
        at += lines.len() as u64;
        many += BATCH as u64;
    }
    Ok(many)
}

/// What is done with a log of a million records.
struct Large {
    open: Duration,
    prove: Duration,
    verify: Duration,
    bytes: u64,
}

fn large(dir: &Path) -> Result<Large, BenchError> {
    let log = open(dir)?;
    let key = log.verifier().clone();
    let mut left = LARGE;
    while left > 0 {
        let many = left.min(8_192);
        let receipts: Vec<_> = (0..many).map(|_| log.record(event())).collect();
        for receipt in receipts {
            receipt.wait()?;
        }
        left -= many;
    }
    drop(log);
    let begun = Instant::now();
    let log = open(dir)?;
    let opened = begun.elapsed();
    drop(log);
    let begun = Instant::now();
    for seq in (0..LARGE).step_by(10_007) {
        prove(dir, &key, seq)?;
    }
    let proved = begun.elapsed() / u32::try_from(LARGE.div_ceil(10_007))?;
    let begun = Instant::now();
    let report = verify(dir, &key, None)?;
    let verified = begun.elapsed();
    if report.covered != LARGE {
        return Err(format!("{report:?}").into());
    }
    Ok(Large {
        open: opened,
        prove: proved,
        verify: verified,
        bytes: bytes(dir)?,
    })
}

fn bytes(dir: &Path) -> io::Result<u64> {
    let paths: io::Result<Vec<PathBuf>> = dir
        .read_dir()?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    paths?.iter().map(|path| Ok(path.metadata()?.len())).sum()
}

fn report(samples: &[Vec<Sample>; 3], large: &Large) -> Report {
    let mut report = Report::new(
        "audit",
        "What does it cost to record security events so that later changes show?",
    );
    report.text(&format!(
        "{CALLERS} threads record; each hands {BATCH} records over before it waits for all of \
         them to be durable, or waits for each. Every group of records is followed by a \
         checkpoint over at least 1,000. The file takes {BATCH} lines of {LINE_BYTES} bytes a \
         write. {ROUNDS} rounds of {} ms.",
        WINDOW.as_millis(),
    ));
    let middle = |contender: usize, number: fn(&Sample) -> f64| {
        median(&samples[contender].iter().map(number).collect::<Vec<_>>())
    };
    let rate = |contender| middle(contender, |sample| sample.per_second);
    let rows: Vec<_> = (0..CONTENDERS.len())
        .map(|contender| {
            [
                CONTENDERS[contender].to_owned(),
                format!("{:.0}", rate(contender)),
                format!("{:.2} µs", middle(contender, |sample| sample.cpu)),
            ]
        })
        .collect();
    report.table(["", "records/s", "CPU a record"], &rows);
    report.target(
        "records with group commit",
        rate(0),
        " a second",
        Target::AtLeast(100_000.0),
    );
    report.target(
        "opening a log of a million records",
        large.open.as_secs_f64() * 1e3,
        " ms",
        Target::AtMost(100.0),
    );
    report.text(&format!(
        "A log of a million records takes {} MiB. One record is found, proved and the proof \
         checked in {} µs; all of it is verified in {} ms.",
        large.bytes >> 20,
        large.prove.as_micros(),
        large.verify.as_millis(),
    ));
    report
}
