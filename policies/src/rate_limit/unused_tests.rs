//! Tokens that calls had and did not use.

use tokio::time::{advance, timeout};
use tower::{Layer, ServiceExt};

use super::*;
use crate::testing::{Ask, Fault, Script, Tester};

fn limited(retry_after: Duration) -> Result<u32, Fault> {
    Err(Fault::Refused(Refusal::RateLimited { retry_after }))
}

fn endless() -> Script {
    Script::answers(vec![Ok(1); 1000])
}

/// A call a second for each tenant, and one in ten seconds for all, of which
/// two may wait.
fn two_rates() -> RateLimiter {
    let rate = |per| Rate {
        calls: NonZeroU32::MIN,
        per,
        burst: None,
    };
    RateLimiter::new(RateLimitConfig {
        overall: Some(rate(Duration::from_secs(10))),
        per_tenant: Some(rate(Duration::from_secs(1))),
        max_wait: Duration::from_secs(15),
        max_queue: NonZeroUsize::MIN,
        ..RateLimitConfig::default()
    })
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_gives_its_tenant_s_token_back() {
    let (limiter, start) = (two_rates(), clock::now());
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    let ask = || service.clone().oneshot(Ask::of_tenant(1));
    assert_eq!(limiter.try_take(2, start), Ok(()));

    for _ in 0..3 {
        assert!(
            timeout(Duration::ZERO, ask()).await.is_err(),
            "it waits: it has its tenant's token, which those before did not keep"
        );
    }
    assert_eq!(limiter.snapshot(clock::now()).queued, 0);
}

/// It has come back by itself while the call waited, and somebody has used it.
#[tokio::test(start_paused = true)]
async fn a_token_that_has_come_back_is_not_given_back_as_well() {
    let rate = |calls, per| Rate {
        calls: NonZeroU32::new(calls).unwrap(),
        per,
        burst: None,
    };
    let config = |overall| RateLimitConfig {
        overall: Some(overall),
        per_tenant: Some(rate(1, Duration::from_secs(1))),
        max_wait: Duration::from_secs(60),
        ..RateLimitConfig::default()
    };
    let limiter = RateLimiter::new(config(rate(1, Duration::from_secs(10)))).unwrap();
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    let ask = || service.clone().oneshot(Ask::of_tenant(1));
    assert_eq!(limiter.try_take(2, clock::now()), Ok(()));
    let (mut first, mut second) = (Box::pin(ask()), Box::pin(ask()));

    assert!(timeout(Duration::ZERO, &mut first).await.is_err());
    advance(Duration::from_secs(2)).await;
    assert!(timeout(Duration::ZERO, &mut second).await.is_err());
    drop(first);

    assert_eq!(ask().await, limited(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_refused_for_all_keeps_its_tenant_s_token() {
    let (limiter, start) = (two_rates(), clock::now());
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));
    let ten = Duration::from_secs(10);
    assert_eq!(limiter.try_take(2, start), Ok(()));
    assert_eq!(limiter.try_take(1, start), Err(ten), "all are used up");
    assert_eq!(limiter.try_take(1, start), Err(ten), "and not the tenant's");
    let waiting = tokio::spawn(ask(3));
    tokio::task::yield_now().await;

    for _ in 0..2 {
        assert_eq!(ask(1).await, limited(2 * ten), "the line is full");
    }
    // The line's own turn moves beyond what it would wait.
    let slow = RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::MIN,
            per: Duration::from_secs(100),
            burst: None,
        }),
        max_wait: Duration::from_secs(15),
        per_tenant: Some(Rate {
            calls: NonZeroU32::MIN,
            per: Duration::from_secs(1),
            burst: None,
        }),
        ..RateLimitConfig::default()
    };
    limiter.reconfigure(slow).unwrap();
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(limiter.try_take(3, start), Err(Duration::from_secs(100)));
}

/// What came back of it, and how fast, is of the rate before.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_rate_is_not_given_back() {
    let rate = |per| Rate {
        calls: NonZeroU32::MIN,
        per,
        burst: None,
    };
    let config = |per_tenant| RateLimitConfig {
        overall: Some(rate(Duration::from_secs(100))),
        per_tenant,
        max_wait: Duration::from_secs(500),
        ..RateLimitConfig::default()
    };
    let slow = Some(rate(Duration::from_secs(100)));
    let fast = Some(rate(Duration::from_secs(1)));
    // At the end the tenant has asked at the rate that counts, and is to wait.
    for between in [vec![fast.clone()], vec![None, slow.clone()]] {
        let limiter = RateLimiter::new(config(slow.clone())).unwrap();
        let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
        let ask = || service.clone().oneshot(Ask::of_tenant(1));
        assert_eq!(limiter.try_take(2, clock::now()), Ok(()));
        let mut first = Box::pin(ask());
        assert!(timeout(Duration::ZERO, &mut first).await.is_err());
        for per_tenant in between {
            limiter.reconfigure(config(per_tenant)).unwrap();
        }
        advance(Duration::from_secs(2)).await;
        let mut second = Box::pin(ask());
        assert!(timeout(Duration::ZERO, &mut second).await.is_err());

        drop(first);

        let third = timeout(Duration::ZERO, ask()).await;
        assert!(third.is_ok_and(|refused| refused.is_err()));
    }
}
