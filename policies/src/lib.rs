//! Resilience policies for any [`tower::Service`] that is `Clone`.
//!
//! This crate knows nothing of what the services do, opens no socket and
//! writes no log; only a [`HealthMonitor`] starts tasks, and ends them. It
//! depends on no other crate of the project, and must stay so.
//!
//! # Which policy for which failure
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
//! | [`latency`] | nobody knows how long calls take | telling calls apart |
//!
//! A service across a network wants both deadlines, retry, breaker and
//! bulkhead. One in the same process wants them too, and [`CatchPanic`].
//! The others wait until somebody can name the failure that they are for.
//!
//! # A stack of policies
//!
//! ```
//! use std::time::Duration;
//!
//! use orchestrator_policies::{
//!     AttemptDeadline, Breaker, BreakerConfig, Bulkhead, BulkheadConfig, CatchPanic, Classify, Policies,
//!     RateLimitConfig, RateLimiter, Refusal, RefusalKind, Retry, RetryConfig, TotalDeadline,
//!     classify::refusal_in, clock::Instant,
//! };
//! use tower::{Layer, ServiceExt, service_fn};
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
//! let breaker = Breaker::new(BreakerConfig::default())?;
//! let policies = Policies::with(Greetings)
//!     // Bounds everything below, queues and retries included.
//!     .per_call(TotalDeadline::new(Duration::from_secs(30)))
//!     // Outside retry: one request is one token.
//!     .per_call(RateLimiter::new(RateLimitConfig::default())?)
//!     // Outside the breaker: every attempt asks it.
//!     .retry(Retry::new(RetryConfig::default())?)
//!     // Outside the bulkhead: what is refused anyway takes no slot.
//!     .per_attempt(breaker.clone())
//!     // Inside retry: one that waits to try again holds no slot.
//!     .per_attempt(Bulkhead::new(BulkheadConfig::default())?)
//!     // Inside the breaker: a timeout is a failure.
//!     .per_attempt(AttemptDeadline::new(Duration::from_secs(10)))
//!     // Innermost: everybody above sees an error, and no panic.
//!     .per_attempt(CatchPanic);
//!
//! let service = policies.layer(service_fn(|greet: Greet| async move {
//!     match greet.name {
//!         "" => Err(Error::Unknown),
//!         name => Ok(format!("hello {name}")),
//!     }
//! }));
//!
//! let greet = |name| service.clone().oneshot(Greet { name, deadline: None });
//! assert_eq!(greet("Ada").await?, "hello Ada");
//! assert!(matches!(greet("").await, Err(Error::Unknown)));
//! # Ok(())
//! # }
//! ```
//!
//! [A whole HTTP client](#an-http-client) is at the end.
//!
//! What requests and results mean, a [`Classify`] says; it is the one thing
//! to write. A policy that ends a call makes a [`Refusal`], and the service's
//! error must be `From` that. What happens on the way, a [`Listener`] hears.
//! State that calls share is a handle whose clones share it ([`Breaker`],
//! [`Bulkhead`], [`RateLimiter`], [`Retry`], [`RetryBudget`], [`Shed`]), so
//! that one breaker, say, may serve several stacks and be looked at. A handle
//! takes new settings while it works, by `reconfigure`, and keeps what it
//! knows; settings that cannot work change nothing.
//!
//! Each policy is a layer by itself, too: [`BreakerLayer`], [`RetryLayer`] and
//! so on are stacks of one. Put around one another they do the same, and only
//! cost more.
//!
//! All services are always ready. Whether a call is let in is decided when
//! its future is first polled, and the inner service is made ready there too:
//! what a policy holds, it holds for a call, never for a service that nobody
//! calls. A future may be dropped at any time and gives back all it holds.
//!
//! Policies need a tokio runtime with time enabled, and follow its clock when
//! a test pauses it.
//!
//! # The order, and why
//!
//! [`PolicyKind::ALL`] is the order, outermost first. Any may be left out. An
//! order from a configuration is checked by [`check_order`], which says what
//! the wrong one would do:
//!
//! ```
//! use orchestrator_policies::{PolicyKind::{Breaker, Retry}, check_order};
//!
//! assert!(check_order(&[Retry, Breaker]).is_ok());
//! let error = check_order(&[Breaker, Retry]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "`breaker` is outside `retry`: the breaker would see one failure for a whole chain of attempts, \
//!      and the chain would go on while it is open",
//! );
//! ```
//!
//! | Outside | because | or else |
//! |---|---|---|
//! | fallback | it answers for every refusal below, and no policy counts its answer as a success | an outer breaker takes its answers for successes and never opens |
//! | total deadline | queues, pauses and attempts all spend the caller's time | inside retry each attempt has the whole time anew |
//! | shed | the cheapest refusal comes first, before tokens are spent | calls that are turned away use up tokens |
//! | rate limit | one request is one token, however often it is tried | inside retry failures use up the rate of calls that succeed |
//! | retry | every attempt asks the breaker; one that pauses holds no slot | an outer breaker sees one failure for three, and the chain goes on while it is open |
//! | breaker | what an open circuit refuses takes no slot; a timeout is a failure | inside the bulkhead what it refuses has waited for a slot first |
//! | bulkhead | to wait for a slot takes nothing from an attempt's time | inside the attempt deadline a wait in line looks like a slow service |
//! | attempt deadline | a hung attempt leaves time for another | around retry alone it cuts off all attempts together |
//! | panic | everybody above sees an error | a panic passes the breaker as no failure, and kills the caller's task |
//!
//! # After an outage
//!
//! A service that comes back has empty caches, and callers that tried in vain
//! all come at once. [`BreakerConfig::ramp`] lets them in by and by, and the
//! [`RetryBudget`] keeps them from coming three times each:
//!
#![doc = include_str!("../../docs/figures/recovery.svg")]
//!
//! # Retries of retries
//!
//! Retry in one place, the one that knows what may be repeated. Where several
//! services of one chain retry all the same, the request carries one
//! [`AttemptBudget`] through them, and [`Classify::attempt_budget`] shows it:
//! together they then make no more attempts than it holds.
//!
//! # To add a policy
//!
//! One file: a pure core that takes `now`, and an [`Admission`] for it. The
//! stack reads the clock, waits, and calls
//! [`settle`](Admission::settle) exactly once, whether the call was answered,
//! refused, dropped or panicked.
//!
//! ```
//! use std::{
//!     sync::{Arc, atomic::{AtomicBool, Ordering}},
//!     task::{Context, Poll},
//! };
//!
//! use orchestrator_policies::{
//!     Admission, Criticality, Plain, Policies, Refusal, admission::{Call, End},
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! /// Turns away what is not critical while there is maintenance.
//! #[derive(Clone, Default)]
//! struct Maintenance(Arc<AtomicBool>);
//!
//! impl<Req, Res, Err> Admission<Req, Res, Err> for Maintenance {
//!     type Hold = ();
//!     const WAITS: bool = false;
//!
//!     fn poll_admit(
//!         &self,
//!         (): &mut (),
//!         call: &mut Call,
//!         _: &Req,
//!         _: &mut Context<'_>,
//!     ) -> Poll<Result<(), Refusal>> {
//!         let criticality = call.criticality();
//!         if self.0.load(Ordering::Relaxed) && criticality <= Criticality::Critical {
//!             return Poll::Ready(Err(Refusal::Shed { criticality, limit: 0 }));
//!         }
//!         Poll::Ready(Ok(()))
//!     }
//!
//!     fn settle(&self, (): &mut (), _: &mut Call, _: &End<'_, Res, Err>) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let maintenance = Maintenance::default();
//! let service = Policies::with(Plain)
//!     .per_call(maintenance.clone())
//!     .layer(service_fn(|()| async { Ok::<_, Refusal>("done") }));
//!
//! assert_eq!(service.clone().oneshot(()).await, Ok("done"));
//! maintenance.0.store(true, Ordering::Relaxed);
//! assert!(service.oneshot(()).await.is_err());
//! # }
//! ```
//!
//! In this crate it also gets a configuration with `validate`, an alias of
//! [`Policies`] with `new`, a place in [`PolicyKind`], and a [`RefusalKind`]
//! if it refuses. `shed.rs` is the one to follow: it has all of these, and no
//! more.
//!
//! # Where to start reading
//!
//! `classify.rs`, `refusal.rs` and `admission.rs`, then any policy:
//! `shed.rs` shows the pattern best, `breaker.rs` is the deepest. Each reads in the
//! same order: what it is for, configuration, layer, core, tests.
//!
//! # An HTTP client
//!
//! `cargo run -p orchestrator-policies --example http_client` shows how it
//! fares with a server that stumbles, hangs and goes down.
//!
//! ```no_run
#![doc = include_str!("../examples/http_client.rs")]
//! ```
//!
//! # Names elsewhere
//!
#![doc = include_str!("../NAMES.md")]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
    deadline::{
        AttemptDeadline, AttemptDeadlineLayer, DeadlineConfig, TotalDeadline, TotalDeadlineLayer,
    },
    event::{BreakerChange, ChangeReason, Listener, PolicyEvent, RetryStop},
    fallback::{Fallback, FallbackKind, FallbackLayer, LastGood, LastGoodConfig},
    health::{Health, HealthChange, HealthConfig, HealthMonitor, HealthSnapshot, TooManyChecks},
    latency::{Latency, LatencyLayer, LatencySnapshot},
    order::{OrderError, PolicyKind, check_order},
    panic::{CatchPanic, CatchPanicLayer},
    rate_limit::{Rate, RateLimitConfig, RateLimitLayer, RateLimitSnapshot, RateLimiter},
    refusal::{Refusal, RefusalKind, TimeoutScope},
    retry::{
        AttemptBudget, Jitter, Retry, RetryBudget, RetryBudgetConfig, RetryConfig, RetryLayer,
    },
    shed::{Criticality, Shed, ShedConfig, ShedLayer, ShedSnapshot},
    stack::{Policies, Stack},
};
