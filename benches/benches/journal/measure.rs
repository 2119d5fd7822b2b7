//! The rounds, and what they say.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use orchestrator_benches::{Report, Spread, Target, cpu, in_turns, median, scratch, version_of};
use orchestrator_engine::journal::Digest;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    engine::Chains,
    file::Log,
    histories::{History, RESULT_BYTES, STEPS},
    ours::Ours,
};

const ROUNDS: usize = 5;
/// How long each contender is measured in a round.
const WINDOW: Duration = Duration::from_millis(700);
const RUNS: usize = 64;

pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

/// Who is measured, and with how many runs at a time.
const CONTENDERS: [(&str, usize); 6] = [
    ("journal (SQLite, `synchronous=FULL`)", RUNS),
    ("preallocated file, `fdatasync`", RUNS),
    ("journal, 1 run", 1),
    ("preallocated file, 1 run", 1),
    ("engine, steps that may be repeated", RUNS),
    ("engine, steps that must not be repeated", RUNS),
];

pub(crate) fn run() -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let dir = tempfile::tempdir_in(scratch()?)?;
    let (samples, bytes_a_run) = runtime.block_on(rounds(dir.path()))?;
    report(&samples, bytes_a_run).publish()?;
    Ok(())
}

struct Sample {
    steps_per_second: f64,
    /// Microseconds of processor time a step.
    cpu: f64,
    /// How long a step's records took to become durable.
    wait: Option<Spread>,
}

async fn rounds(dir: &Path) -> Result<([Vec<Sample>; 6], usize), BenchError> {
    let ours = Ours::open(&dir.join("journal")).await?;
    let log = Log::create(&dir.join("log"))?;
    let pieces: Arc<[Bytes]> = History::new(Digest::of(b"{}")).as_bytes()?.into();
    let repeatable = Chains::start(&dir.join("repeatable"), true).await?;
    let once = Chains::start(&dir.join("once"), false).await?;
    let contenders = [
        Contender::Ours(ours.clone()),
        Contender::File(log.clone(), pieces.clone()),
        Contender::Ours(ours.clone()),
        Contender::File(log, pieces.clone()),
        Contender::Engine(repeatable.clone()),
        Contender::Engine(once.clone()),
    ];
    let mut samples: [Vec<Sample>; 6] = Default::default();
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        for turn in in_turns(round, contenders.len()) {
            let sample = window(CONTENDERS[turn].1, &contenders[turn]).await?;
            if round > 0 {
                samples[turn].push(sample);
            }
        }
    }
    ours.check().await?;
    ours.close().await;
    repeatable.stop().await?;
    once.stop().await?;
    Ok((samples, pieces.iter().map(Bytes::len).sum()))
}

#[derive(Clone)]
enum Contender {
    Ours(Ours),
    File(Log, Arc<[Bytes]>),
    Engine(Chains),
}

impl Contender {
    /// One run. Returns how long each step's records took to become durable,
    /// where that can be seen.
    async fn run(&self) -> Result<Vec<Duration>, BenchError> {
        match self {
            Self::Ours(ours) => ours.run().await,
            Self::File(log, pieces) => file_run(log, pieces).await,
            Self::Engine(chains) => chains.run().await.map(|()| Vec::new()),
        }
    }
}

/// The same bytes and the same waits as [`Ours::run`].
async fn file_run(log: &Log, pieces: &[Bytes]) -> Result<Vec<Duration>, BenchError> {
    let mut waits = Vec::with_capacity(STEPS);
    for (at, piece) in pieces.iter().enumerate() {
        let begun = Instant::now();
        log.append(piece.clone()).await?;
        if (1..=STEPS).contains(&at) {
            waits.push(begun.elapsed());
        }
    }
    Ok(waits)
}

/// Keeps `runs` runs going for a while, each followed by the next one.
async fn window(runs: usize, contender: &Contender) -> Result<Sample, BenchError> {
    let (cpu_before, begun) = (cpu::process(), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..runs {
        let contender = contender.clone();
        tasks.spawn(async move {
            let (mut done, mut waits) = (0_usize, Vec::new());
            while begun.elapsed() < WINDOW {
                waits.extend(contender.run().await?);
                done += 1;
            }
            Ok::<_, BenchError>((done, waits))
        });
    }
    let (mut done, mut waits) = (0, Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (runs, more) = ended.map_err(io::Error::other)??;
        done += runs;
        waits.extend(more);
    }
    let (elapsed, cpu) = (begun.elapsed(), cpu::process().saturating_sub(cpu_before));
    let steps = (done * STEPS) as f64;
    Ok(Sample {
        steps_per_second: steps / elapsed.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / steps,
        wait: (!waits.is_empty()).then(|| Spread::of(&mut waits)),
    })
}

fn report(samples: &[Vec<Sample>; 6], bytes_a_run: usize) -> Report {
    let mut report = Report::new(
        "journal",
        "Steps a second that are durable before the next one starts: runs of 10 steps, each \
         created, 10 times started and completed, and finished.",
    );
    report.text(&format!(
        "The journal is SQLite through rusqlite {}, the engine's defaults; a step's `started` is \
         handed over, its `completed` with {RESULT_BYTES} bytes of output is waited for, as are \
         the run's first and last record. The file's writers wait equally often for the same \
         {bytes_a_run} bytes a run, which one thread writes in groups, without checksums, index \
         or fence. The engine's runs go through pipeline, policies and registry to a builtin \
         plugin; a step that must not be repeated waits for its `started` too. All on one disk, \
         below `target/`; tokio with two workers. {ROUNDS} rounds of {} ms.",
        version_of("rusqlite"),
        WINDOW.as_millis(),
    ));
    let middle = |contender: usize, number: &dyn Fn(&Sample) -> f64| {
        median(&samples[contender].iter().map(number).collect::<Vec<_>>())
    };
    let rate = |contender| middle(contender, &|sample| sample.steps_per_second);
    let rows: Vec<_> = (0..CONTENDERS.len())
        .map(|contender| {
            let (name, runs) = CONTENDERS[contender];
            let wait = |number: fn(Spread) -> f64| {
                middle(contender, &|sample| sample.wait.map_or(0.0, number))
            };
            let (p50, p99) = (wait(|spread| spread.p50), wait(|spread| spread.p99));
            let wait = match p50 > 0.0 {
                true => format!("{p50:.0} / {p99:.0} µs"),
                false => "–".to_owned(),
            };
            [
                name.to_owned(),
                runs.to_string(),
                format!("{:.0}", rate(contender)),
                wait,
                format!("{:.1} µs", middle(contender, &|sample| sample.cpu)),
            ]
        })
        .collect();
    report.table(
        [
            "",
            "runs at a time",
            "steps/s",
            "wait p50 / p99",
            "CPU a step",
        ],
        &rows,
    );
    let ratio = rate(0) / rate(1);
    report.target(
        "journal over file, 64 runs",
        ratio,
        "×",
        Target::AtLeast(0.15),
    );
    report.text(&format!(
        "Journal over file, 1 run: {:.2}×. Engine over file, 64 runs: {:.2}×.",
        rate(2) / rate(3),
        rate(4) / rate(1),
    ));
    report
}
