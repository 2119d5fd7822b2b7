//! What goes wrong with `governor` if it is used as it offers itself. Each test
//! shows that first; should `governor` be mended one day, it fails and says so.

use std::{
    future::poll_fn,
    num::NonZeroU32,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use governor::{Quota, clock::FakeRelativeClock};
use tokio::{sync::Mutex, task::JoinSet, time::timeout};
use tower::{Layer, ServiceExt, service_fn};

use super::{gcra::Bucket, *};
use crate::testing::{Ask, Fault, Script, Tester};

const SECOND: Duration = Duration::from_secs(1);

fn rate(calls: u32, per: Duration, burst: u32) -> Rate {
    let calls = NonZeroU32::new(calls).unwrap();
    let burst = NonZeroU32::new(burst);
    Rate { calls, per, burst }
}

fn config(overall: Rate) -> RateLimitConfig {
    RateLimitConfig {
        overall: Some(overall),
        ..RateLimitConfig::default()
    }
}

fn limiter(overall: Rate) -> RateLimiter {
    RateLimiter::new(config(overall)).unwrap()
}

fn taken(limiter: &RateLimiter, now: clock::Instant) -> usize {
    (0..1_000_000)
        .take_while(|_| limiter.try_take(0, now).is_ok())
        .count()
}

/// `Quota::per_second(100)` lets 199 calls in.
#[test]
fn trap_g01_a_rate_does_not_allow_nearly_twice_as_many_calls_in_its_first_second() {
    let quota = Quota::per_second(NonZeroU32::new(100).unwrap());
    let time = FakeRelativeClock::default();
    let naive = governor::RateLimiter::direct_with_clock(quota, time.clone());
    let let_in = (0..1000).map(|_| {
        let let_in = (0..200).take_while(|_| naive.check().is_ok()).count();
        time.advance(Duration::from_millis(1));
        let_in
    });
    assert_eq!(let_in.sum::<usize>(), 199);

    let (limiter, start) = (limiter(rate(100, SECOND, 0)), clock::now());

    let taken: usize = (0..1000)
        .map(|milli| taken(&limiter, start + Duration::from_millis(milli)))
        .sum();

    assert!((100..=110).contains(&taken), "{taken}");
}

/// `until_ready` waits on a clock of its own.
#[tokio::test(start_paused = true)]
async fn trap_g03_waiting_follows_the_runtimes_clock() {
    let quota = Quota::with_period(60 * SECOND).unwrap();
    let naive = governor::RateLimiter::direct(quota);
    assert!(naive.check().is_ok());
    let waits = timeout(3_600 * SECOND, naive.until_ready()).await;
    assert!(waits.is_err(), "an hour of the runtime's");

    let interval = Duration::from_millis(700);
    let config = RateLimitConfig {
        max_wait: SECOND,
        ..config(rate(1, interval, 1))
    };
    let limiter = RateLimiter::new(config).unwrap();
    let service = RateLimitLayer::new(limiter, Tester).layer(Script::answers([Ok(1), Ok(2)]));
    let start = clock::now();

    assert_eq!(service.clone().oneshot(Ask::default()).await, Ok(1));
    assert_eq!(service.oneshot(Ask::default()).await, Ok(2));

    assert_eq!(clock::now() - start, interval);
}

/// `governor` panics, or counts with numbers that ran over.
#[test]
fn trap_g04_a_burst_that_would_overflow_is_refused() {
    let year = 365 * 24 * 60 * 60 * SECOND;
    let burst = NonZeroU32::new(1_000_000).unwrap();
    let naive = std::panic::catch_unwind(|| {
        let quota = Quota::with_period(year).unwrap().allow_burst(burst);
        let naive = governor::RateLimiter::direct(quota);
        (0..=burst.get())
            .take_while(|_| naive.check().is_ok())
            .count()
    });
    assert_ne!(naive.ok(), Some(1_000_000));

    let error = config(rate(1, year, 1_000_000)).validate().unwrap_err();
    assert_eq!(error.key, "overall");

    let most = limiter(rate(31_536, year, 31_536));
    let start = clock::now();
    assert_eq!(taken(&most, start), 31_536);
    assert_eq!(taken(&most, start + year), 31_536);
}

/// How often twenty calls are looked at that wait with `until_ready`, whose
/// timers are not the runtime's.
fn naive_herd() -> u64 {
    let quota = Quota::with_period(SECOND / 200).unwrap();
    let naive = Arc::new(governor::RateLimiter::direct(quota));
    let polls = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let mut waiters = JoinSet::new();
        for _ in 0..20 {
            let naive = Arc::clone(&naive);
            let waits = async move { naive.until_ready().await };
            waiters.spawn(counted(waits, Arc::clone(&polls)));
        }
        waiters.join_all().await;
    });
    polls.load(Ordering::Relaxed)
}

/// Counts how often `call` is looked at.
async fn counted<F: Future>(call: F, polls: Arc<AtomicU64>) -> F::Output {
    let mut call = pin!(call);
    poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        call.as_mut().poll(cx)
    })
    .await
}

/// With `until_ready` a hundred calls that wait ask 5,150 times for a token,
/// and are served in any order.
#[tokio::test(start_paused = true)]
async fn trap_g05_waiters_do_not_herd() {
    const WAITERS: u64 = 100;
    let herd = std::thread::spawn(naive_herd).join().unwrap();
    assert!(herd > 5 * 20, "{herd} looks at twenty");

    for interval in [SECOND / 100, SECOND / 3, SECOND / 3000] {
        let config = RateLimitConfig {
            max_wait: 100 * SECOND,
            ..config(rate(1, interval, 1))
        };
        let limiter = RateLimiter::new(config).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::clone(&order);
        let service =
            RateLimitLayer::new(limiter.clone(), Tester).layer(service_fn(move |ask: Ask| {
                let served = Arc::clone(&served);
                async move {
                    served.lock().await.push(ask.tenant);
                    Ok::<u32, Fault>(0)
                }
            }));
        assert!(limiter.try_take(0, clock::now()).is_ok());
        let (asked, start) = (limiter.asked(), clock::now());
        let polls = Arc::new(AtomicU64::new(0));
        let mut waiters = JoinSet::new();
        for tenant in 0..WAITERS {
            let call = service.clone().oneshot(Ask::of_tenant(tenant));
            waiters.spawn(counted(call, Arc::clone(&polls)));
            tokio::task::yield_now().await;
        }
        waiters.join_all().await;

        let asked = limiter.asked() - asked;
        // The first finds no token and then waits; a timer that counts
        // milliseconds may wake two at once.
        assert!(asked <= WAITERS * 11 / 10, "{asked} for {interval:?}");
        let polls = polls.load(Ordering::Relaxed);
        assert_eq!(polls, 2 * WAITERS, "one to join, one when it is served");
        assert!(order.lock().await.iter().copied().eq(0..WAITERS));
        assert!(clock::now() - start >= interval * 100);
    }
}

/// An outer `Ok` of `check_n` says only that the tokens might be there one day.
#[test]
fn trap_g06_tokens_are_taken_together_or_not_at_all() {
    let bucket = Bucket::new(&rate(1, SECOND, 4));
    let take = |tokens, now| bucket.take_together(NonZeroU32::new(tokens).unwrap(), now);

    assert!(take(3, 0));
    assert!(!take(3, 0), "not now");
    assert!(!take(5, 1_000_000_000_000), "and never");
    assert_eq!(bucket.tokens(0), 1);
}

/// A quota cannot be changed, and a new limiter has a full bucket.
#[tokio::test(start_paused = true)]
async fn trap_governor_4_a_changed_rate_keeps_what_was_spent() {
    let naive = |calls| {
        let quota = Quota::per_second(NonZeroU32::new(calls).unwrap());
        let naive = governor::RateLimiter::direct(quota);
        (0..10).filter(|_| naive.check().is_ok()).count()
    };
    assert_eq!(naive(10), 10);
    assert_eq!(naive(20), 10, "the changed one knows nothing of those ten");

    let (limiter, now) = (limiter(rate(10, SECOND, 10)), clock::now());
    assert_eq!(taken(&limiter, now), 10);

    limiter.reconfigure(config(rate(1, SECOND, 20))).unwrap();
    assert_eq!(taken(&limiter, now), 10, "the bucket holds ten more");
    assert_eq!(taken(&limiter, now + 3 * SECOND), 3);

    limiter.reconfigure(config(rate(100, SECOND, 2))).unwrap();
    assert_eq!(taken(&limiter, now), 0);
    assert_eq!(
        taken(&limiter, now + SECOND / 100),
        1,
        "it was empty, and no less"
    );
}

/// Threads that check one `governor` meet at its word.
#[test]
fn trap_governor_6_few_calls_ask_the_bucket_that_all_threads_share() {
    let rate = rate(10_000_000, SECOND, 10_000_000);
    // Nothing but `governor` and a state that counts.
    let naive = Bucket::new(&rate);
    (0..10_000).for_each(|_| naive.take(1).unwrap());
    assert_eq!(naive.asked(), 10_000);

    let (limiter, now) = (limiter(rate), clock::now());

    (0..10_000).for_each(|_| limiter.try_take(0, now).unwrap());

    assert!(limiter.asked() <= 10_000 / 32 + 10, "{}", limiter.asked());
}

/// `governor` has no way to give a token back.
#[tokio::test(start_paused = true)]
async fn trap_governor_7_a_call_that_left_has_used_no_token() {
    let naive = governor::RateLimiter::direct(Quota::with_period(3_600 * SECOND).unwrap());
    let call = async {
        naive.until_ready().await;
        std::future::pending::<()>().await;
    };
    assert!(timeout(Duration::ZERO, call).await.is_err());
    assert!(naive.check().is_err(), "nobody has used the token");

    let config = RateLimitConfig {
        max_wait: 9 * SECOND,
        ..config(rate(1, SECOND, 1))
    };
    let limiter = RateLimiter::new(config).unwrap();
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(Script::hang());
    let ask = || service.clone().oneshot(Ask::default());
    assert!(limiter.try_take(0, clock::now()).is_ok());
    let (mut first, mut second) = (Box::pin(ask()), Box::pin(ask()));
    for call in [&mut first, &mut second] {
        assert!(timeout(Duration::ZERO, call).await.is_err());
    }
    // The second one's poll serves both of them, and the first does not know.
    tokio::time::advance(2 * SECOND).await;
    assert!(timeout(Duration::ZERO, &mut second).await.is_err());
    assert_eq!(limiter.snapshot(clock::now()).queued, 1);

    drop(first);

    assert_eq!(
        limiter.snapshot(clock::now()).queued,
        0,
        "the second is next"
    );
}
