//! How a call's cost is found.
//!
//! One thread: its processor time around many calls, in turns with the others.
//!
//! Two threads: short slices on shared state, begun together by a spin barrier.
//! Only slices count in which neither thread waited for a processor, so that
//! what is seen is the two getting into each other's way, and nobody else.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use orchestrator_benches::{cpu::Queued, in_turns, median};
use tokio::time::Instant;

use crate::contender::{Contender, Elapsed, Worker};

/// Rounds that one thread's median is of.
const ROUNDS_ALONE: usize = 31;
/// About how long a sample of one thread takes.
const SAMPLE: Duration = Duration::from_millis(3);
/// Rounds of two threads, until each has enough slices.
const ROUNDS_TOGETHER: usize = 40;
/// Slices in each.
const SLICES: u64 = 200;
/// About how long a slice takes. Short, so that most of them are over before
/// the scheduler looks at the thread again.
const SLICE: Duration = Duration::from_micros(40);
/// Slices that are enough, and those without which there is no number.
const SLICES_ENOUGH: usize = 600;
const SLICES_LEAST: usize = 100;
/// Calls that warm a worker up.
const WARM_UP: u64 = 500;

/// Nanoseconds of processor time a call by one thread, a median for each.
pub(crate) fn alone(contenders: &[&Contender]) -> Vec<f64> {
    let mut samples = vec![Vec::new(); contenders.len()];
    for round in 0..ROUNDS_ALONE {
        for turn in in_turns(round, contenders.len()) {
            // Where things lie in memory matters to the shortest calls; so they
            // lie elsewhere each time.
            let _elsewhere = vec![0_u8; 4_096 + 272 * round];
            let mut worker = contenders[turn].worker();
            let calls = calls_in(SAMPLE, &mut worker);
            samples[turn].push(nanos_a_call(worker(calls).cpu, calls));
        }
    }
    samples.iter().map(|samples| median(samples)).collect()
}

/// What two threads at once found out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together {
    /// Nanoseconds of wall time a call.
    pub(crate) nanos: f64,
    /// Whether the threads put each other to sleep, more often than not.
    pub(crate) asleep: bool,
}

/// Nanoseconds a call while another thread makes the same calls, a median of
/// the clean slices for each; none where nothing is shared, or the machine had
/// too much else to do.
pub(crate) fn together(contenders: &[&Contender]) -> io::Result<Vec<Option<Together>>> {
    let mut slices = vec![Vec::new(); contenders.len()];
    for round in 0..ROUNDS_TOGETHER {
        for turn in in_turns(round, contenders.len()) {
            if contenders[turn].shared && slices[turn].len() < SLICES_ENOUGH {
                slices[turn].extend(clean_slices(contenders[turn])?);
            }
        }
    }
    Ok(slices.iter().map(|slices| summary(slices)).collect())
}

fn summary(slices: &[Timed]) -> Option<Together> {
    let nanos: Vec<_> = slices.iter().map(|slice| slice.nanos).collect();
    let asleep = slices.iter().filter(|slice| slice.asleep).count();
    (slices.len() >= SLICES_LEAST).then(|| Together {
        nanos: median(&nanos),
        asleep: 2 * asleep > slices.len(),
    })
}

/// A slice of both threads.
#[derive(Clone, Copy, Debug)]
struct Timed {
    /// Wall time a call.
    nanos: f64,
    /// Whether one of them did not run all the time.
    asleep: bool,
}

/// The slices in which nobody else got into the threads' way.
fn clean_slices(contender: &Contender) -> io::Result<Vec<Timed>> {
    let calls = calls_in(SLICE, &mut contender.worker());
    let barrier = Barrier::default();
    let origin = Instant::now();
    let [here, there] = std::thread::scope(|scope| {
        let threads = [0, 1].map(|me| {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut worker = contender.worker();
                worker(WARM_UP);
                slices(&mut worker, calls, &barrier.of(me), origin)
            })
        });
        threads.map(|thread| thread.join().expect("a worker panicked"))
    });
    let pairs = here?.into_iter().zip(there?);
    let clean = pairs.filter(|(here, there)| {
        !here.disturbed && !there.disturbed && here.begin.abs_diff(there.begin) < AT_ONCE
    });
    let timed = clean.map(|(here, there)| Timed {
        nanos: nanos_a_call((here.elapsed.wall + there.elapsed.wall) / 2, calls),
        asleep: here.is_asleep() || there.is_asleep(),
    });
    Ok(timed.collect())
}

/// What begins within this begins together.
const AT_ONCE: Duration = Duration::from_micros(3);

fn slices(
    worker: &mut Worker,
    calls: u64,
    arrival: &Arrival<'_>,
    origin: Instant,
) -> io::Result<Vec<Slice>> {
    let queued = Queued::here()?;
    let mut slices = Vec::with_capacity(SLICES as usize);
    for round in 1..=SLICES {
        let before = queued.until_now()?;
        arrival.wait(round);
        let (begin, elapsed) = (origin.elapsed(), worker(calls));
        let waited = queued.until_now()? - before;
        let slice = Slice {
            begin,
            elapsed,
            disturbed: waited > elapsed.wall / 50,
        };
        slices.push(slice);
    }
    Ok(slices)
}

/// A slice of one thread.
#[derive(Clone, Copy, Debug)]
struct Slice {
    begin: Duration,
    elapsed: Elapsed,
    /// Whether it had to wait for a processor.
    disturbed: bool,
}

impl Slice {
    /// Whether it did not run all the time.
    fn is_asleep(self) -> bool {
        self.elapsed.wall > self.elapsed.cpu.mul_f64(1.1) + Duration::from_micros(2)
    }
}

/// Holds two threads until both are there.
#[derive(Default)]
struct Barrier([AtomicU64; 2]);

/// One thread's side of it. Once dropped it holds nobody any more.
struct Arrival<'a> {
    own: &'a AtomicU64,
    other: &'a AtomicU64,
}

impl Barrier {
    fn of(&self, me: usize) -> Arrival<'_> {
        Arrival {
            own: &self.0[me],
            other: &self.0[1 - me],
        }
    }
}

impl Arrival<'_> {
    fn wait(&self, round: u64) {
        self.own.store(round, Ordering::SeqCst);
        while self.other.load(Ordering::SeqCst) < round {
            std::hint::spin_loop();
        }
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.own.store(u64::MAX, Ordering::SeqCst);
    }
}

/// Allocations a call, once everything is warm.
pub(crate) fn allocations(contender: &Contender) -> f64 {
    let mut worker = contender.worker();
    worker(WARM_UP);
    let counted = allocation_counter::measure(|| {
        worker(WARM_UP);
    });
    counted.count_total as f64 / WARM_UP as f64
}

/// How many calls take about `time`, after a warm-up.
fn calls_in(time: Duration, worker: &mut Worker) -> u64 {
    worker(WARM_UP);
    let sample = 4 * WARM_UP;
    let nanos = nanos_a_call(worker(sample).cpu, sample);
    ((time.as_nanos() as f64 / nanos.max(0.3)) as u64).max(16)
}

fn nanos_a_call(time: Duration, calls: u64) -> f64 {
    time.as_nanos() as f64 / calls as f64
}
