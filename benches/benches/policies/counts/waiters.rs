//! How often is a caller looked at that waits for its turn at a rate limit?

use std::{
    future::poll_fn,
    num::{NonZeroU32, NonZeroUsize},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota};
use orchestrator_benches::policies::{Ask, Asks, Echo, call};
use orchestrator_policies::{Rate, RateLimitConfig, RateLimitLayer, RateLimiter};
use tokio::task::JoinSet;
use tower::Layer;

use super::Count;
use crate::{BenchError, contender::runtime};

pub(crate) const WAITERS: u64 = 100;
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

/// Polls a caller, of callers that come together and all come in.
pub(crate) fn count() -> Result<Vec<Count>, BenchError> {
    let limiter = RateLimiter::new(RateLimitConfig {
        overall: Some(Rate {
            calls: PER_SECOND,
            per: Duration::from_secs(1),
            burst: Some(NonZeroU32::MIN),
        }),
        max_wait: Duration::from_secs(10),
        max_queue: NonZeroUsize::MIN.saturating_add(1_023),
        ..RateLimitConfig::default()
    })?;
    let service = RateLimitLayer::new(limiter, Asks).layer(Echo { gives_way: false });
    let ours = polls(|| {
        let mut service = service.clone();
        async move { call(&mut service, Ask::new(0)).await.is_ok() }
    })?;
    let quota = Quota::per_second(PER_SECOND).allow_burst(NonZeroU32::MIN);
    let limiter = Arc::new(DefaultDirectRateLimiter::direct(quota));
    let governor = polls(|| {
        let limiter = Arc::clone(&limiter);
        async move {
            limiter.until_ready().await;
            true
        }
    })?;
    Ok(vec![
        Count::new("ours", ours),
        Count::new("governor, `until_ready`", governor),
    ])
}

fn polls<F>(caller: impl Fn() -> F) -> Result<f64, BenchError>
where
    F: Future<Output = bool> + Send + 'static,
{
    let polls = Arc::new(AtomicU64::new(0));
    let admitted = runtime().block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..WAITERS {
            let (caller, polls) = (caller(), Arc::clone(&polls));
            callers.spawn(async move {
                let mut caller = pin!(caller);
                let counting = poll_fn(|cx| {
                    polls.fetch_add(1, Relaxed);
                    caller.as_mut().poll(cx)
                });
                counting.await
            });
        }
        callers.join_all().await
    });
    if admitted.contains(&false) {
        return Err("a caller was refused that should have waited".into());
    }
    Ok(polls.load(Relaxed) as f64 / WAITERS as f64)
}
