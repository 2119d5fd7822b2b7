//! The rounds, and what they say.

use std::{path::Path, process::ExitCode, time::Duration};

use bytes::Bytes;
use orchestrator_benches::{Report, Target, in_turns, median, scratch, version_of};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    grpc::GrpcCaller,
    load::{self, Caller, Sample},
    ours::NodeCaller,
};

const ROUNDS: usize = 15;
/// Calls a round by one caller; several make [`CALLS_MANY`] altogether.
const CALLS_ONE: usize = 1_000;
const CALLS_MANY: usize = 8_000;
const CALLERS: usize = 16;
const INPUT_BYTES: usize = 1024;
/// No measurement takes longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

const CONTENDERS: [&str; 2] = ["ours (`node`)", "tonic, Unix socket"];

pub(crate) fn run() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), String> {
    let one_thread = Builder::new_current_thread().enable_all().build();
    let workers = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let dir = scratch().and_then(tempfile::tempdir_in);
    let describe = |error: std::io::Error| error.to_string();
    let dir = dir.map_err(describe)?;
    let two_workers = compare(&workers.map_err(describe)?, &dir.path().join("two"))?;
    let one_thread = compare(&one_thread.map_err(describe)?, &dir.path().join("one"))?;

    let mut report = Report::new(
        "node",
        "A call with 1 KiB of JSON to another process and back: ours through the plugin runtime's \
         kind `node`, beside a unary gRPC call over a Unix socket.",
    );
    report.text(&format!(
        "The gRPC side is tonic {} with prost {} and one shared channel, messages of the same \
         fields as ours. Both other processes answer on tokio's current-thread runtime, which is \
         what the SDK uses; the calling process runs tokio {} as each table says. Processor time \
         is of both processes together. {ROUNDS} rounds of {CALLS_ONE} calls by one caller and \
         {CALLS_MANY} by {CALLERS}.",
        version_of("tonic"),
        version_of("prost"),
        version_of("tokio"),
    ));
    section(
        &mut report,
        "two worker threads, as the engine runs",
        &two_workers,
    );
    section(&mut report, "one thread", &one_thread);
    report.publish().map_err(describe)
}

/// The samples of one contender.
#[derive(Default)]
struct Samples {
    one: Vec<Sample>,
    many: Vec<Sample>,
}

impl Samples {
    fn one(&self, number: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.one.iter().map(number).collect::<Vec<_>>())
    }

    fn many(&self, number: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.many.iter().map(number).collect::<Vec<_>>())
    }
}

fn compare(runtime: &Runtime, dir: &Path) -> Result<[Samples; 2], String> {
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    // JSON that neither side looks into.
    let input = format!("\"{}\"", "x".repeat(INPUT_BYTES - 2));
    let input = Bytes::from(input);
    runtime.block_on(async {
        let ours = NodeCaller::start(dir).await?;
        let peer = GrpcCaller::start(dir).await?;
        let mut samples = [Samples::default(), Samples::default()];
        // The first round warms up and does not count.
        for round in 0..=ROUNDS {
            for contender in in_turns(round, samples.len()) {
                let (one, many) = match contender {
                    0 => both_loads(&ours, &input).await?,
                    _ => both_loads(&peer, &input).await?,
                };
                if round > 0 {
                    samples[contender].one.push(one);
                    samples[contender].many.push(many);
                }
            }
        }
        Ok(samples)
    })
}

async fn both_loads<C: Caller>(caller: &C, input: &Bytes) -> Result<(Sample, Sample), String> {
    let one = load::run(caller, input, 1, CALLS_ONE);
    let one = timeout(PATIENCE, one)
        .await
        .map_err(|_| "one caller took too long")??;
    let many = load::run(caller, input, CALLERS, CALLS_MANY);
    let many = timeout(PATIENCE, many)
        .await
        .map_err(|_| "many callers took too long")??;
    Ok((one, many))
}

fn section(report: &mut Report, runtime: &str, samples: &[Samples; 2]) {
    report.text(&format!("Calling process on {runtime}:"));
    let rows = [0, 1].map(|contender| {
        let of = &samples[contender];
        let (p50, p99) = (of.one(|s| s.latency.p50), of.one(|s| s.latency.p99));
        let micros = |of: f64, there: f64| format!("{of:.1} µs, {there:.1} there");
        [
            CONTENDERS[contender].to_owned(),
            format!("{:.0}", of.one(|s| s.calls_per_second)),
            format!("{p50:.0} / {p99:.0} µs"),
            micros(of.one(|s| s.cpu), of.one(|s| s.cpu_other)),
            format!("{:.0}", of.many(|s| s.calls_per_second)),
            micros(of.many(|s| s.cpu), of.many(|s| s.cpu_other)),
        ]
    });
    let head = [
        "",
        "calls/s, 1 caller",
        "p50 / p99",
        "CPU a call",
        "calls/s, 16 callers",
        "CPU a call",
    ];
    report.table(head, &rows);
    let [ours, peer] = samples;
    let one = |number: fn(&Sample) -> f64| ours.one(number) / peer.one(number);
    let many = |number: fn(&Sample) -> f64| ours.many(number) / peer.many(number);
    let cpu = Target::AtMost(0.6);
    report.target("CPU a call, 1 caller", one(|s| s.cpu), "×", cpu);
    report.target("CPU a call, 16 callers", many(|s| s.cpu), "×", cpu);
    let rate = many(|s| s.calls_per_second);
    report.target("calls/s, 16 callers", rate, "×", Target::AtLeast(1.5));
    let no_worse = Target::AtMost(1.0);
    report.target("p50, 1 caller", one(|s| s.latency.p50), "×", no_worse);
    report.target("p99, 1 caller", one(|s| s.latency.p99), "×", no_worse);
}
