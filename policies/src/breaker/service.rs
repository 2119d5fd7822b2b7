//! The breaker as a tower layer.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service, util::Oneshot};

use super::{Breaker, Permit};
use crate::{
    classify::{Classify, Outcome},
    clock::{self, Instant},
    event::{Emitter, Listener},
    refusal::{Refusal, RefusalKind},
};

/// Asks a [`Breaker`] before each call.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C> {
    breaker: Breaker,
    classify: C,
    emitter: Emitter,
}

impl<C> BreakerLayer<C> {
    /// Makes every service that this layer wraps ask `breaker`.
    pub fn new(breaker: Breaker, classify: C) -> Self {
        let emitter = Emitter::default();
        Self {
            breaker,
            classify,
            emitter,
        }
    }

    /// Tells `listener` about refusals. Changes of state are told by the
    /// breaker to its own listener.
    #[must_use]
    pub fn with_listener(mut self, listener: Arc<dyn Listener>) -> Self {
        self.emitter = Emitter::new(listener);
        self
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = BreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BreakerService {
            inner,
            layer: self.clone(),
        }
    }
}

/// Answers with [`Refusal::CircuitOpen`] while the service rests.
///
/// The breaker is asked when the call is first polled. A call that is dropped
/// gives its probe back; dropped after the request's deadline, or while it
/// panics, it counts as a failure.
#[derive(Clone, Debug)]
pub struct BreakerService<S, C> {
    inner: S,
    layer: BreakerLayer<C>,
}

impl<S, C, Req> Service<Req> for BreakerService<S, C>
where
    S: Service<Req> + Clone,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BreakerFuture<Oneshot<S, Req>, C, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        BreakerFuture {
            deadline: self.layer.classify.deadline(&request),
            inner: Oneshot::new(self.inner.clone(), request),
            admitted: None,
            layer: self.layer.clone(),
            request: PhantomData,
        }
    }
}

/// A call that was let in.
#[derive(Debug)]
struct Admitted {
    permit: Permit,
    at: Instant,
}

pin_project! {
    /// The answer, or the refusal if the service rests.
    #[must_use = "futures do nothing unless polled"]
    pub struct BreakerFuture<F, C, Req> {
        // Before the permit: the probe's place is free when the call is over.
        #[pin]
        inner: F,
        admitted: Option<Admitted>,
        deadline: Option<Instant>,
        layer: BreakerLayer<C>,
        request: PhantomData<fn(Req)>,
    }
}

impl<C> BreakerLayer<C> {
    fn admit(&self, deadline: Option<Instant>) -> Result<Admitted, Refusal> {
        let at = clock::now();
        let permit = self
            .breaker
            .admit(at)
            .map_err(|retry_after| Refusal::CircuitOpen { retry_after })?;
        let short = clock::after(at, self.breaker.config().short_deadline);
        let permit = match deadline {
            Some(deadline) if deadline > short => permit.until(deadline),
            _ => permit,
        };
        Ok(Admitted { permit, at })
    }
}

impl Admitted {
    fn record<Req, Res, Err, C>(self, result: &Result<Res, Err>, classify: &C)
    where
        C: Classify<Req, Res, Err>,
    {
        let now = clock::now();
        let refusal = result
            .as_ref()
            .err()
            .and_then(|error| classify.refusal(error));
        let outcome = match refusal {
            Some(kind) if kind.is_turned_away() => Outcome::Ignore,
            // Whether the service had its time is known since it was let in.
            Some(RefusalKind::TotalTimeout) if self.permit.deadline().is_some() => Outcome::Failure,
            Some(RefusalKind::TotalTimeout) => Outcome::Ignore,
            _ => classify.outcome(result),
        };
        let slow_after = self.permit.slow_after();
        let slow = slow_after.is_some_and(|slow_after| now - self.at >= slow_after);
        let outcome = match outcome {
            Outcome::Success if slow => Outcome::Slow,
            outcome => outcome,
        };
        self.permit.record(outcome, now);
    }
}

/// Counts a panic of the call as a failure. Without this the permit could not
/// tell it from a call that was dropped.
struct Unwinding<'a>(&'a mut Option<Admitted>);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.0.take() {
            admitted.permit.record(Outcome::Failure, clock::now());
        }
    }
}

impl<F, C, Req, Res, Err> Future for BreakerFuture<F, C, Req>
where
    F: Future<Output = Result<Res, Err>>,
    C: Classify<Req, Res, Err>,
    Err: From<Refusal>,
{
    type Output = Result<Res, Err>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.admitted.is_none() {
            match this.layer.admit(*this.deadline) {
                Ok(admitted) => *this.admitted = Some(admitted),
                Err(refusal) => return Poll::Ready(Err(this.layer.emitter.refuse(refusal))),
            }
        }
        let unwinding = Unwinding(this.admitted);
        let poll = this.inner.poll(cx);
        std::mem::forget(unwinding);
        if let Poll::Ready(result) = &poll
            && let Some(admitted) = this.admitted.take()
        {
            admitted.record::<Req, _, _, _>(result, &this.layer.classify);
        }
        poll
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, sleep, timeout};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        breaker::{BreakerConfig, BreakerSnapshot, BreakerState},
        config::Ratio,
        refusal::TimeoutScope,
        testing::{Ask, Fault, Script, Tester, recorder},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(change: impl FnOnce(&mut BreakerConfig)) -> Breaker {
        let mut config = BreakerConfig::default();
        change(&mut config);
        Breaker::new(config).unwrap()
    }

    /// What the breaker has counted after one call that ended in `result`.
    async fn counted(result: Result<u32, Fault>, ask: Ask) -> (u64, u64) {
        let breaker = breaker(|_| ());
        let service =
            BreakerLayer::new(breaker.clone(), Tester).layer(Script::answers([result.clone()]));
        assert_eq!(service.oneshot(ask).await, result);
        let BreakerSnapshot {
            requests, failures, ..
        } = breaker.snapshot(clock::now());
        (requests, failures)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_answers_at_once_and_says_when_to_return() {
        let (listener, events) = recorder();
        let breaker = breaker(|_| ());
        let script = Script::answers(vec![Err(Fault::Broken); 9]);
        let service = BreakerLayer::new(breaker.clone(), Tester)
            .with_listener(listener)
            .layer(script.clone());
        let ask = || service.clone().oneshot(Ask::default());

        for _ in 0..5 {
            assert_eq!(ask().await, Err(Fault::Broken));
        }
        let Err(Fault::Refused(Refusal::CircuitOpen { retry_after })) = ask().await else {
            panic!("it should be open");
        };
        assert_eq!(script.calls(), 5);
        assert_eq!(events.names(), ["refused circuit_open"]);

        advance(retry_after).await;
        assert_eq!(ask().await, Err(Fault::Broken), "the probe");
        assert_eq!(script.calls(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_tells_of_the_service_counts() {
        let ask = Ask::default;
        let timeout = |scope| {
            Fault::Refused(Refusal::Timeout {
                scope,
                limit: SECOND,
            })
        };
        let turned_away = [
            Refusal::Overloaded {
                limit: 1,
                queued: 0,
            },
            Refusal::RateLimited {
                retry_after: SECOND,
            },
            Refusal::CircuitOpen {
                retry_after: SECOND,
            },
        ];

        assert_eq!(counted(Ok(1), ask()).await, (1, 0));
        assert_eq!(counted(Err(Fault::Broken), ask()).await, (1, 1));
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Attempt)), ask()).await,
            (1, 1)
        );
        assert_eq!(counted(Err(Fault::Invalid), ask()).await, (0, 0));
        for refusal in turned_away {
            assert_eq!(counted(Err(Fault::Refused(refusal)), ask()).await, (0, 0));
        }
        let soon = clock::now() + SECOND;
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Total)), ask().until(soon)).await,
            (1, 1)
        );
        let past = clock::now();
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Total)), ask().until(past)).await,
            (0, 0)
        );
    }

    /// As a total deadline around the breaker does.
    #[tokio::test(start_paused = true)]
    async fn a_call_cut_off_by_its_deadline_is_a_failure_and_one_given_up_is_not() {
        let failures = async |short_deadline, deadline: Duration, cut: Duration| {
            let breaker = breaker(|config| config.short_deadline = short_deadline);
            let service = BreakerLayer::new(breaker.clone(), Tester).layer(Script::hang());
            let call = service.oneshot(Ask::default().until(clock::now() + deadline));
            assert!(timeout(cut, call).await.is_err());
            breaker.snapshot(clock::now()).failures
        };

        assert_eq!(failures(Duration::ZERO, SECOND, SECOND / 2).await, 0);
        assert_eq!(failures(Duration::ZERO, SECOND, SECOND).await, 1);
        assert_eq!(
            failures(SECOND, SECOND, SECOND).await,
            0,
            "too little time to blame the service"
        );
        assert_eq!(failures(SECOND, 2 * SECOND, 2 * SECOND).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_never_polled_takes_no_probe() {
        let breaker = breaker(|config| config.consecutive_failures = 1.try_into().unwrap());
        let script = Script::answers([Err(Fault::Broken)]);
        let mut service = BreakerLayer::new(breaker.clone(), Tester).layer(script);
        assert_eq!(service.call(Ask::default()).await, Err(Fault::Broken));
        advance(5 * SECOND).await;

        let _call = service.call(Ask::default());
        assert_eq!(breaker.state(), BreakerState::Open);

        let hung = timeout(SECOND, service.call(Ask::default())).await;
        assert!(hung.is_err(), "the probe was let in, hung, and was dropped");
        assert_eq!(breaker.snapshot(clock::now()).probes, 0);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let breaker = breaker(|_| ());
        let service =
            service_fn(async |_: Ask| -> Result<u32, Fault> { panic!("the service does") });
        let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);

        let call = tokio::spawn(service.oneshot(Ask::default()));

        assert!(call.await.unwrap_err().is_panic());
        assert_eq!(breaker.snapshot(clock::now()).failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_slow_from_the_limit_on() {
        let slow = async |took: Duration| {
            let breaker = breaker(|config| {
                config.slow_ratio = Some(Ratio::ALL);
                config.slow_after = Some(SECOND);
            });
            let service = service_fn(|_: Ask| async move {
                sleep(took).await;
                Ok::<u32, Fault>(1)
            });
            let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);
            assert_eq!(service.oneshot(Ask::default()).await, Ok(1));
            breaker.snapshot(clock::now()).slow
        };

        assert_eq!(slow(SECOND - Duration::from_millis(1)).await, 0);
        assert_eq!(slow(SECOND).await, 1);
    }
}
