//! The parts of the composition by hand, each alone.

use std::sync::Arc;

use failsafe::futures::CircuitBreaker as _;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter};
use orchestrator_benches::policies::{CONCURRENT, TOTAL, call};
use tokio::sync::Semaphore;

use super::by_hand::{breaker, quota};
use crate::contender::{Contender, Pair, calling};

pub(crate) fn single() -> Vec<Pair> {
    let limiter = Arc::new(DefaultDirectRateLimiter::direct(quota()));
    let keyed = Arc::new(DefaultKeyedRateLimiter::<u64>::keyed(quota()));
    let slots = Arc::new(Semaphore::new(CONCURRENT));
    vec![
        Pair::new("tokio: timeout", |mut echo| {
            Contender::new(move || {
                let call = async move |ask| {
                    let answer = tokio::time::timeout(TOTAL, call(&mut echo, ask)).await;
                    answer.is_ok_and(|answer| answer.is_ok())
                };
                calling(call, true)
            })
        }),
        Pair::new("governor: rate limit", |mut echo| {
            let limiter = Arc::clone(&limiter);
            Contender::new(move || {
                let limiter = Arc::clone(&limiter);
                let call =
                    async move |ask| limiter.check().is_ok() && call(&mut echo, ask).await.is_ok();
                calling(call, true)
            })
        }),
        Pair::new("governor: rate limit, one tenant of many", |mut echo| {
            let keyed = Arc::clone(&keyed);
            Contender::new(move || {
                let keyed = Arc::clone(&keyed);
                let call = async move |ask| {
                    keyed.check_key(&7).is_ok() && call(&mut echo, ask).await.is_ok()
                };
                calling(call, true)
            })
        }),
        Pair::new("failsafe: breaker", |mut echo| {
            let breaker = breaker();
            Contender::new(move || {
                let breaker = breaker.clone();
                let call = async move |ask| breaker.call(call(&mut echo, ask)).await.is_ok();
                calling(call, true)
            })
        }),
        Pair::new("tokio: semaphore", |mut echo| {
            let slots = Arc::clone(&slots);
            Contender::new(move || {
                let slots = Arc::clone(&slots);
                let call = async move |ask| {
                    let slot = slots.acquire().await;
                    slot.is_ok() && call(&mut echo, ask).await.is_ok()
                };
                calling(call, true)
            })
        }),
    ]
}
