//! Policies as one tower layer.
//!
//! ```text
//! per call        total deadline, rate limit: what a caller meets once
//!   retry         each attempt meets what follows anew
//!     per attempt breaker, bulkhead, attempt deadline
//!       service
//! ```
//!
//! All of them run in one future. Layer by layer they did the same work, but
//! every layer copied what it wraps for each call, held a pointer of its own
//! and read the clock twice (`docs/adr/0009`). Any one of them is a stack of
//! one, so nothing about a policy is written twice.

mod future;
mod state;
mod timer;

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service};

pub use self::future::StackFuture;
use crate::{
    admission::Admission,
    classify::Classify,
    event::{Emitter, Listener},
    refusal::Refusal,
    retry::{Once, Repeat, Retry},
    striped::Spread,
};

/// Policies in the order in which a call meets them. A tower layer.
///
/// `C` classifies, `O` are the policies that a call meets once, `R` says
/// whether a failed attempt is repeated, `I` are the policies that each
/// attempt meets.
#[derive(Clone, Debug)]
pub struct Policies<C, O = (), R = Once, I = ()> {
    pub(crate) classify: C,
    pub(crate) per_call: O,
    pub(crate) retry: R,
    pub(crate) per_attempt: I,
    pub(crate) emitter: Emitter,
}

impl<C> Policies<C> {
    /// No policies, for requests and results that `classify` knows about.
    pub fn with(classify: C) -> Self {
        Self::assemble(classify, (), Once, ())
    }
}

impl<C, O, I> Policies<C, O, Once, I> {
    /// Tries failed attempts again.
    pub fn retry(self, retry: Retry) -> Policies<C, O, Retry, I> {
        Policies {
            classify: self.classify,
            per_call: self.per_call,
            retry,
            per_attempt: self.per_attempt,
            emitter: self.emitter,
        }
    }
}

impl<C, O, R, I> Policies<C, O, R, I> {
    pub(crate) fn assemble(classify: C, per_call: O, retry: R, per_attempt: I) -> Self {
        Self {
            classify,
            per_call,
            retry,
            per_attempt,
            emitter: Emitter::default(),
        }
    }

    /// Adds a policy that a call meets once, inside those added before. One that
    /// belongs to an attempt does not compile where the stack is called:
    ///
    /// ```compile_fail
    /// # use orchestrator_policies::*;
    /// # use tower::{Layer, Service, service_fn};
    /// # let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    /// let policies = Policies::with(Plain).per_call(CatchPanic);
    /// # policies
    /// #     .layer(service_fn(|()| async { Ok::<_, Refusal>(1) }))
    /// #     .call(());
    /// ```
    ///
    /// ```compile_fail
    /// # use orchestrator_policies::*;
    /// # use tower::{Layer, Service, service_fn};
    /// # let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    /// let policies = Policies::with(Plain).per_call(breaker);
    /// # policies
    /// #     .layer(service_fn(|()| async { Ok::<_, Refusal>(1) }))
    /// #     .call(());
    /// ```
    ///
    /// ```compile_fail
    /// # use orchestrator_policies::*;
    /// # use tower::{Layer, Service, service_fn};
    /// # let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    /// let policies = Policies::with(Plain).per_call(AttemptDeadline::new(std::time::Duration::MAX));
    /// # policies
    /// #     .layer(service_fn(|()| async { Ok::<_, Refusal>(1) }))
    /// #     .call(());
    /// ```
    pub fn per_call<A>(self, policy: A) -> Policies<C, (O, A), R, I> {
        Policies {
            classify: self.classify,
            per_call: (self.per_call, policy),
            retry: self.retry,
            per_attempt: self.per_attempt,
            emitter: self.emitter,
        }
    }

    /// Adds a policy that each attempt meets, inside those added before. One
    /// that belongs to the whole call does not compile where the stack is called:
    ///
    /// ```compile_fail
    /// # use orchestrator_policies::*;
    /// # use tower::{Layer, Service, service_fn};
    /// # let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    /// let policies = Policies::with(Plain).per_attempt(TotalDeadline::new(std::time::Duration::MAX));
    /// # policies
    /// #     .layer(service_fn(|()| async { Ok::<_, Refusal>(1) }))
    /// #     .call(());
    /// ```
    ///
    /// In its place each does:
    ///
    /// ```
    /// # use orchestrator_policies::*;
    /// # use tower::{Layer, Service, service_fn};
    /// # let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    /// let policies = Policies::with(Plain)
    ///     .per_call(TotalDeadline::new(std::time::Duration::MAX))
    ///     .per_attempt(breaker)
    ///     .per_attempt(AttemptDeadline::new(std::time::Duration::MAX))
    ///     .per_attempt(CatchPanic);
    /// # let _call = policies
    /// #     .layer(service_fn(|()| async { Ok::<_, Refusal>(1) }))
    /// #     .call(());
    /// ```
    pub fn per_attempt<A>(self, policy: A) -> Policies<C, O, R, (I, A)> {
        Policies {
            classify: self.classify,
            per_call: self.per_call,
            retry: self.retry,
            per_attempt: (self.per_attempt, policy),
            emitter: self.emitter,
        }
    }

    /// Tells `listener` about refusals and retries.
    #[must_use]
    pub fn with_listener(mut self, listener: Arc<dyn Listener>) -> Self {
        self.emitter = Emitter::new(listener);
        self
    }
}

impl<S, C, O, R, I> Layer<S> for Policies<C, O, R, I>
where
    Self: Clone,
{
    type Service = Stack<S, C, O, R, I>;

    fn layer(&self, inner: S) -> Self::Service {
        Stack {
            inner,
            policies: Spread::new(self),
        }
    }
}

/// A service behind [`Policies`]. Always ready: whether a call comes in is
/// decided when its future is first polled, and the service is made ready
/// there too. Copies share the policies.
#[derive(Debug)]
pub struct Stack<S, C, O, R, I> {
    inner: S,
    policies: Spread<Policies<C, O, R, I>>,
}

impl<S: Clone, C, O, R, I> Clone for Stack<S, C, O, R, I> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policies: self.policies.clone(),
        }
    }
}

impl<S, C, O, R, I, Req> Service<Req> for Stack<S, C, O, R, I>
where
    S: Service<Req> + Clone,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error>,
    O: Admission<Req, S::Response, S::Error>,
    R: Repeat<Req>,
    I: Admission<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = StackFuture<S, C, O, R, I, Req>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        const {
            assert!(
                O::PER_CALL,
                "a policy of an attempt is among those of a call"
            );
            assert!(
                I::PER_ATTEMPT,
                "a policy of a call is among those of an attempt"
            );
        }
        StackFuture::new(self.policies.local(), self.inner.clone(), request)
    }
}
