//! What one would write oneself: failsafe's breaker, governor's rate limit,
//! tokio's semaphore and timeout, one around the other. It does not retry.

use std::sync::Arc;

use failsafe::{
    StateMachine,
    backoff::EqualJittered,
    failure_policy::{ConsecutiveFailures, OrElse, SuccessRateOverTimeWindow},
    futures::CircuitBreaker as _,
};
use governor::{DefaultDirectRateLimiter, Quota};
use orchestrator_benches::policies::{Ask, CONCURRENT, Echo, Failure, TOTAL, call};
use tokio::sync::Semaphore;

use crate::contender::{Contender, Pair, calling};

/// failsafe's breaker as its documentation makes it.
pub(crate) type Breaker = StateMachine<
    OrElse<SuccessRateOverTimeWindow<EqualJittered>, ConsecutiveFailures<EqualJittered>>,
    (),
>;

pub(crate) fn breaker() -> Breaker {
    failsafe::Config::new().build()
}

/// A billion calls a second, and as many at once as can be written.
pub(crate) fn quota() -> Quota {
    Quota::per_second(std::num::NonZeroU32::MIN.saturating_add(999_999_999))
        .allow_burst(std::num::NonZeroU32::MAX)
}

pub(crate) const NAME: &str = "by hand: failsafe, governor, tokio";

pub(crate) fn stack() -> Pair {
    Pair::new(NAME, |echo| {
        let hand = Arc::new(Hand {
            breaker: breaker(),
            limiter: DefaultDirectRateLimiter::direct(quota()),
            slots: Semaphore::new(CONCURRENT),
        });
        Contender::new(move || {
            let (hand, mut echo) = (Arc::clone(&hand), echo);
            calling(
                async move |ask| hand.call(&mut echo, ask).await.is_ok(),
                true,
            )
        })
    })
}

struct Hand {
    breaker: Breaker,
    limiter: DefaultDirectRateLimiter,
    slots: Semaphore,
}

/// Why [`Hand`] gave no answer.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("too many calls")]
    Limited,
    #[error("circuit open")]
    Open,
    #[error("late")]
    Late,
    #[error(transparent)]
    Inner(Failure),
}

impl Hand {
    async fn call(&self, echo: &mut Echo, ask: Ask) -> Result<u64, Refused> {
        self.limiter.check().map_err(|_| Refused::Limited)?;
        let _slot = self.slots.acquire().await.map_err(|_| Refused::Limited)?;
        let attempt = async {
            match tokio::time::timeout(TOTAL, call(echo, ask)).await {
                Ok(answer) => answer.map_err(Refused::Inner),
                Err(_) => Err(Refused::Late),
            }
        };
        self.breaker
            .call(attempt)
            .await
            .map_err(|error| match error {
                failsafe::Error::Rejected => Refused::Open,
                failsafe::Error::Inner(inner) => inner,
            })
    }
}
