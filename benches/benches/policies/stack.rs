//! All policies together, and each alone.

use orchestrator_benches::{Goal, Report, Target, policies::Echo};
use tower::util::BoxCloneService;

use crate::{
    BenchError,
    contender::{Contender, Pair},
    costs::{self, Cost},
    ours, peers,
};

/// The service without policies, then ours, then the others'.
pub(crate) fn pairs() -> Result<Vec<Pair>, BenchError> {
    let mut pairs = vec![bare()];
    pairs.push(Pair::new("the service, boxed", |echo: Echo| {
        Contender::of(BoxCloneService::new(echo), true)
    }));
    pairs.extend(ours::stacks()?);
    pairs.push(peers::by_hand::stack());
    pairs.push(peers::tower_own::stack());
    pairs.push(peers::resilience::stack()?);
    Ok(pairs)
}

/// Each policy around the service, ours and the others'.
pub(crate) fn single_pairs() -> Result<Vec<Pair>, BenchError> {
    let mut pairs = ours::single()?;
    pairs.extend(peers::tower_own::single());
    pairs.extend(peers::single::single());
    pairs.extend(peers::resilience::single()?);
    Ok(pairs)
}

/// The service that everything else is put around.
pub(crate) fn bare() -> Pair {
    Pair::new("the service, bare", |echo| Contender::of(echo, true))
}

pub(crate) fn run(report: &mut Report) -> Result<Vec<Goal>, BenchError> {
    let costs = costs::measure(&pairs()?)?;
    report.text(
        "All policies together. Ours are the total deadline, rate limit, retry with budget, \
         breaker, bulkhead, attempt deadline and panic catch; tower-resilience's are the time \
         limiter, retry (without a budget), breaker, rate limiter and bulkhead, with its defaults \
         where it has some. By hand there is no retry. tower has no breaker, and its rate limit \
         is not `Clone`, so two threads share it only through a task.",
    );
    costs::table(report, &costs);
    Ok(goals(&costs))
}

pub(crate) fn run_single(report: &mut Report) -> Result<Vec<Goal>, BenchError> {
    let mut pairs = single_pairs()?;
    pairs.insert(0, bare());
    report.text("Each policy alone:");
    costs::table(report, &costs::measure(&pairs)?);
    Ok(Vec::new())
}

fn goals(costs: &[Cost]) -> Vec<Goal> {
    let [bare, full, boxed, hand, resilience] = [
        costs[0].name,
        ours::WITH_LATENCY,
        ours::BOXED,
        peers::by_hand::NAME,
        peers::resilience::NAME,
    ]
    .map(|name| costs::named(costs, name));
    let over_bare = full.at_once - bare.at_once;
    let (most, least) = (Target::AtMost, Target::AtLeast);
    let over = |peer: &Cost| peer.at_once / full.at_once;
    let mut goals = vec![
        Goal::new("whole stack over bare", over_bare, " ns", most(80.0)),
        Goal::new(STRETCHED, over_bare, " ns", most(40.0)),
        Goal::new(
            "tower-resilience over whole stack",
            over(resilience),
            "×",
            least(8.0),
        ),
        Goal::new("by hand over whole stack", over(hand), "×", least(1.8)),
    ];
    if let Some((later, bare)) = full.later.zip(bare.later) {
        let what = "whole stack over bare, later";
        goals.push(Goal::new(what, later - bare, " ns", most(200.0)));
        // A tokio timer is most of it, and how much that takes is the machine's.
        if let Some(hand) = hand.later {
            let what = "the same, to by hand";
            goals.push(Goal::new(
                what,
                (later - bare) / (hand - bare),
                "×",
                most(0.82),
            ));
        }
    }
    if let Some(together) = full.together {
        let ratio = together.nanos / full.at_once;
        let what = "whole stack, two threads over one";
        goals.push(Goal::new(what, ratio, "×", most(2.0)));
        goals.push(Goal::new(STRETCHED, ratio, "×", most(1.5)));
    }
    let exactly = Target::Exactly;
    goals.push(Goal::count("allocations", full.allocations, exactly(0.0)));
    let what = "allocations, boxed";
    goals.push(Goal::count(what, boxed.allocations, exactly(1.0)));
    if let Some((count, bare)) = full.instructions.zip(bare.instructions) {
        let what = "instructions over bare";
        goals.push(Goal::count(what, count - bare, most(500.0)));
    }
    goals
}

/// A further target for the number above.
const STRETCHED: &str = "stretched";
