//! The retry budget said again in a plainer way: any history of requests and
//! retries leads both to the same place.

use std::time::Duration;

use orchestrator_policies::{Ratio, RetryBudget, RetryBudgetConfig, clock::Instant};
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(10);
/// Time moves on by a tenth of the window at once.
const SLICE: u64 = 1_000;

/// Keeps every request and every retry, by its slice.
#[derive(Default)]
struct Model {
    requests: Vec<u64>,
    retries: Vec<u64>,
    /// In hundredths.
    ratio: u64,
    reserve: u64,
}

impl Model {
    fn left(&self, slice: u64) -> u64 {
        let recent =
            |events: &[u64]| events.iter().filter(|event| slice - **event < 10).count() as u64;
        let earned = recent(&self.requests) * self.ratio / 100;
        earned
            .max(self.reserve)
            .saturating_sub(recent(&self.retries))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Deposit(u32),
    Withdraw(u32),
    Reconfigure { ratio: u64, reserve: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_000_u64).prop_map(Step::Pass),
        1 => (10_000..30_000_u64).prop_map(Step::Pass),
        6 => (1..40_u32).prop_map(Step::Deposit),
        6 => (1..10_u32).prop_map(Step::Withdraw),
        1 => (1..=100_u64, 0..6_u32).prop_map(|(ratio, reserve)| Step::Reconfigure { ratio, reserve }),
    ]
}

fn config(ratio: u64, reserve: u32) -> RetryBudgetConfig {
    RetryBudgetConfig {
        ratio: Ratio::new(ratio as f64 / 100.0).unwrap(),
        reserve,
        ttl: TTL,
    }
}

proptest! {
    #[test]
    fn the_budget_grants_what_its_model_grants(steps in prop::collection::vec(step(), 1..300)) {
        let budget = RetryBudget::new(config(10, 3)).unwrap();
        let mut model = Model { ratio: 10, reserve: 3, ..Model::default() };
        let mut millis = 1_000_000;
        for step in steps {
            let now = Instant::from_nanos(millis * 1_000_000);
            let slice = millis / SLICE;
            match step {
                Step::Pass(passed) => millis += passed,
                Step::Deposit(times) => for _ in 0..times {
                    budget.deposit(now);
                    model.requests.push(slice);
                },
                Step::Withdraw(times) => for _ in 0..times {
                    let granted = model.left(slice) > 0;
                    prop_assert_eq!(budget.withdraw(now), granted);
                    if granted {
                        model.retries.push(slice);
                    }
                },
                Step::Reconfigure { ratio, reserve } => {
                    budget.reconfigure(config(ratio, reserve)).unwrap();
                    (model.ratio, model.reserve) = (ratio, u64::from(reserve));
                }
            }
            let now = Instant::from_nanos(millis * 1_000_000);
            prop_assert_eq!(budget.snapshot(now).left, model.left(millis / SLICE));
        }
    }
}
