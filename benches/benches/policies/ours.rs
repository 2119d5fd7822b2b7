//! Our policies, all together and each alone.

use orchestrator_benches::policies::{ATTEMPT, Ask, Asks, Echo, Failure, Parts, TOTAL};
use orchestrator_policies::{
    AttemptDeadlineLayer, BreakerLayer, BulkheadLayer, CatchPanicLayer, LatencyLayer, Policies,
    RateLimitLayer, TotalDeadlineLayer,
};
use tower::{Layer, Service, util::BoxCloneService};

use crate::{
    BenchError,
    contender::{Contender, Pair},
};

const PLAIN: &str = "ours";
pub(crate) const WITH_LATENCY: &str = "ours, with latency histogram";
pub(crate) const BOXED: &str = "ours, with latency histogram, boxed";

/// The whole stack.
pub(crate) fn stacks() -> Result<Vec<Pair>, BenchError> {
    let parts = Parts::new()?;
    Ok(vec![
        Pair::new(WITH_LATENCY, |echo| answered(parts.around(echo))),
        Pair::new(PLAIN, |echo| answered(parts.unmeasured(echo))),
        Pair::new(BOXED, |echo| {
            let stack = parts.around(echo);
            answered(BoxCloneService::<_, u64, Failure>::new(stack))
        }),
    ])
}

/// Each policy around the bare service.
pub(crate) fn single() -> Result<Vec<Pair>, BenchError> {
    let Parts {
        limiter,
        retry,
        breaker,
        bulkhead,
        latency,
    } = Parts::new()?;
    let limiter = RateLimitLayer::new(limiter, Asks);
    let breaker = BreakerLayer::new(breaker, Asks);
    let bulkhead = BulkheadLayer::new(bulkhead, Asks);
    Ok(vec![
        wrapped("ours: total deadline", TotalDeadlineLayer::new(TOTAL, Asks)),
        wrapped("ours: rate limit", limiter),
        wrapped("ours: retry with budget", Policies::with(Asks).retry(retry)),
        wrapped("ours: breaker", breaker),
        wrapped("ours: bulkhead", bulkhead),
        wrapped(
            "ours: attempt deadline",
            AttemptDeadlineLayer::new(ATTEMPT, Asks),
        ),
        wrapped("ours: panic catch", CatchPanicLayer::new()),
        wrapped("ours: latency histogram", LatencyLayer::new(latency, Asks)),
    ])
}

fn answered<S>(service: S) -> Contender
where
    S: Service<Ask> + Clone + Send + 'static,
{
    Contender::of(service, true)
}

fn wrapped<L>(name: &'static str, layer: L) -> Pair
where
    L: Layer<Echo>,
    L::Service: Service<Ask> + Clone + Send + 'static,
{
    Pair::new(name, |echo| answered(layer.layer(echo)))
}
