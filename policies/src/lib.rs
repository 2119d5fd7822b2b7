//! Resilience policies: one file each, one tower layer each.
//!
//! Each policy works alone, around any [`tower::Service`] that is `Clone`.
//! This crate knows nothing of what the services do, opens no socket and
//! writes no log; only a [`HealthMonitor`] starts tasks, and ends them. It
//! depends on no other crate of the project, and must stay so.
//!
//! | Policy | The failure it is for | Not for |
//! |---|---|---|
//! | [`deadline`] | a service that hangs | work that never yields |
//! | [`rate_limit`] | calls that come too often; a greedy tenant | a service that got slow |
//! | [`retry`] | failures that pass by themselves | overload; calls that may not happen twice |
//! | [`breaker`] | a service that is down | errors of the caller's own |
//! | [`fallback`] | callers for whom a plain answer is better than none | writes |
//! | [`health`] | a service that is down while nobody calls it | what the calls show already |
//! | [`bulkhead`] | a slow service that collects callers | bounding how often it is called |
//! | [`shed`] | overload in which the wrong calls are refused | calls that are all as important |
//! | [`mod@panic`] | a service that panics | `panic = "abort"` |
//!
//! # Parts
//!
//! What requests and results mean, a [`Classify`] says; it is the one thing
//! to write. A policy that ends a call makes a [`Refusal`], and the service's
//! error must be `From` that. What happens on the way, a [`Listener`] hears.
//! State that calls share is a handle whose clones share it ([`Breaker`],
//! [`Bulkhead`], [`RateLimiter`], [`RetryBudget`], [`Shed`]), so
//! that one breaker, say, may serve several stacks and be looked at.
//!
//! All services are always ready. Whether a call is let in is decided when
//! its future is first polled, and the inner service is made ready there too:
//! what a policy holds, it holds for a call, never for a service that nobody
//! calls. A future may be dropped at any time and gives back all it holds.
//!
//! Policies need a tokio runtime with time enabled, and follow its clock when
//! a test pauses it.
//!
//! # Order
//!
//! Outermost first, and not otherwise:
//!
//! ```
//! use std::time::Duration;
//!
//! use orchestrator_policies::{
//!     AttemptDeadlineLayer, Breaker, BreakerConfig, BreakerLayer, Bulkhead, BulkheadConfig, BulkheadLayer,
//!     CatchPanicLayer, Classify, RateLimitConfig, RateLimitLayer, RateLimiter, Refusal, RefusalKind,
//!     RetryConfig, RetryLayer, TotalDeadlineLayer, classify::refusal_in, clock::Instant,
//! };
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Debug, thiserror::Error)]
//! enum Error {
//!     #[error("nobody of that name")]
//!     Unknown,
//!     #[error(transparent)]
//!     Refused(#[from] Refusal),
//! }
//!
//! #[derive(Clone)]
//! struct Greet {
//!     name: &'static str,
//!     deadline: Option<Instant>,
//! }
//!
//! #[derive(Clone, Copy)]
//! struct Greetings;
//!
//! impl Classify<Greet, String, Error> for Greetings {
//!     fn refusal(&self, error: &Error) -> Option<RefusalKind> {
//!         refusal_in(error)
//!     }
//!     fn idempotent(&self, _: &Greet) -> bool {
//!         true
//!     }
//!     fn deadline(&self, greet: &Greet) -> Option<Instant> {
//!         greet.deadline
//!     }
//!     fn set_deadline(&self, greet: &mut Greet, deadline: Instant) {
//!         greet.deadline = Some(deadline);
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = RateLimiter::new(RateLimitConfig::default())?;
//! let breaker = Breaker::new(BreakerConfig::default())?;
//! let bulkhead = Bulkhead::new(BulkheadConfig::default())?;
//!
//! let service = ServiceBuilder::new()
//!     // Bounds everything below, queues and retries included.
//!     .layer(TotalDeadlineLayer::new(Duration::from_secs(30), Greetings))
//!     // Outside retry: one request is one token.
//!     .layer(RateLimitLayer::new(limiter, Greetings))
//!     // Outside the breaker: every attempt asks it.
//!     .layer(RetryLayer::new(RetryConfig::default(), Greetings)?)
//!     // Outside the bulkhead: what is refused anyway takes no slot.
//!     .layer(BreakerLayer::new(breaker.clone(), Greetings))
//!     // Inside retry: one that waits to try again holds no slot.
//!     .layer(BulkheadLayer::new(bulkhead, Greetings))
//!     // Inside the breaker: a timeout is a failure.
//!     .layer(AttemptDeadlineLayer::new(Duration::from_secs(10), Greetings))
//!     // Innermost: everybody above sees an error, and no panic.
//!     .layer(CatchPanicLayer::new())
//!     .service(service_fn(|greet: Greet| async move {
//!         match greet.name {
//!             "" => Err(Error::Unknown),
//!             name => Ok(format!("hello {name}")),
//!         }
//!     }));
//!
//! let greet = |name| service.clone().oneshot(Greet { name, deadline: None });
//! assert_eq!(greet("Ada").await?, "hello Ada");
//! assert!(matches!(greet("").await, Err(Error::Unknown)));
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start reading
//!
//! `classify.rs` and `refusal.rs`, then any policy: `deadline.rs` is the
//! shortest, `breaker.rs` the deepest. Each reads in the same order: what it
//! is for, configuration, layer, service, tests.

pub mod admission;
pub mod breaker;
pub mod bulkhead;
pub mod classify;
pub mod clock;
mod config;
pub mod deadline;
pub mod event;
pub mod fallback;
pub mod health;
pub mod latency;
pub mod order;
pub mod panic;
mod permits;
pub mod rate_limit;
pub mod refusal;
pub mod retry;
pub mod shed;
pub mod stack;
mod striped;
mod sync;
#[cfg(test)]
mod testing;
mod window;

pub use self::{
    admission::Admission,
    breaker::{Breaker, BreakerConfig, BreakerLayer, BreakerMode, BreakerSnapshot, BreakerState},
    bulkhead::{Bulkhead, BulkheadConfig, BulkheadLayer, BulkheadSnapshot},
    classify::{Classify, Outcome, Plain, RetryAdvice},
    config::{ConfigError, Ratio},
    deadline::{AttemptDeadline, AttemptDeadlineLayer, DeadlineConfig, TotalDeadline, TotalDeadlineLayer},
    event::{BreakerChange, ChangeReason, Listener, PolicyEvent, RetryStop},
    fallback::{Fallback, FallbackKind, FallbackLayer, LastGood, LastGoodConfig},
    health::{Health, HealthChange, HealthConfig, HealthMonitor, HealthSnapshot, TooManyChecks},
    latency::{Latency, LatencyLayer, LatencySnapshot},
    order::{OrderError, PolicyKind, check_order},
    panic::CatchPanicLayer,
    rate_limit::{Rate, RateLimitConfig, RateLimitLayer, RateLimiter},
    refusal::{Refusal, RefusalKind, TimeoutScope},
    retry::{Retry, RetryBudget, RetryBudgetConfig, RetryConfig, RetryLayer},
    shed::{Criticality, Shed, ShedConfig, ShedLayer, ShedSnapshot},
    stack::{Policies, Stack},
};
