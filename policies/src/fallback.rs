//! Answers in place of a service that fails.
//!
//! For: callers for whom an old or a plain answer is better than none: a list
//! without its recommendations, the exchange rate of a minute ago.
//!
//! Not for: writes, which must not seem to have happened; and answers on which
//! something depends that the caller cannot see is missing. A fallback that is
//! seldom used is seldom tested: it should do less than the service, not more.
//!
//! Goes outermost, so that it sees the refusals of all other policies. They
//! have taken note of the failure when it answers, so what it answers is no
//! success for any of them. It answers for refusals and for failures of the
//! service, not for mistakes of the caller's own; [`Classify::falls_back`]
//! tells them apart. That an answer is a fallback, an event says, and the
//! answer itself if [`Classify::mark_fallback`] marks it.
//!
//! The answer is a [`Value`], that of [another service](Other), or the [last
//! good one](LastGood). If there is none, the caller gets the first failure.

mod last_good;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service, util::Oneshot};

pub use self::last_good::{LastGood, LastGoodConfig, LastGoodOf};
use crate::{
    classify::{Classify, Outcome},
    event::{Emitter, Listener, PolicyEvent},
};

/// Where answers come from when the service fails.
pub trait Substitute<Req, Res, Err> {
    /// What it needs of the request, if the service should fail.
    type Kept;
    /// The answer.
    type Future: Future<Output = Result<Res, Err>>;

    /// Keeps what is needed of `request`. Called for every call.
    fn keep(&self, request: &Req) -> Self::Kept;

    /// Learns of a success of the service.
    fn learn(&self, kept: Self::Kept, response: &Res) {
        let _ = (kept, response);
    }

    /// An answer in place of `failed`, if it has one.
    fn answer(&self, kept: Self::Kept, failed: &Result<Res, Err>) -> Option<Self::Future>;

    /// What sort it is.
    fn kind(&self) -> FallbackKind;
}

/// What answered in place of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FallbackKind {
    /// A value.
    Value,
    /// Another service.
    Service,
    /// The last good answer.
    LastGood,
}

impl FallbackKind {
    /// The name to use in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Service => "service",
            Self::LastGood => "last_good",
        }
    }
}

/// A value for each failure, from a function; nothing for those that are to
/// stay failures.
#[derive(Clone)]
pub struct Value<F>(F);

impl<F> fmt::Debug for Value<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").finish_non_exhaustive()
    }
}

impl<F, Req, Res, Err> Substitute<Req, Res, Err> for Value<F>
where
    F: Fn(&Result<Res, Err>) -> Option<Res>,
{
    type Kept = ();
    type Future = Ready<Result<Res, Err>>;

    fn keep(&self, _: &Req) {}

    fn answer(&self, (): (), failed: &Result<Res, Err>) -> Option<Self::Future> {
        (self.0)(failed).map(|value| ready(Ok(value)))
    }

    fn kind(&self) -> FallbackKind {
        FallbackKind::Value
    }
}

/// Another service, asked the same. It needs policies of its own: a deadline
/// at least.
#[derive(Clone, Debug)]
pub struct Other<T>(T);

impl<T, Req, Res, Err> Substitute<Req, Res, Err> for Other<T>
where
    T: Service<Req, Response = Res, Error = Err> + Clone,
    Req: Clone,
{
    type Kept = Req;
    type Future = Oneshot<T, Req>;

    fn keep(&self, request: &Req) -> Req {
        request.clone()
    }

    fn answer(&self, request: Req, _: &Result<Res, Err>) -> Option<Self::Future> {
        Some(Oneshot::new(self.0.clone(), request))
    }

    fn kind(&self) -> FallbackKind {
        FallbackKind::Service
    }
}

/// Answers in place of the services that it wraps, when they fail.
#[derive(Debug)]
pub struct FallbackLayer<C, T>(Arc<Parts<C, T>>);

#[derive(Clone, Debug)]
struct Parts<C, T> {
    classify: C,
    substitute: T,
    emitter: Emitter,
}

impl<C, F> FallbackLayer<C, Value<F>> {
    /// Answers with what `value` makes of a failure.
    pub fn value(classify: C, value: F) -> Self {
        Self::new(classify, Value(value))
    }
}

impl<C, T> FallbackLayer<C, Other<T>> {
    /// Asks `service` when the first one fails. Every request is cloned.
    pub fn service(classify: C, service: T) -> Self {
        Self::new(classify, Other(service))
    }
}

impl<C, K, Res, F> FallbackLayer<C, LastGoodOf<K, Res, F>> {
    /// Answers with the last good answer of `answers` to a request of the same
    /// key. Requests that `key` gives none for have no fallback.
    pub fn last_good(classify: C, answers: LastGood<K, Res>, key: F) -> Self {
        Self::new(classify, LastGoodOf::new(answers, key))
    }
}

impl<C, T> FallbackLayer<C, T> {
    /// Answers with what `substitute` has.
    pub fn new(classify: C, substitute: T) -> Self {
        Self(Arc::new(Parts {
            classify,
            substitute,
            emitter: Emitter::default(),
        }))
    }

    /// Tells `listener` about answers that are fallbacks.
    #[must_use]
    pub fn with_listener(self, listener: Arc<dyn Listener>) -> Self
    where
        C: Clone,
        T: Clone,
    {
        let parts = Arc::unwrap_or_clone(self.0);
        let emitter = Emitter::new(listener);
        Self(Arc::new(Parts { emitter, ..parts }))
    }
}

impl<C, T> Clone for FallbackLayer<C, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, C, T> Layer<S> for FallbackLayer<C, T> {
    type Service = Fallback<S, C, T>;

    fn layer(&self, inner: S) -> Fallback<S, C, T> {
        let parts = Arc::clone(&self.0);
        Fallback { inner, parts }
    }
}

/// A service with a substitute. Always ready: the service is made ready when
/// a call's future is polled.
#[derive(Debug)]
pub struct Fallback<S, C, T> {
    inner: S,
    parts: Arc<Parts<C, T>>,
}

impl<S: Clone, C, T> Clone for Fallback<S, C, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            parts: Arc::clone(&self.parts),
        }
    }
}

impl<S, C, T, Req> Service<Req> for Fallback<S, C, T>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error>,
    T: Substitute<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FallbackFuture<S, C, T, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        FallbackFuture {
            kept: Some(self.parts.substitute.keep(&request)),
            answer: Some(Oneshot::new(self.inner.clone(), request)),
            substitute: None,
            failed: None,
            parts: Arc::clone(&self.parts),
        }
    }
}

pin_project! {
    /// The answer, its substitute, or the failure if there is neither.
    #[must_use = "futures do nothing unless polled"]
    pub struct FallbackFuture<S, C, T, Req>
    where
        S: Service<Req>,
        T: Substitute<Req, S::Response, S::Error>,
    {
        // Nothing once it has ended.
        #[pin]
        answer: Option<Oneshot<S, Req>>,
        #[pin]
        substitute: Option<T::Future>,
        // What the caller gets if the substitute fails too.
        failed: Option<Result<S::Response, S::Error>>,
        kept: Option<T::Kept>,
        parts: Arc<Parts<C, T>>,
    }
}

impl<S, C, T, Req> Future for FallbackFuture<S, C, T, Req>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    T: Substitute<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Parts {
            classify,
            substitute,
            emitter,
        } = &**this.parts;
        if let Some(answer) = this.answer.as_mut().as_pin_mut() {
            let result = ready!(answer.poll(cx));
            // What it holds is free before anything else is asked.
            this.answer.set(None);
            let Some(kept) = this.kept.take() else {
                unreachable!("it is taken once, here");
            };
            if !classify.falls_back(&result) {
                if let Ok(response) = &result
                    && classify.outcome(&result) == Outcome::Success
                {
                    substitute.learn(kept, response);
                }
                return Poll::Ready(result);
            }
            match substitute.answer(kept, &result) {
                Some(future) => this.substitute.set(Some(future)),
                None => return Poll::Ready(result),
            }
            *this.failed = Some(result);
        }
        let Some(future) = this.substitute.as_mut().as_pin_mut() else {
            // As every future does that is polled after its end.
            panic!("polled after it was ready");
        };
        let answer = ready!(future.poll(cx));
        this.substitute.set(None);
        let Some(failed) = this.failed.take() else {
            unreachable!("a substitute follows a failure");
        };
        let cause = failed.as_ref().err();
        let cause = cause.and_then(|error| classify.refusal(error));
        let by = substitute.kind();
        let Ok(mut response) = answer else {
            emitter.emit(&PolicyEvent::FallbackFailed { by, cause });
            return Poll::Ready(failed);
        };
        classify.mark_fallback(&mut response);
        emitter.emit(&PolicyEvent::FellBack { by, cause });
        Poll::Ready(Ok(response))
    }
}
