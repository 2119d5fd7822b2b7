//! The rounds, and what they say.

use std::{hint::black_box, time::Duration};

use orchestrator_benches::{Report, Target, cpu, in_turns, median, scratch};
use orchestrator_contract::{PhaseCall, PhaseReply};
use tokio::runtime::{Builder, Runtime};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::plugin::{self, AT_ONCE, ID, LATER};

const ROUNDS: usize = 41;
const CALLS: u32 = 2_000;
/// Calls whose allocations are counted.
const CALLS_COUNTED: u32 = 200;

pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

const CONTENDERS: [&str; 4] = [
    "the plugin, bare",
    "tower: timeout, concurrency limit, load shed",
    "registry alone",
    "the engine's whole stack",
];
const PHASES: [&str; 2] = [AT_ONCE, LATER];

pub(crate) fn run() -> Result<(), BenchError> {
    let background = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let dir = tempfile::tempdir_in(scratch()?)?;
    let engine = background.block_on(plugin::engine(dir.path()))?;

    // Calls are made on a runtime of this thread, whose clock is read.
    let here = Builder::new_current_thread().enable_all().build()?;
    let mut numbers = Vec::new();
    for phase in PHASES {
        let call = plugin::call(phase);
        let bare = service_fn(plugin::answer);
        let tower = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(64)
            .timeout(Duration::from_secs(60))
            .service(bare);
        let (whole, registry) = orchestrator_engine::bench::phase(&engine, ID, phase);
        let sample = |contender: usize, calls: u32| match contender {
            0 => repeat(&here, &bare, &call, calls),
            1 => repeat(&here, &tower, &call, calls),
            2 => repeat(&here, &registry, &call, calls),
            _ => repeat(&here, &whole, &call, calls),
        };
        numbers.push(measure(sample)?);
    }
    report(&numbers).publish()?;
    background.block_on(engine.drain(Duration::from_secs(5)))?;
    Ok(())
}

/// What a call costs, one number a contender.
struct Numbers {
    nanos: [f64; CONTENDERS.len()],
    allocations: [f64; CONTENDERS.len()],
    bytes: [f64; CONTENDERS.len()],
}

fn measure(sample: impl Fn(usize, u32) -> Result<f64, BenchError>) -> Result<Numbers, BenchError> {
    let mut samples: [Vec<f64>; CONTENDERS.len()] = Default::default();
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        for contender in in_turns(round, CONTENDERS.len()) {
            let nanos = sample(contender, CALLS)?;
            if round > 0 {
                samples[contender].push(nanos);
            }
        }
    }
    let mut numbers = Numbers {
        nanos: samples.map(|samples| median(&samples)),
        allocations: [0.0; CONTENDERS.len()],
        bytes: [0.0; CONTENDERS.len()],
    };
    for contender in 0..CONTENDERS.len() {
        let mut outcome = Ok(0.0);
        let counted = allocation_counter::measure(|| outcome = sample(contender, CALLS_COUNTED));
        outcome?;
        let a_call = |count: u64| (count as f64 / f64::from(CALLS_COUNTED)).round();
        numbers.allocations[contender] = a_call(counted.count_total);
        numbers.bytes[contender] = a_call(counted.bytes_total);
    }
    Ok(numbers)
}

/// Makes `calls` calls, one after the other, and returns the nanoseconds of
/// processor time of one. The service is cloned for each, as the engine does.
fn repeat<S, E>(
    runtime: &Runtime,
    service: &S,
    call: &PhaseCall,
    calls: u32,
) -> Result<f64, BenchError>
where
    S: Service<PhaseCall, Response = PhaseReply, Error = E> + Clone,
    E: Into<BoxError>,
{
    let calling = async {
        let before = cpu::thread();
        for _ in 0..calls {
            let answer = service.clone().oneshot(black_box(call.clone()));
            black_box(answer.await.map_err(Into::into)?);
        }
        Ok((cpu::thread() - before).as_nanos() as f64 / f64::from(calls))
    };
    // The cooperative budget would add a turn through the scheduler now and then.
    runtime.block_on(tokio::task::unconstrained(calling))
}

fn report(numbers: &[Numbers]) -> Report {
    let mut report = Report::new(
        "call_path",
        "What a call of a builtin plugin costs, bare and through the engine.",
    );
    report.text(&format!(
        "Processor time of one thread, `CLOCK_THREAD_CPUTIME_ID`; {ROUNDS} rounds of {CALLS} \
         calls with 1 KiB of JSON, made one after the other on a current-thread runtime. Every \
         policy has its default. A phase answers within its first poll, or gives way once and \
         then answers, for which timers are really set. Allocations are counted by the \
         allocator.",
    ));
    for (phase, numbers) in PHASES.iter().zip(numbers) {
        report.text(&format!("Phase `{phase}`:"));
        let rows: Vec<_> = (0..CONTENDERS.len())
            .map(|contender| {
                let nanos = numbers.nanos[contender];
                [
                    CONTENDERS[contender].to_owned(),
                    format!("{nanos:.0} ns"),
                    format!("{:+.0} ns", nanos - numbers.nanos[0]),
                    format!("{}", numbers.allocations[contender]),
                    format!("{} B", numbers.bytes[contender]),
                ]
            })
            .collect();
        report.table(
            ["", "a call", "over bare", "allocations", "allocated"],
            &rows,
        );
        let added = (numbers.nanos[3] - numbers.nanos[0]) / 1_000.0;
        let limit = Target::AtMost(1.5);
        report.target(
            &format!("whole stack over bare, `{phase}`"),
            added,
            " µs",
            limit,
        );
    }
    report
}
