//! The same load for both.

use std::time::Duration;

use bytes::Bytes;
use orchestrator_benches::{Spread, cpu};
use tokio::{task::JoinSet, time::Instant};

/// One connection to a process that answers with what it is asked.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// Makes one call and gives its output.
    fn call(&self, input: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;
    /// The process at the other end.
    fn pid(&self) -> u32;
}

/// What one round showed.
pub(crate) struct Sample {
    pub(crate) calls_per_second: f64,
    /// Microseconds of processor time a call, this process and the other.
    pub(crate) cpu: f64,
    /// The other process's part of it.
    pub(crate) cpu_other: f64,
    pub(crate) latency: Spread,
}

/// Lets `callers` make `calls` altogether, each its next one when it has the
/// answer to the last.
pub(crate) async fn run<C: Caller>(
    caller: &C,
    input: &Bytes,
    callers: usize,
    calls: usize,
) -> Result<Sample, String> {
    let other = || cpu::of(caller.pid()).map_err(|error| error.to_string());
    let (cpu_here, cpu_other) = (cpu::process(), other()?);
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(one_caller(caller.clone(), input.clone(), calls / callers));
    }
    let mut latencies = Vec::with_capacity(calls);
    while let Some(ended) = tasks.join_next().await {
        latencies.extend(ended.map_err(|error| error.to_string())??);
    }
    let elapsed = started.elapsed();
    let cpu_other = other()?.saturating_sub(cpu_other);
    let cpu_here = cpu::process().saturating_sub(cpu_here);
    let count = latencies.len() as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / count;
    Ok(Sample {
        calls_per_second: count / elapsed.as_secs_f64(),
        cpu: micros(cpu_here + cpu_other),
        cpu_other: micros(cpu_other),
        latency: Spread::of(&mut latencies),
    })
}

async fn one_caller<C: Caller>(
    caller: C,
    input: Bytes,
    calls: usize,
) -> Result<Vec<Duration>, String> {
    let mut latencies = Vec::with_capacity(calls);
    for _ in 0..calls {
        let started = Instant::now();
        let output = caller.call(input.clone()).await?;
        latencies.push(started.elapsed());
        if output != input {
            return Err("the answer is not what was sent".into());
        }
    }
    Ok(latencies)
}
