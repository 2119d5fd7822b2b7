//! How many attempts a service gets for each request, in virtual time.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use orchestrator_policies::{Retry, RetryBudgetConfig, RetryConfig};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use crate::{Call, Calls, Failed};

const REQUESTS: u64 = 20_000;
/// 500 requests a second.
const GAP: Duration = Duration::from_millis(2);

/// Attempts for each of many requests, of which each attempt fails with the
/// chance of `failing` in a hundred.
async fn attempts_per_request(retry: Retry, failing: u32) -> f64 {
    let attempts = Arc::new(AtomicU64::new(0));
    let rng = Arc::new(std::sync::Mutex::new(Rng::with_seed(u64::from(failing))));
    let counter = Arc::clone(&attempts);
    let service = orchestrator_policies::Policies::with(Calls)
        .retry(retry.with_seed(7))
        .layer(service_fn(move |_: Call| {
            counter.fetch_add(1, Ordering::Relaxed);
            let fails = rng.lock().unwrap().u32(0..100) < failing;
            async move { if fails { Err(Failed::Broken) } else { Ok(1) } }
        }));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        calls.spawn(service.clone().oneshot(Call::default()));
        advance(GAP).await;
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
    attempts.load(Ordering::Relaxed) as f64 / REQUESTS as f64
}

fn retry(max_attempts: u32, budget: RetryBudgetConfig) -> Retry {
    Retry::new(RetryConfig {
        max_attempts: NonZeroU32::new(max_attempts).unwrap(),
        budget,
        ..RetryConfig::default()
    })
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_failing_service_gets_at_most_a_tenth_more_attempts_than_requests() {
    for failing in [50, 90, 100] {
        let retry = retry(4, RetryBudgetConfig::default());
        let attempts = attempts_per_request(retry, failing).await;

        assert!(attempts <= 1.10, "{failing} %: {attempts}");
        assert!(
            attempts > 1.08,
            "{failing} %: {attempts}, the budget is there to be used"
        );
    }
}

/// What a healthy service needs, it gets.
#[tokio::test(start_paused = true)]
async fn a_service_that_seldom_fails_has_every_failure_repaired() {
    let retry = retry(4, RetryBudgetConfig::default());

    let attempts = attempts_per_request(retry, 5).await;

    assert!((1.04..1.07).contains(&attempts), "{attempts}");
}

/// A budget that each success pays for grants a retry per success: at half
/// failing, as many as anybody asks for.
#[tokio::test(start_paused = true)]
async fn trap_b01_a_budget_earned_by_successes_limits_nothing() {
    let naive = {
        let (mut tokens, mut attempts) = (100_u64, 0_u64);
        let mut rng = Rng::with_seed(50);
        for _ in 0..REQUESTS {
            for attempt in 1..=4 {
                attempts += 1;
                if rng.u32(0..100) >= 50 {
                    tokens = (tokens + 1).min(100);
                    break;
                }
                if attempt == 4 || tokens == 0 {
                    break;
                }
                tokens -= 1;
            }
        }
        attempts as f64 / REQUESTS as f64
    };
    let ours = attempts_per_request(retry(4, RetryBudgetConfig::default()), 50).await;

    assert!(naive > 1.8, "{naive}");
    assert!(ours <= 1.10, "{ours}");
}
