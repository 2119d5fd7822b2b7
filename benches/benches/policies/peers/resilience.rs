//! tower-resilience: a time limiter, retry, breaker, rate limiter and
//! bulkhead, with its own defaults where it has some.

use std::time::Duration;

use orchestrator_benches::policies::{Ask, CONCURRENT, Echo, Failure, TOTAL};
use tower::{Layer, Service, ServiceBuilder};
use tower_resilience::{
    bulkhead::BulkheadLayer,
    circuitbreaker::{CircuitBreakerLayer, DefaultClassifier},
    ratelimiter::{RateLimiterLayer, WindowType},
    retry::RetryLayer,
    timelimiter::{FixedTimeout, TimeLimiterLayer},
};

use crate::{
    BenchError,
    contender::{Contender, Pair},
};

pub(crate) fn time_limiter() -> TimeLimiterLayer<FixedTimeout> {
    TimeLimiterLayer::builder().timeout_duration(TOTAL).build()
}

pub(crate) fn retry<E>() -> RetryLayer<Ask, u64, E> {
    RetryLayer::builder()
        .max_attempts(3)
        .exponential_backoff(Duration::from_millis(100))
        .build()
}

pub(crate) fn breaker() -> Result<CircuitBreakerLayer<DefaultClassifier>, BenchError> {
    Ok(CircuitBreakerLayer::standard().build()?)
}

pub(crate) fn rate_limiter() -> Result<RateLimiterLayer, BenchError> {
    Ok(RateLimiterLayer::builder()
        .limit_for_period(usize::MAX / 4)
        .refresh_period(Duration::from_secs(1))
        .timeout_duration(Duration::ZERO)
        .window_type(WindowType::Fixed)
        .build()?)
}

pub(crate) fn bulkhead() -> Result<BulkheadLayer, BenchError> {
    Ok(BulkheadLayer::builder()
        .max_concurrent_calls(CONCURRENT)
        .reject_when_full()
        .build()?)
}

pub(crate) const NAME: &str = "tower-resilience";

pub(crate) fn stack() -> Result<Pair, BenchError> {
    let layers = ServiceBuilder::new()
        .layer(time_limiter())
        .layer(retry())
        .layer(breaker()?)
        .layer(rate_limiter()?)
        .layer(bulkhead()?);
    Ok(Pair::new(NAME, |echo| {
        Contender::of(layers.service(echo), true)
    }))
}

pub(crate) fn single() -> Result<Vec<Pair>, BenchError> {
    Ok(vec![
        wrapped("tower-resilience: time limiter", time_limiter()),
        wrapped("tower-resilience: rate limiter", rate_limiter()?),
        wrapped("tower-resilience: retry", retry::<Failure>()),
        wrapped("tower-resilience: breaker", breaker()?),
        wrapped("tower-resilience: bulkhead", bulkhead()?),
    ])
}

fn wrapped<L>(name: &'static str, layer: L) -> Pair
where
    L: Layer<Echo>,
    L::Service: Service<Ask> + Clone + Send + 'static,
{
    Pair::new(name, |echo| Contender::of(layer.layer(echo), true))
}
