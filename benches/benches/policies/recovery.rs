//! How does a service come back after an outage?

use std::{fs, path::Path};

use orchestrator_benches::{
    Goal, Report, Target,
    figure::{Figure, Line},
    recovery::{History, LENGTH, OFFERED, OUTAGE, Protection, simulate},
};
use orchestrator_policies::BreakerConfig;

use crate::BenchError;

const FIGURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/figures/recovery.svg");
const SEED: u64 = 1;

pub(crate) fn run(report: &mut Report) -> Result<Vec<Goal>, BenchError> {
    let [with, without] = [Protection::WITH, Protection::WITHOUT];
    let ramp = BreakerConfig::default().ramp.as_secs();
    let (with, without) = (simulate(with, SEED)?, simulate(without, SEED)?);
    let figure = Path::new(FIGURE);
    fs::create_dir_all(figure.parent().unwrap_or(figure))?;
    fs::write(figure, draw(&with, &without))?;
    report.text(&format!(
        "A service that comes back from an outage with empty caches, simulated with the breaker \
         and the retries of this project, with and without a ramp of {ramp} s and a retry budget \
         ([figure](../docs/figures/recovery.svg), `src/recovery.rs`):"
    ));
    let row = |name: &str, history: &History| {
        let again = history.recovered.map(|at| at - OUTAGE[1]);
        [
            name.to_owned(),
            history.collapses.to_string(),
            again.map_or("not at all".to_owned(), |after| {
                format!("{:.1} s", after.as_secs_f64())
            }),
        ]
    };
    report.table(
        ["", "collapses after the outage", "well again after"],
        &[row("with", &with), row("without", &without)],
    );
    Ok(vec![
        Goal::count(
            "collapses after an outage",
            with.collapses as f64,
            Target::Exactly(0.0),
        ),
        Goal::count(
            "the same, without ramp and budget",
            without.collapses as f64,
            Target::AtLeast(1.0),
        ),
    ])
}

fn draw(with: &History, without: &History) -> String {
    let [from, to] = OUTAGE.map(|at| at.as_secs_f64());
    let figure = Figure {
        title: "A service comes back from an outage (simulated)",
        y_label: "calls answered a second",
        seconds: [LENGTH.as_secs_f64(), 10.0],
        values: [1_000.0, 200.0],
        shaded: (from..=to, "outage"),
        marked: (OFFERED, "calls made"),
        lines: vec![
            Line {
                name: "without ramp and budget",
                color: "#d1495b",
                values: &without.answered,
            },
            Line {
                name: "with ramp and budget",
                color: "#00798c",
                values: &with.answered,
            },
        ],
    };
    figure.to_svg()
}
