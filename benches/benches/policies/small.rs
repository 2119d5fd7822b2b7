//! What is small beside a call: a refusal, its metrics, a trace that nobody
//! records, and the policies that the stack of the comparison leaves out.

use std::{hint::black_box, num::NonZeroU32, time::Duration};

use failsafe::futures::CircuitBreaker as _;
use orchestrator_benches::{
    Goal, Report, Target,
    policies::{Ask, Asks, Echo, Parts, TOTAL, call},
};
use orchestrator_contract::TraceContext;
use orchestrator_observability::{Build, Telemetry};
use orchestrator_policies::{
    Breaker, BreakerConfig, BreakerLayer, FallbackLayer, Outcome, Rate, RateLimitConfig,
    RateLimitLayer, RateLimiter, Shed, ShedConfig, ShedLayer, clock,
};
use tower::{Layer, Service};
use tower_resilience::circuitbreaker::CircuitBreakerLayer;

use crate::{
    BenchError,
    contender::{Contender, Pair, calling, runtime},
    costs, stack,
};

const REFUSAL: &str = "ours: refused, breaker alone";
const FAILSAFE: &str = "failsafe: refused";
const METRICS: &str = "with metrics";
const TRACE: &str = "with a trace context that is not sampled";

/// As long as nothing here takes.
const REST: Duration = Duration::from_secs(3_600);

pub(crate) fn run(report: &mut Report) -> Result<Vec<Goal>, BenchError> {
    let mut pairs = pairs()?;
    pairs.insert(0, stack::bare());
    let costs = costs::measure(&pairs)?;
    report.text(
        "What is small beside a call. Ours says in a refusal when to come back, the others do \
         not. Metrics are a counter and a histogram as the engine keeps them of each call; a trace context goes along and is looked at once. The \
         last ones let every call in: all of one tenant, and at a rate too low for threads to have tokens on loan.",
    );
    costs::table(report, &costs);
    let over_bare = |name| costs::named(&costs, name).at_once - costs[0].at_once;
    let goal = |what, value, most| Goal::new(what, value, " ns", Target::AtMost(most));
    Ok(vec![
        goal("refused by an open breaker", over_bare(REFUSAL), 45.0),
        Goal::new(
            "the same, to failsafe's refusal",
            over_bare(REFUSAL) / over_bare(FAILSAFE),
            "×",
            Target::AtMost(1.55),
        ),
        goal("metrics on top", over_bare(METRICS), 30.0),
        goal("an unsampled trace on top", over_bare(TRACE), 2.0),
    ])
}

/// Refusals, and what comes on top of a call.
pub(crate) fn pairs() -> Result<Vec<Pair>, BenchError> {
    let parts = Parts {
        breaker: tripped()?,
        ..Parts::new()?
    };
    let breaker = BreakerLayer::new(tripped()?, Asks);
    let resilience = resilience()?;
    Ok(vec![
        Pair::refused("ours: refused, circuit open", |echo| {
            refused(parts.around(echo))
        }),
        Pair::refused(REFUSAL, |echo| refused(breaker.layer(echo))),
        Pair::refused(FAILSAFE, by_failsafe),
        Pair::refused("tower-resilience: refused, breaker alone", |echo| {
            refused(resilience.layer(echo))
        }),
        metrics(),
        Pair::new(TRACE, traced),
        let_in(
            "ours: shed alone",
            ShedLayer::new(Shed::new(ShedConfig::default())?, Asks),
        ),
        let_in(
            "ours: fallback alone",
            FallbackLayer::value(Asks, |_: &_| Some(0)),
        ),
        let_in("ours: rate limit of each tenant alone", tenants()?),
        let_in("ours: rate limit without loans alone", unlent()?),
    ])
}

/// A policy alone that has nothing to refuse.
fn let_in<L>(name: &'static str, layer: L) -> Pair
where
    L: Layer<Echo, Service: Service<Ask> + Clone + Send + Sync + 'static> + 'static,
{
    Pair::new(name, |echo| Contender::of(layer.layer(echo), true))
}

/// So much may be saved up that nobody is refused.
fn ample(calls: NonZeroU32) -> Rate {
    Rate {
        calls,
        per: Duration::from_secs(1),
        burst: Some(NonZeroU32::MAX),
    }
}

/// All calls are of one tenant: as far as they can get in each other's way.
fn tenants() -> Result<RateLimitLayer<Asks>, BenchError> {
    let limiter = RateLimiter::new(RateLimitConfig {
        per_tenant: Some(ample(NonZeroU32::MIN.saturating_add(999_999))),
        ..RateLimitConfig::default()
    })?;
    Ok(RateLimitLayer::new(limiter, Asks))
}

/// So slow a rate that threads take tokens one at a time.
fn unlent() -> Result<RateLimitLayer<Asks>, BenchError> {
    let limiter = RateLimiter::new(RateLimitConfig {
        overall: Some(ample(NonZeroU32::MIN.saturating_add(199))),
        ..RateLimitConfig::default()
    })?;
    Ok(RateLimitLayer::new(limiter, Asks))
}

fn refused<S>(service: S) -> Contender
where
    S: Service<Ask> + Clone + Send + 'static,
{
    Contender::of(service, false)
}

/// A breaker that has opened by itself, and says for how long.
fn tripped() -> Result<Breaker, BenchError> {
    let breaker = Breaker::new(BreakerConfig {
        open: REST,
        max_open: REST,
        ..BreakerConfig::default()
    })?;
    let now = clock::now();
    while let Ok(permit) = breaker.admit(now) {
        permit.record(Outcome::Failure, now);
    }
    Ok(breaker)
}

fn by_failsafe(mut echo: Echo) -> Contender {
    let rests = failsafe::backoff::constant(REST);
    let policy = failsafe::failure_policy::consecutive_failures(1, rests);
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    breaker.on_error();
    Contender::new(move || {
        let breaker = breaker.clone();
        let call = async move |ask| {
            let answer = breaker.call(call(&mut echo, ask));
            answer.await.is_ok()
        };
        calling(call, false)
    })
}

fn resilience()
-> Result<CircuitBreakerLayer<tower_resilience::circuitbreaker::DefaultClassifier>, BenchError> {
    let (layer, handle) = CircuitBreakerLayer::standard()
        .wait_duration_in_open(REST)
        .build_with_handle()?;
    runtime().block_on(handle.force_open());
    Ok(layer)
}

/// The bare service, and of each call one count and one duration in handles
/// that were made before.
fn metrics() -> Pair {
    let telemetry = Telemetry::new(Build { version: "0" });
    let phase = telemetry.phase("p", "x");
    Pair::new(METRICS, move |mut echo| {
        let phase = phase.clone();
        Contender::new(move || {
            let phase = phase.clone();
            let call = async move |ask: Ask| {
                let answer = call(&mut echo, ask).await;
                phase.executed(black_box(Duration::from_micros(1200)), None);
                answer.is_ok()
            };
            calling(call, true)
        })
    })
}

/// The bare service, with a trace context that goes along and is looked at
/// once the answer is there.
fn traced(mut echo: Echo) -> Contender {
    let unsampled = TraceContext::from_random(1, 2, false);
    Contender::new(move || {
        let call = async move |ask| {
            let trace = unsampled;
            let answer = call(&mut echo, ask).await;
            if black_box(&trace).sampled {
                write_down(trace);
            }
            answer.is_ok()
        };
        calling(call, true)
    })
}

#[cold]
fn write_down(trace: TraceContext) {
    black_box((trace, TOTAL));
}
