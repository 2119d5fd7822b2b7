//! How many failing calls get through when a service breaks down that was
//! well for a long time?

use std::{
    future::{Ready, ready},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use failsafe::{
    FailurePolicy, StateMachine, backoff, failure_policy, futures::CircuitBreaker as _,
};
use orchestrator_benches::policies::{Ask, Asks, Failure, call};
use orchestrator_policies::{Breaker, BreakerConfig, BreakerLayer};
use tower::{Layer, Service, service_fn};
use tower_resilience::circuitbreaker::CircuitBreakerLayer;

use super::Count;
use crate::{BenchError, contender::runtime, peers::by_hand};

/// Calls that go well before.
pub(crate) const HEALTHY: u64 = 100_000;
/// Failures after which nobody waits for a breaker any longer.
const PATIENCE: u64 = 10_000_000;

/// Each with its defaults, and those that have another rule beside the one
/// for the share of failures also with that alone.
pub(crate) fn count() -> Result<Vec<Count>, BenchError> {
    let share_alone = BreakerConfig {
        consecutive_failures: NonZeroU32::MAX,
        ..BreakerConfig::default()
    };
    let [ours, ours_share] = [BreakerConfig::default(), share_alone].map(|config| {
        let breaker = BreakerLayer::new(Breaker::new(config)?, Asks);
        Ok::<_, BenchError>(let_through(|fragile| breaker.layer(fragile)))
    });
    let rests = backoff::equal_jittered(Duration::from_secs(10), Duration::from_secs(300));
    let window = Duration::from_secs(30);
    let share = failure_policy::success_rate_over_time_window(0.8, 5, window, rests);
    let share = failsafe::Config::new().failure_policy(share).build();
    let resilience = CircuitBreakerLayer::standard().build()?;
    let by_resilience = let_through(|fragile| resilience.layer(fragile));
    Ok(vec![
        Count::new("ours", ours?),
        Count::new("ours, share of failures alone", ours_share?),
        Count::new("failsafe", through_failsafe(by_hand::breaker())),
        Count::new("failsafe, share of failures alone", through_failsafe(share)),
        Count::new("tower-resilience", by_resilience),
    ])
}

fn through_failsafe<P>(breaker: StateMachine<P, ()>) -> f64
where
    P: FailurePolicy + Send + Sync + 'static,
{
    let_through(|fragile| {
        service_fn(move |ask| {
            let (breaker, mut fragile) = (breaker.clone(), fragile.clone());
            // Only called if the breaker polls it.
            let attempt = async move { fragile.call(ask).await };
            async move { breaker.call(attempt).await }
        })
    })
}

/// Counts the failing calls that come through until one does not.
fn let_through<S>(wrap: impl FnOnce(Fragile) -> S) -> f64
where
    S: Service<Ask>,
{
    let fragile = Fragile::default();
    let mut service = wrap(fragile.clone());
    runtime().block_on(async {
        for value in 0..HEALTHY + PATIENCE {
            let _ = call(&mut service, Ask::new(value)).await;
            if fragile.calls.load(Relaxed) == value {
                break;
            }
        }
    });
    fragile.calls.load(Relaxed).saturating_sub(HEALTHY) as f64
}

/// Well for so many calls, and then no more.
#[derive(Clone, Default)]
struct Fragile {
    calls: Arc<AtomicU64>,
}

impl Service<Ask> for Fragile {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let earlier = self.calls.fetch_add(1, Relaxed);
        ready(match earlier < HEALTHY {
            true => Ok(ask.value),
            false => Err(Failure::Broken),
        })
    }
}
