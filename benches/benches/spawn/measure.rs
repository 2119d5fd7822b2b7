//! The rounds, and what they say.

use std::{fs, hint::black_box, io, time::Duration};

use orchestrator_benches::{Report, Spread, Target, cpu, in_turns, scratch};
use orchestrator_sandbox::Layers;
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};

use crate::contenders::{Contender, STAIRS};

const ROUNDS: usize = 24;
/// Starts by one contender before the next has its turn.
const STARTS: usize = 20;
/// What the host holds in memory the second time.
const BALLAST_BYTES: usize = 1 << 30;
/// Of the kernel's counters in `/proc/<pid>/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) type BenchError = Box<dyn std::error::Error>;

pub(crate) fn run() -> Result<(), BenchError> {
    let readable = tempfile::tempdir_in(scratch()?)?;
    let readable = readable.path();
    let mut contenders = vec![
        Contender::bare(),
        Contender::ours("ours, no layer", None, readable)?,
    ];
    for (name, layers) in STAIRS {
        contenders.push(Contender::ours(name, Some(layers), readable)?);
    }
    let peers = Contender::bwrap(readable);
    let has_bwrap = peers.is_some();
    contenders.extend(peers);
    let runtime = Builder::new_current_thread().build()?;
    let small = measure(&contenders, &runtime)?;
    let ballast = vec![1_u8; BALLAST_BYTES];
    let large = measure(&contenders, &runtime)?;
    drop(black_box(ballast));
    report(&contenders, &small, &large, has_bwrap).publish()?;
    Ok(())
}

/// What one contender's starts took.
struct Numbers {
    wall: Spread,
    /// Seconds of processor time a start.
    cpu: f64,
}

#[derive(Default)]
struct Samples {
    wall: Vec<Duration>,
    cpu: f64,
}

fn measure(contenders: &[Contender], runtime: &Runtime) -> Result<Vec<Numbers>, BenchError> {
    let mut samples: Vec<Samples> = contenders.iter().map(|_| Samples::default()).collect();
    // The first round does not count.
    for round in 0..=ROUNDS {
        for turn in in_turns(round, contenders.len()) {
            let before = used()?;
            let mut wall = Vec::with_capacity(STARTS);
            let mut told = Duration::ZERO;
            for _ in 0..STARTS {
                let begun = Instant::now();
                told += contenders[turn].start(runtime)?;
                wall.push(begun.elapsed());
            }
            if round > 0 {
                samples[turn].cpu += used()? - before + told.as_secs_f64();
                samples[turn].wall.extend(wall);
            }
        }
    }
    let numbers = samples.into_iter().map(|mut samples| Numbers {
        cpu: samples.cpu / samples.wall.len() as f64,
        wall: Spread::of(&mut samples.wall),
    });
    Ok(numbers.collect())
}

/// Processor time of this process, of the children that it has waited for, and of the
/// keeper of ours, in seconds.
fn used() -> io::Result<f64> {
    let keeper = match keeper()? {
        Some(keeper) => cpu::of(keeper)?.as_secs_f64(),
        None => 0.0,
    };
    Ok(cpu::process().as_secs_f64() + children()? + keeper)
}

/// Counted by the kernel in nanoseconds and told in ticks: over many starts that is
/// enough.
fn children() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_ascii_whitespace().skip(13).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn keeper() -> io::Result<Option<u32>> {
    for task in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_ascii_whitespace() {
            let name = fs::read_to_string(format!("/proc/{child}/comm"));
            if name.is_ok_and(|name| name.trim() == "orch-keeper") {
                return Ok(child.parse().ok());
            }
        }
    }
    Ok(None)
}

fn report(
    contenders: &[Contender],
    small: &[Numbers],
    large: &[Numbers],
    has_bwrap: bool,
) -> Report {
    let mut report = Report::new(
        "spawn",
        "From the wish to run a program to its end, which comes at once: bare, confined by us, \
         and confined by `bwrap`.",
    );
    report.text(&format!(
        "The program is `true`. Bare is `std::process::Command`, which takes `posix_spawn`. Ours \
         go through the spawner's thread and the keeper, with limits of memory, files and \
         processes; granted are the libraries of the system, five devices, its own `/proc` and a \
         directory to read, and `bwrap --unshare-all` is told to show the same (it has no \
         landlock, no filter and no limits). {ROUNDS} rounds of {STARTS} starts each, in turns; \
         then the same with {} MiB resident in the host. Processor time is of everybody who has \
         a part in a start.",
        BALLAST_BYTES >> 20,
    ));
    let bare = &small[0].wall;
    let bare_cpu = small[0].cpu;
    let rows: Vec<_> = contenders
        .iter()
        .zip(small.iter().zip(large))
        .map(|(contender, (small, large))| {
            let Spread { p50, p99 } = small.wall;
            [
                contender.name.clone(),
                format!("{p50:.0} / {p99:.0} µs"),
                format!("{:.2}×", p50 / bare.p50),
                format!("{:.0} µs, {:.2}×", small.cpu * 1e6, small.cpu / bare_cpu),
                format!("{:.0} µs", large.wall.p50),
            ]
        })
        .collect();
    report.table(
        ["", "p50 / p99", "over bare", "CPU", "p50, large host"],
        &rows,
    );
    let of = |name: &str| contenders.iter().position(|it| it.name == name);
    let place = |layers: Layers| {
        let step = STAIRS.iter().find(|(_, step)| *step == layers);
        step.and_then(|(name, _)| of(name)).unwrap_or_default()
    };
    let (filters, every) = (place(Layers::FILTERS), place(Layers::ALL));
    let p50 = |numbers: &[Numbers], place: usize| numbers[place].wall.p50;
    let filtered = p50(small, filters) / bare.p50;
    report.target(
        "landlock, filter and limits over bare",
        filtered,
        "×",
        Target::AtMost(1.4),
    );
    let whole = p50(small, every) / bare.p50;
    report.target("every layer over bare", whole, "×", Target::AtMost(3.2));
    if has_bwrap {
        let peer = p50(small, contenders.len() - 1) / p50(small, every);
        report.target("bwrap over every layer", peer, "×", Target::AtLeast(2.4));
    } else {
        report.text("There was no `bwrap` to compare with: `cargo xtask peers` gets one.");
    }
    for (name, place) in [
        ("landlock, filter and limits", filters),
        ("every layer", every),
    ] {
        let growth = p50(large, place) / p50(small, place);
        let what = format!("{name}, large host over small");
        report.target(&what, growth, "×", Target::AtMost(1.3));
    }
    report
}
