//! What confinement adds to the start of a process, on this machine:
//! `cargo run --release -p orchestrator-sandbox --example spawn_cost`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a measurement that prints, beside how others start a process"
)]

use std::{
    error::Error,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use orchestrator_sandbox::{Confinement, Grants, Image, Layer, Layers, Spec, spawn};
use rustix::event::{PollFd, PollFlags, poll};

const ROUNDS: usize = 40;
const RUNS: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let image = Image::interpreter(Path::new("/bin/true"))?;
    let grants = Grants::new();
    let confined = |layers| Confinement::new(&grants, layers, layers);
    let kinds = [
        ("landlock, filter", Some(confined(Layers::FILTERS)?)),
        (
            "all but network and root",
            Some(confined(Layers::FILTERS.with(Layer::Processes))?),
        ),
        (
            "all but network",
            Some(confined(Layers::ALL.without(Layer::Network))?),
        ),
        ("all", Some(confined(Layers::ALL)?)),
        ("none, by the sandbox", None),
    ];
    let mut bare = Vec::new();
    let mut ours = kinds.each_ref().map(|_| Vec::new());
    for memory in [0, 1 << 30] {
        let ballast = vec![1_u8; memory];
        // In turns, so that a busy machine is as busy for all of them.
        for _ in 0..RUNS {
            bare.extend(rounds(with_standard_library)?);
            for ((_, confinement), times) in kinds.iter().zip(&mut ours) {
                times.extend(rounds(|| with_sandbox(&image, confinement.as_ref()))?);
            }
        }
        let reference = median(&mut bare);
        println!("{} MiB in the host", ballast.len() >> 20);
        println!("{:>26} {reference:?}", "std::process::Command");
        for ((name, _), times) in kinds.iter().zip(&mut ours) {
            let time = median(times);
            let ratio = time.as_secs_f64() / reference.as_secs_f64();
            println!("{name:>26} {time:?} {ratio:.2}");
            times.clear();
        }
        bare.clear();
    }
    Ok(())
}

fn rounds(start: impl Fn() -> Result<(), Box<dyn Error>>) -> Result<Vec<Duration>, Box<dyn Error>> {
    (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            start()?;
            Ok(begin.elapsed())
        })
        .collect()
}

fn with_standard_library() -> Result<(), Box<dyn Error>> {
    Command::new("/bin/true").env_clear().status()?;
    Ok(())
}

fn with_sandbox(image: &Image, confinement: Option<&Confinement>) -> Result<(), Box<dyn Error>> {
    let spec = Spec::new(image, "true");
    let spec = match confinement {
        Some(confinement) => spec.confinement(confinement),
        None => spec,
    };
    let child = spawn(spec).wait()?;
    poll(&mut [PollFd::new(&child, PollFlags::IN)], None)?;
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
