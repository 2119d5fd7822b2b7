//! The policies in the engine's order with their defaults, and its metrics,
//! around the registry's handle.

use std::time::Duration;

use orchestrator_contract::{CallError, PhaseCall, PhaseReply};
use orchestrator_engine::Engine;
use orchestrator_policies::{
    AttemptDeadlineLayer, Breaker, BreakerLayer, Bulkhead, BulkheadLayer, CatchPanicLayer,
    Classify, RateLimitLayer, RateLimiter, Refusal, RefusalKind, RetryLayer, TotalDeadlineLayer,
};
use semver::VersionReq;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

use crate::{measure::BenchError, plugin::ID};

const TOTAL: Duration = Duration::from_secs(600);

/// The stack of one phase.
pub(crate) fn of(
    engine: &Engine,
    phase: &str,
) -> Result<
    impl Service<PhaseCall, Response = PhaseReply, Error = CallError> + Clone + use<>,
    BenchError,
> {
    let policy = &engine.config().policy;
    let metrics = engine.telemetry().phase(ID, phase);
    let plugin = engine.runtime().resolve(ID, &VersionReq::STAR)?;
    let attempts = metrics.clone();
    let chain = ServiceBuilder::new()
        .layer(TotalDeadlineLayer::new(TOTAL, Meaning))
        .layer(RateLimitLayer::new(RateLimiter::new(policy.rate_limit.clone())?, Meaning))
        .layer(RetryLayer::new(policy.retry.clone(), Meaning)?)
        .layer(BreakerLayer::new(Breaker::new(policy.breaker.clone())?, Meaning))
        .layer(BulkheadLayer::new(Bulkhead::new(policy.bulkhead.clone())?, Meaning))
        .layer(AttemptDeadlineLayer::new(TOTAL, Meaning))
        .layer(CatchPanicLayer::new())
        .map_request(move |call| {
            attempts.attempted();
            call
        })
        .service(plugin.map_err(StackError::Plugin));
    let observed = chain.map_err(|error| match error {
        StackError::Plugin(error) => error,
        StackError::Refused(refusal) => CallError::permanent(refusal.to_string()),
    });
    let observed = tower::service_fn(move |call| {
        let (metrics, started) = (metrics.clone(), Instant::now());
        let calling = observed.clone().oneshot(call);
        async move {
            let in_flight = metrics.in_flight();
            let outcome = calling.await;
            let error = outcome.as_ref().err().map(CallError::kind);
            metrics.executed(started.elapsed(), error);
            drop(in_flight);
            outcome
        }
    });
    Ok(BoxCloneSyncService::new(observed))
}

enum StackError {
    Refused(Refusal),
    Plugin(CallError),
}

impl From<Refusal> for StackError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Clone, Copy)]
struct Meaning;

impl Classify<PhaseCall, PhaseReply, StackError> for Meaning {
    fn refusal(&self, error: &StackError) -> Option<RefusalKind> {
        match error {
            StackError::Refused(refusal) => Some(refusal.kind()),
            StackError::Plugin(_) => None,
        }
    }

    fn idempotent(&self, _: &PhaseCall) -> bool {
        true
    }

    fn deadline(&self, call: &PhaseCall) -> Option<Instant> {
        call.deadline.map(Instant::from_std)
    }

    fn set_deadline(&self, call: &mut PhaseCall, deadline: Instant) {
        call.deadline = Some(deadline.into_std());
    }

    fn set_attempt(&self, call: &mut PhaseCall, attempt: u32) {
        call.attempt = attempt;
    }
}
