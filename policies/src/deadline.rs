//! Bounds how long a call may take.
//!
//! For: a service that hangs. Two limits, because one cannot do both jobs:
//! the *total* is how long a caller waits, retries and queues included; the
//! *attempt* is how long one try may take, so that a hung one leaves time for
//! another.
//!
//! Not for: work that cannot be stopped by dropping its future. A future that
//! never yields never notices the time; run such work elsewhere and bound the
//! waiting for it.
//!
//! The deadline is the earlier of the limit and the deadline that the request
//! already carries, and is written back into the request. No timer is made
//! for a call that is answered at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use tokio::time::Sleep;
use tower::{Layer, Service, util::Oneshot};

use crate::{
    classify::Classify,
    clock::{self, HORIZON, Instant},
    config::{ConfigError, check_time},
    event::{Emitter, Listener},
    refusal::{Refusal, TimeoutScope},
};

/// How long calls may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineConfig {
    /// How long a caller waits at most, whatever happens on the way.
    #[serde(with = "humantime_serde")]
    pub total: Duration,
    /// How long one attempt may take.
    #[serde(with = "humantime_serde")]
    pub attempt: Duration,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(30),
            attempt: Duration::from_secs(10),
        }
    }
}

impl DeadlineConfig {
    /// Checks that these limits can work.
    ///
    /// # Errors
    ///
    /// Names the limit that is under a millisecond, the finest the timer
    /// tells apart, or over a year.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = Duration::from_millis(1);
        check_time("total", self.total, least)?;
        check_time("attempt", self.attempt, least)
    }
}

/// When a call ends, and what to say then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    deadline: Instant,
    scope: TimeoutScope,
    /// The time there is between now and the deadline.
    limit: Duration,
}

impl Plan {
    /// The earlier of `limit` from `now` and `requested`. Only a limit of the
    /// policy's own is one of `scope`: when `requested` is earlier, the whole
    /// call's time is up.
    fn new(scope: TimeoutScope, limit: Duration, requested: Option<Instant>, now: Instant) -> Self {
        let own = clock::after(now, limit);
        match requested {
            Some(requested) if requested < own => Self {
                deadline: requested,
                scope: TimeoutScope::Total,
                limit: requested.saturating_duration_since(now),
            },
            _ => Self {
                deadline: own,
                scope,
                limit: limit.min(HORIZON),
            },
        }
    }

    fn refusal(self) -> Refusal {
        Refusal::Timeout {
            scope: self.scope,
            limit: self.limit,
        }
    }
}

#[derive(Clone, Debug)]
struct Settings<C> {
    scope: TimeoutScope,
    limit: Duration,
    classify: C,
    emitter: Emitter,
}

/// Bounds the whole call. Goes outside everything that waits or tries again.
#[derive(Clone, Debug)]
pub struct TotalDeadlineLayer<C>(Settings<C>);

impl<C> TotalDeadlineLayer<C> {
    /// Ends calls `total` after they began, or when their own deadline says.
    pub fn new(total: Duration, classify: C) -> Self {
        Self(Settings {
            scope: TimeoutScope::Total,
            limit: total,
            classify,
            emitter: Emitter::default(),
        })
    }

    /// Tells `listener` about refusals.
    #[must_use]
    pub fn with_listener(mut self, listener: Arc<dyn Listener>) -> Self {
        self.0.emitter = Emitter::new(listener);
        self
    }
}

impl<S, C: Clone> Layer<S> for TotalDeadlineLayer<C> {
    type Service = Deadline<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::new(inner, self.0.clone())
    }
}

/// Bounds one attempt. Goes inside retry, breaker and bulkhead: a timeout is
/// a failure, and frees the slot.
#[derive(Clone, Debug)]
pub struct AttemptDeadlineLayer<C>(Settings<C>);

impl<C> AttemptDeadlineLayer<C> {
    /// Ends attempts `attempt` after they began, or when the deadline of the
    /// whole call says.
    pub fn new(attempt: Duration, classify: C) -> Self {
        Self(Settings {
            scope: TimeoutScope::Attempt,
            limit: attempt,
            classify,
            emitter: Emitter::default(),
        })
    }

    /// Tells `listener` about refusals.
    #[must_use]
    pub fn with_listener(mut self, listener: Arc<dyn Listener>) -> Self {
        self.0.emitter = Emitter::new(listener);
        self
    }
}

impl<S, C: Clone> Layer<S> for AttemptDeadlineLayer<C> {
    type Service = Deadline<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::new(inner, self.0.clone())
    }
}

/// Ends calls with [`Refusal::Timeout`] when their time is up, and refuses
/// those whose time was up before they began without calling the service.
///
/// Needs a runtime with time enabled.
#[derive(Debug)]
pub struct Deadline<S, C> {
    inner: S,
    settings: Arc<Settings<C>>,
}

impl<S, C> Deadline<S, C> {
    fn new(inner: S, settings: Settings<C>) -> Self {
        let settings = Arc::new(settings);
        Self { inner, settings }
    }
}

impl<S: Clone, C> Clone for Deadline<S, C> {
    fn clone(&self) -> Self {
        let (inner, settings) = (self.inner.clone(), Arc::clone(&self.settings));
        Self { inner, settings }
    }
}

impl<S, C, Req> Service<Req> for Deadline<S, C>
where
    S: Service<Req> + Clone,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<Oneshot<S, Req>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let Settings {
            scope,
            limit,
            classify,
            emitter,
        } = &*self.settings;
        let now = clock::now();
        let plan = Plan::new(*scope, *limit, classify.deadline(&request), now);
        classify.set_deadline(&mut request, plan.deadline);
        DeadlineFuture {
            inner: (plan.deadline > now).then(|| Oneshot::new(self.inner.clone(), request)),
            timer: None,
            plan,
            emitter: emitter.clone(),
        }
    }
}

pin_project! {
    /// The answer, or the refusal once time is up.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        // Nothing once time is up: the call is over before anybody above
        // hears of it and frees what it held.
        #[pin]
        inner: Option<F>,
        // Made when the answer is first seen to take time: registering a
        // timer costs more than most of what this crate does.
        #[pin]
        timer: Option<Sleep>,
        plan: Plan,
        emitter: Emitter,
    }
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Refusal>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            if let Poll::Ready(result) = inner.poll(cx) {
                return Poll::Ready(result);
            }
            if this.timer.is_none() {
                let timer = tokio::time::sleep_until(this.plan.deadline);
                this.timer.set(Some(timer));
            }
            if let Some(timer) = this.timer.as_pin_mut() {
                ready!(timer.poll(cx));
            }
            this.inner.set(None);
        }
        Poll::Ready(Err(this.emitter.refuse(this.plan.refusal())))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};
    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::testing::{Ask, Fault, Script, Tester, recorder};

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_millis(1);

    fn timeout(scope: TimeoutScope, limit: Duration) -> Result<u32, Fault> {
        Err(Fault::Refused(Refusal::Timeout { scope, limit }))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_just_in_time_counts_and_one_just_after_does_not() {
        let ask = |took| {
            ServiceBuilder::new()
                .layer(TotalDeadlineLayer::new(SECOND, Tester))
                .service_fn(move |_: Ask| async move {
                    sleep(took).await;
                    Ok::<_, Fault>(7)
                })
                .oneshot(Ask::default())
        };

        assert_eq!(ask(SECOND - TICK).await, Ok(7));
        assert_eq!(
            ask(SECOND + TICK).await,
            timeout(TimeoutScope::Total, SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_earlier_deadline_wins_and_the_service_is_told() {
        let script = Script::hang();
        let service = TotalDeadlineLayer::new(10 * SECOND, Tester).layer(script.clone());
        let deadline = clock::after(clock::now(), SECOND);

        let result = service.oneshot(Ask::default().until(deadline)).await;

        assert_eq!(result, timeout(TimeoutScope::Total, SECOND));
        assert_eq!(script.seen()[0].deadline, Some(deadline));
        assert_eq!(clock::now(), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_later_deadline_is_brought_forward() {
        let script = Script::hang();
        let service = TotalDeadlineLayer::new(SECOND, Tester).layer(script.clone());
        let start = clock::now();

        let result = service
            .oneshot(Ask::default().until(start + 10 * SECOND))
            .await;

        assert_eq!(result, timeout(TimeoutScope::Total, SECOND));
        assert_eq!(script.seen()[0].deadline, Some(start + SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_request_is_refused_without_a_call() {
        let script = Script::answers([Ok(1)]);
        let (listener, events) = recorder();
        let service = AttemptDeadlineLayer::new(SECOND, Tester)
            .with_listener(listener)
            .layer(script.clone());
        let deadline = clock::now();
        let ask = |service: Deadline<_, _>| service.oneshot(Ask::default().until(deadline));

        assert_eq!(
            ask(service.clone()).await,
            timeout(TimeoutScope::Total, Duration::ZERO)
        );
        advance(SECOND).await;
        assert_eq!(
            ask(service).await,
            timeout(TimeoutScope::Total, Duration::ZERO)
        );

        assert_eq!(script.calls(), 0);
        assert_eq!(
            events.names(),
            ["refused total_timeout", "refused total_timeout"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_cut_by_whichever_limit_comes_first() {
        let script = Script::hang();
        let service = AttemptDeadlineLayer::new(SECOND, Tester).layer(script);
        let ask = |left| {
            service
                .clone()
                .oneshot(Ask::default().until(clock::now() + left))
        };

        assert_eq!(ask(SECOND).await, timeout(TimeoutScope::Attempt, SECOND));
        assert_eq!(
            ask(SECOND - TICK).await,
            timeout(TimeoutScope::Total, SECOND - TICK)
        );
    }

    /// The sum of now and such a limit would panic, and so would its timer.
    #[tokio::test(start_paused = true)]
    async fn a_limit_without_end_is_cut_to_the_horizon() {
        let service = TotalDeadlineLayer::new(Duration::MAX, Tester).layer(Script::hang());

        let result = service.oneshot(Ask::default()).await;

        assert_eq!(result, timeout(TimeoutScope::Total, HORIZON));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_until_the_service_is_ready_counts() {
        let service = AttemptDeadlineLayer::new(SECOND, Tester).layer(Script::never_ready());

        let result = service.oneshot(Ask::default()).await;

        assert_eq!(result, timeout(TimeoutScope::Attempt, SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn the_call_is_dropped_before_the_timeout_is_told() {
        let script = Script::hang();
        let held = script.clone();
        let mut service =
            TotalDeadlineLayer::new(SECOND, Tester).layer(tower::service_fn(move |ask: Ask| {
                let mut held = held.clone();
                async move { held.call(ask).await }
            }));
        let before = script.holders();
        let mut future = std::pin::pin!(service.call(Ask::default()));

        assert!(future.as_mut().await.is_err());

        assert_eq!(script.holders(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_at_once_needs_no_timer() {
        let mut service = TotalDeadlineLayer::new(SECOND, Tester).layer(Script::answers([Ok(1)]));
        let mut future = std::pin::pin!(service.call(Ask::default()));

        assert_eq!(future.as_mut().await, Ok(1));
        assert!(future.project().timer.is_none());
    }

    #[test]
    fn limits_without_length_are_refused() {
        assert_eq!(DeadlineConfig::default().validate(), Ok(()));
        for config in [
            DeadlineConfig {
                total: Duration::ZERO,
                ..DeadlineConfig::default()
            },
            DeadlineConfig {
                attempt: HORIZON + TICK,
                ..DeadlineConfig::default()
            },
        ] {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
