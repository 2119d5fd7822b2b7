//! What the policies do when it matters, counted.

pub(crate) mod outage;
pub(crate) mod probes;
pub(crate) mod retries;
pub(crate) mod tenants;
pub(crate) mod waiters;

use orchestrator_benches::{Goal, Report, Target};

use crate::BenchError;

pub(crate) fn run(report: &mut Report) -> Result<Vec<Goal>, BenchError> {
    let mut goals = Vec::new();
    let probes = probes::count()?;
    let callers = probes::CALLERS;
    report.text(&format!(
        "Probes let in, of {callers} callers that race once the breaker's rest is over:"
    ));
    table(report, "let in", &probes);
    goals.push(Goal::count(
        "probes let in, of 1",
        probes[0].value,
        Target::Exactly(1.0),
    ));
    goals.push(Goal::count(
        "probes let in, of 10",
        probes[1].value,
        Target::Exactly(10.0),
    ));

    let outage = outage::count()?;
    let healthy = outage::HEALTHY;
    report.text(&format!(
        "Failing calls that get through when a service fails every call after {healthy} that went \
         well, as fast as calls can be made (at most 10 million):"
    ));
    table(report, "failures let through", &outage);
    let through = outage[0].value;
    goals.push(Goal::count(
        "failures let through",
        through,
        Target::AtMost(5.0),
    ));

    goals.push(retries(report)?);
    goals.push(tenants(report)?);
    let waiters = waiters::count()?;
    let callers = waiters::WAITERS;
    report.text(&format!(
        "Polls of a caller until it comes in, of {callers} that wait for 100 a second:"
    ));
    table(report, "polls", &waiters);
    goals.push(Goal::count(
        "polls of a caller that waits: one to join, one when it is served",
        waiters[0].value,
        Target::AtMost(2.1),
    ));
    Ok(goals)
}

fn retries(report: &mut Report) -> Result<Goal, BenchError> {
    let attempts = retries::count()?;
    report.text(
        "Attempts a request, three at most, while so many of a hundred attempts fail; 50,000 \
         requests in half a second:",
    );
    let rows: Vec<_> = attempts
        .iter()
        .map(|row| {
            let [half, most, all] = row.a_request.map(|number| format!("{number:.2}"));
            [row.name.to_owned(), half, most, all]
        })
        .collect();
    report.table(["", "50 % fail", "90 % fail", "100 % fail"], &rows);
    let most = attempts[0].a_request.into_iter().fold(0.0, f64::max);
    Ok(Goal::count(
        "attempts a request, at worst",
        most,
        Target::AtMost(1.1),
    ))
}

fn tenants(report: &mut Report) -> Result<Goal, BenchError> {
    let memory = tenants::count()?;
    report.text("Memory of a rate limit after a million tenants that came once:");
    let rows = [
        ("ours, 100,000 counted apart", memory.ours),
        ("ours, after the first 100,000", memory.ours_full),
        ("governor, keyed", memory.governor),
    ];
    let rows = rows.map(|(name, held)| [name.to_owned(), format!("{held:.1} MB")]);
    report.table(["", "held"], &rows);
    let growth = memory.ours / memory.ours_full;
    let what = "memory after a million tenants over after 100,000";
    Ok(Goal::new(what, growth, "×", Target::AtMost(1.05)))
}

/// One contender's number.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

impl Count {
    pub(crate) fn new(name: &'static str, value: f64) -> Self {
        Self { name, value }
    }
}

/// Adds a table of numbers, whole ones where they are.
pub(crate) fn table(report: &mut Report, what: &str, counts: &[Count]) {
    let rows: Vec<_> = counts
        .iter()
        .map(|count| {
            let digits = usize::from(count.value.fract() > 0.0);
            [count.name.to_owned(), format!("{:.digits$}", count.value)]
        })
        .collect();
    report.table(["", what], &rows);
}
