//! What calls cost, row by row.

use std::env;

use orchestrator_benches::{
    Report,
    instructions::{Valgrind, counted},
};

use crate::{
    BenchError,
    contender::{Contender, Pair},
    measure::{self, Together},
};

/// Asks this program, under valgrind, for so many calls of one contender.
pub(crate) const COUNT: &str = "--count";
/// How it is measured, for the reader of the tables.
pub(crate) const METHOD: &str = "A call is made of a service that answers at once, or gives way \
     once before it answers (“later”), for which the runtime's timers are really waited for (ours keep them for the next call). One thread: processor \
     time, `CLOCK_THREAD_CPUTIME_ID`, inside one `block_on` of a current-thread runtime without \
     cooperative budget, median of 31 rounds in turns. Two threads: wall time on shared state, in \
     slices of 40 µs that a spin barrier begins; only slices count in which neither thread had to \
     wait for a processor (†: in most of them the threads put each other to sleep). Instructions are counted by callgrind, without the kernel's; allocations by the \
     allocator, which costs a nanosecond or two each.";

/// Calls whose instructions are counted; the count is exact.
const CALLS_COUNTED: u64 = 1_000;

/// What one call costs.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    /// Nanoseconds of one thread.
    pub(crate) at_once: f64,
    /// Likewise, when the service gives way before it answers.
    pub(crate) later: Option<f64>,
    /// While another thread makes the same calls.
    pub(crate) together: Option<Together>,
    pub(crate) allocations: f64,
    /// None where there is no valgrind.
    pub(crate) instructions: Option<f64>,
}

/// Measures `pairs`, in turns.
pub(crate) fn measure(pairs: &[Pair]) -> Result<Vec<Cost>, BenchError> {
    let at_once: Vec<_> = pairs.iter().map(|pair| &pair.at_once).collect();
    let later: Vec<_> = pairs
        .iter()
        .filter_map(|pair| pair.later.as_ref())
        .collect();
    let alone = measure::alone(&at_once);
    let mut alone_later = measure::alone(&later).into_iter();
    let together = measure::together(&at_once)?;
    let valgrind = Valgrind::find();
    let mut costs = Vec::new();
    for (row, pair) in pairs.iter().enumerate() {
        let instructions = valgrind.as_ref().map(|valgrind| {
            let program = env::current_exe()?;
            valgrind.a_call(&program, &[COUNT, pair.name], CALLS_COUNTED)
        });
        costs.push(Cost {
            name: pair.name,
            at_once: alone[row],
            later: pair.later.as_ref().and_then(|_| alone_later.next()),
            together: together[row],
            allocations: measure::allocations(&pair.at_once),
            instructions: instructions.transpose()?,
        });
    }
    Ok(costs)
}

/// The cost of that name.
pub(crate) fn named<'a>(costs: &'a [Cost], name: &str) -> &'a Cost {
    costs
        .iter()
        .find(|cost| cost.name == name)
        .expect("whoever asks has put it there")
}

/// Makes the calls that [`measure`] has counted.
pub(crate) fn count(contender: &Contender, calls: u64) {
    let mut worker = contender.worker();
    // What is only done once is not counted.
    worker(1);
    counted(|| worker(calls));
}

/// Adds a table of `costs`; the first of them is the floor.
pub(crate) fn table(report: &mut Report, costs: &[Cost]) {
    let bare = &costs[0];
    let rows: Vec<_> = costs
        .iter()
        .map(|cost| {
            [
                cost.name.to_owned(),
                format!("{:.1} ns", cost.at_once),
                over(Some(cost.at_once), Some(bare.at_once)),
                over(cost.later, bare.later),
                contended(cost.together),
                cost.instructions
                    .map_or("–".to_owned(), |count| format!("{count:.0}")),
                format!("{:.0}", cost.allocations),
            ]
        })
        .collect();
    let head = [
        "",
        "a call",
        "over bare",
        "over bare, later",
        "two threads",
        "instructions",
        "allocations",
    ];
    report.table(head, &rows);
}

/// How much longer, where there is something to compare.
fn over(cost: Option<f64>, bare: Option<f64>) -> String {
    let both = cost.zip(bare);
    both.map_or("–".to_owned(), |(cost, bare)| {
        format!("{:+.1} ns", cost - bare)
    })
}

fn contended(together: Option<Together>) -> String {
    together.map_or("–".to_owned(), |Together { nanos, asleep }| {
        let note = if asleep { "†" } else { "" };
        format!("{nanos:.1} ns{note}")
    })
}
