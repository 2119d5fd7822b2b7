//! The outermost layer, which sees how every call ended, and the one
//! that sees every attempt and how it ended.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use orchestrator_contract::{CallError, ErrorKind, Event, EventSink, PhaseReply};
use orchestrator_observability::{InFlight, PhaseMetrics};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    classify::{StackCall, StackError},
    current::during,
};
use crate::bus::Bus;

/// Counts and times every call, refusals included, and lets what is told of it
/// below be told of its run.
#[derive(Clone)]
pub(crate) struct ObserveLayer(PhaseMetrics);

impl ObserveLayer {
    pub(crate) fn new(metrics: PhaseMetrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            metrics: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    metrics: PhaseMetrics,
}

impl<S> Service<StackCall> for Observe<S>
where
    S: Service<StackCall, Response = PhaseReply, Error = StackError>,
{
    type Response = PhaseReply;
    type Error = StackError;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: StackCall) -> Self::Future {
        ObserveFuture {
            call: request.clone(),
            timing: Timing {
                started: Instant::now(),
                end: Some(ErrorKind::Cancelled),
                _in_flight: self.metrics.in_flight(),
                metrics: self.metrics.clone(),
            },
            inner: self.inner.call(request),
        }
    }
}

/// Records when it is dropped, so that an abandoned call is counted too.
struct Timing {
    started: Instant,
    end: Option<ErrorKind>,
    metrics: PhaseMetrics,
    _in_flight: InFlight,
}

impl Drop for Timing {
    fn drop(&mut self) {
        self.metrics.executed(self.started.elapsed(), self.end);
    }
}

pin_project! {
    pub(crate) struct ObserveFuture<F> {
        call: StackCall,
        timing: Timing,
        #[pin]
        inner: F,
    }
}

impl<F> Future for ObserveFuture<F>
where
    F: Future<Output = Result<PhaseReply, StackError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = during(this.call, || this.inner.poll(cx));
        if let Poll::Ready(result) = &polled {
            this.timing.end = result.as_ref().err().map(kind);
        }
        polled
    }
}

fn kind(error: &StackError) -> ErrorKind {
    match error {
        StackError::Plugin(error) => error.kind(),
        StackError::Refused(_) => CallError::from(error.clone()).kind(),
    }
}

/// Takes note of every attempt that reaches the plugin, and of why it failed.
///
/// The call's own error may be another one: of a call whose circuit opened
/// between two attempts it says just that.
#[derive(Clone)]
pub(crate) struct AttemptLayer {
    metrics: PhaseMetrics,
    bus: Bus,
}

impl AttemptLayer {
    pub(crate) fn new(metrics: PhaseMetrics, bus: Bus) -> Self {
        Self { metrics, bus }
    }
}

impl<S> Layer<S> for AttemptLayer {
    type Service = Attempt<S>;

    fn layer(&self, inner: S) -> Attempt<S> {
        Attempt {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Attempt<S> {
    inner: S,
    layer: AttemptLayer,
}

impl<S> Service<StackCall> for Attempt<S>
where
    S: Service<StackCall, Response = PhaseReply, Error = StackError>,
{
    type Response = PhaseReply;
    type Error = StackError;
    type Future = AttemptFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: StackCall) -> Self::Future {
        request.attempted();
        self.layer.metrics.attempted();
        AttemptFuture {
            told: Told {
                request: request.clone(),
                bus: self.layer.bus.clone(),
            },
            inner: self.inner.call(request),
        }
    }
}

/// What is told of an attempt that fails.
struct Told {
    request: StackCall,
    bus: Bus,
}

impl Told {
    fn failed(&self, error: CallError) {
        let call = self.request.call();
        self.bus.emit(Event::AttemptFailed {
            run: call.run,
            step: call.step.clone(),
            plugin: call.plugin.clone(),
            phase: call.phase.clone(),
            attempt: self.request.attempt(),
            error,
        });
    }
}

pin_project! {
    pub(crate) struct AttemptFuture<F> {
        told: Told,
        #[pin]
        inner: F,
    }
}

impl<F> Future for AttemptFuture<F>
where
    F: Future<Output = Result<PhaseReply, StackError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = this.inner.poll(cx);
        if let Poll::Ready(Err(error)) = &polled {
            this.told.failed(error.clone().into());
        }
        polled
    }
}
