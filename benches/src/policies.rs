//! The stack of policies that is measured, and what it guards.
//!
//! Here and not in a bench, because two programs run it: the bench `policies`
//! measures it beside its peers, and `policies_instructions` is what the gate
//! counts the instructions of.

#[cfg(test)]
mod telemetry_traps;

use std::{
    hint::black_box,
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use orchestrator_policies::{
    Admission, AttemptDeadline, Breaker, BreakerConfig, Bulkhead, BulkheadConfig, CatchPanic,
    Classify, ConfigError, Latency, Policies, Rate, RateLimitConfig, RateLimiter, Refusal,
    RefusalKind, Retry, RetryConfig, TotalDeadline, clock::Instant,
};
use tower::{Layer, Service, ServiceExt};

/// Longer than anything here takes.
pub const TOTAL: Duration = Duration::from_secs(30);
/// Likewise, for one attempt.
pub const ATTEMPT: Duration = Duration::from_secs(10);
/// More calls than are ever in flight here.
pub const CONCURRENT: usize = 1_000;

/// A request that costs nothing to copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Comes back in the answer.
    pub value: u64,
    /// When the caller leaves.
    pub deadline: Option<Instant>,
}

impl Ask {
    /// For the answer `value + 1`, whenever it comes.
    pub fn new(value: u64) -> Self {
        let deadline = None;
        Self { value, deadline }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The service failed.
    #[error("the service failed")]
    Broken,
    /// A policy ended the call.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Answers at once, or gives way once before it answers.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// Whether to give way first, so that whoever set a timer needs it.
    pub gives_way: bool,
}

impl Service<Ask> for Echo {
    type Response = u64;
    type Error = Failure;
    type Future = EchoFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> EchoFuture {
        EchoFuture {
            value: ask.value,
            gives_way: self.gives_way,
        }
    }
}

/// The answer of [`Echo`].
#[derive(Debug)]
pub struct EchoFuture {
    value: u64,
    gives_way: bool,
}

impl Future for EchoFuture {
    type Output = Result<u64, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.gives_way) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.value + 1))
    }
}

/// Every request may be repeated, and carries its deadline.
#[derive(Clone, Copy, Debug)]
pub struct Asks;

impl<T> Classify<Ask, T, Failure> for Asks {
    fn refusal(&self, error: &Failure) -> Option<RefusalKind> {
        match error {
            Failure::Broken => None,
            Failure::Refused(refusal) => Some(refusal.kind()),
        }
    }

    fn idempotent(&self, _: &Ask) -> bool {
        true
    }

    fn deadline(&self, ask: &Ask) -> Option<Instant> {
        ask.deadline
    }

    fn set_deadline(&self, ask: &mut Ask, deadline: Instant) {
        ask.deadline = Some(deadline);
    }
}

/// The policies of one service, with their defaults but for limits that the
/// calls of a bench would run into.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Works on every call and never refuses one.
    pub limiter: RateLimiter,
    /// Three attempts and a budget.
    pub retry: Retry,
    /// Closed.
    pub breaker: Breaker,
    /// Nobody here fills it.
    pub bulkhead: Bulkhead,
    /// Counts how long calls take.
    pub latency: Latency,
}

impl Parts {
    /// Policies that nothing has happened to.
    ///
    /// # Errors
    ///
    /// None, unless the policies take other values than they did.
    pub fn new() -> Result<Self, ConfigError> {
        let limiter = RateLimitConfig {
            overall: Some(Rate {
                calls: NonZeroU32::MIN.saturating_add(9_999_999),
                per: Duration::from_secs(1),
                burst: Some(NonZeroU32::MAX),
            }),
            ..RateLimitConfig::default()
        };
        let bulkhead = BulkheadConfig {
            max_concurrent: NonZeroUsize::MIN.saturating_add(CONCURRENT - 1),
            ..BulkheadConfig::default()
        };
        Ok(Self {
            limiter: RateLimiter::new(limiter)?,
            retry: Retry::new(RetryConfig::default())?,
            breaker: Breaker::new(BreakerConfig::default())?,
            bulkhead: Bulkhead::new(bulkhead)?,
            latency: Latency::new(),
        })
    }

    /// All of them around `inner`.
    pub fn around<S>(
        &self,
        inner: S,
    ) -> impl Service<Ask, Response = u64, Error = Failure, Future: Send> + Clone + Send + Sync + 'static
    where
        S: Service<Ask, Response = u64, Error = Failure, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.within(self.latency.clone(), inner)
    }

    /// All of them around `inner`, and nobody counts how long calls take.
    pub fn unmeasured<S>(
        &self,
        inner: S,
    ) -> impl Service<Ask, Response = u64, Error = Failure, Future: Send> + Clone + Send + Sync + 'static
    where
        S: Service<Ask, Response = u64, Error = Failure, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.within((), inner)
    }

    fn within<O, S>(
        &self,
        outermost: O,
        inner: S,
    ) -> impl Service<Ask, Response = u64, Error = Failure, Future: Send> + Clone + Send + Sync + 'static
    where
        S: Service<Ask, Response = u64, Error = Failure, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        O: Admission<Ask, u64, Failure, Hold: Send> + Clone + Send + Sync + 'static,
    {
        Policies::with(Asks)
            .per_call(outermost)
            .per_call(TotalDeadline::new(TOTAL))
            .per_call(self.limiter.clone())
            .retry(self.retry.clone())
            .per_attempt(self.breaker.clone())
            .per_attempt(self.bulkhead.clone())
            .per_attempt(AttemptDeadline::new(ATTEMPT))
            .per_attempt(CatchPanic)
            .layer(inner)
    }
}

/// Calls `service` so often, one call after the other, and returns how many
/// of the calls were answered.
pub async fn repeat<S>(service: &mut S, calls: u64) -> u64
where
    S: Service<Ask>,
{
    let mut answered = 0;
    for value in 0..calls {
        let ask = black_box(Ask::new(value));
        let Ok(ready) = service.ready().await else {
            continue;
        };
        let answer = ready.call(ask).await;
        answered += u64::from(black_box(&answer).is_ok());
    }
    answered
}

/// Calls `service` as soon as it is ready.
///
/// # Errors
///
/// What the service says.
pub async fn call<S>(service: &mut S, ask: Ask) -> Result<S::Response, S::Error>
where
    S: Service<Ask>,
{
    service.ready().await?.call(ask).await
}
