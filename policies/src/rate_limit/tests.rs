use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use tokio::{
    sync::mpsc,
    time::{advance, timeout},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::testing::{Ask, Fault, Script, Tester, recorder};

const TENTH: Duration = Duration::from_millis(100);

/// Ten calls a second, one at a time.
fn limiter(max_wait: Duration, max_queue: usize) -> RateLimiter {
    RateLimiter::new(RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::new(10).unwrap(),
            per: Duration::from_secs(1),
            burst: None,
        }),
        max_wait,
        max_queue: NonZeroUsize::new(max_queue).unwrap(),
        ..RateLimitConfig::default()
    })
    .unwrap()
}

fn limited(retry_after: Duration) -> Result<u32, Fault> {
    Err(Fault::Refused(Refusal::RateLimited { retry_after }))
}

fn endless() -> Script {
    Script::answers(vec![Ok(1); 1000])
}

#[tokio::test(start_paused = true)]
async fn refuses_at_once_unless_told_to_wait() {
    let (listener, events) = recorder();
    let script = endless();
    let service = RateLimitLayer::new(limiter(Duration::ZERO, 1), Tester)
        .with_listener(listener)
        .layer(script.clone());
    let ask = || service.clone().oneshot(Ask::default());

    assert_eq!(ask().await, Ok(1));
    assert_eq!(ask().await, limited(TENTH));
    advance(TENTH).await;
    assert_eq!(ask().await, Ok(1));

    assert_eq!(script.calls(), 2);
    assert_eq!(events.names(), ["refused rate_limited"]);
}

/// Whoever would wait in vain is not kept waiting.
#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_deadline_is_refused_before_it_begins() {
    let start = clock::now();
    let service = RateLimitLayer::new(limiter(Duration::from_secs(9), 9), Tester).layer(endless());
    let ask = |left| service.clone().oneshot(Ask::default().until(start + left));
    assert_eq!(ask(TENTH).await, Ok(1));

    assert_eq!(ask(TENTH - Duration::from_millis(1)).await, limited(TENTH));
    assert_eq!(clock::now(), start, "no time has passed");
    assert_eq!(ask(TENTH).await, Ok(1));
    assert_eq!(clock::now() - start, TENTH);
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_allowed_and_no_longer() {
    let start = clock::now();
    let service = RateLimitLayer::new(limiter(2 * TENTH, 9), Tester).layer(endless());
    let ask = || service.clone().oneshot(Ask::default());
    assert_eq!(ask().await, Ok(1));

    let (second, third, fourth) = tokio::join!(ask(), ask(), ask());

    assert_eq!((second, third), (Ok(1), Ok(1)));
    assert_eq!(
        fourth,
        limited(3 * TENTH),
        "its turn would come after three tenths"
    );
    assert_eq!(clock::now() - start, 2 * TENTH);
}

/// It would fill the queue that is meant for all.
#[tokio::test(start_paused = true)]
async fn a_tenant_beyond_its_own_rate_is_refused_at_once() {
    let per_tenant = Rate {
        calls: NonZeroU32::MIN,
        per: Duration::from_secs(1),
        burst: None,
    };
    let overall = Some(Rate {
        calls: NonZeroU32::new(10).unwrap(),
        ..per_tenant.clone()
    });
    let config = RateLimitConfig {
        overall,
        per_tenant: Some(per_tenant),
        max_wait: Duration::from_secs(9),
        ..RateLimitConfig::default()
    };
    let service = RateLimitLayer::new(RateLimiter::new(config).unwrap(), Tester).layer(endless());
    let start = clock::now();
    let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));

    assert_eq!(ask(1).await, Ok(1));
    assert_eq!(ask(1).await, limited(Duration::from_secs(1)));
    assert_eq!(clock::now(), start, "it did not wait");
    assert_eq!(ask(2).await, Ok(1));
    assert_eq!(
        clock::now(),
        start + TENTH,
        "the other waits for the overall rate"
    );
}

/// The one that leaves gives up its place, and nobody is overtaken.
#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_fair_and_survives_leavers() {
    let limiter = limiter(Duration::from_secs(9), 3);
    let (sender, mut order) = mpsc::unbounded_channel();
    let service =
        RateLimitLayer::new(limiter.clone(), Tester).layer(service_fn(move |ask: Ask| {
            sender.send((ask.tenant, clock::now())).unwrap();
            async { Ok::<u32, Fault>(0) }
        }));
    let start = clock::now();
    let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));
    assert_eq!(ask(0).await, Ok(0));
    let mut tasks = Vec::new();
    for tenant in 1..=3 {
        tasks.push(tokio::spawn(ask(tenant)));
        tokio::task::yield_now().await;
    }
    assert_eq!(limiter.snapshot(clock::now()).queued, 3);
    assert_eq!(ask(4).await, limited(4 * TENTH), "the queue is full");

    tasks.remove(0).abort();
    tokio::task::yield_now().await;
    assert_eq!(limiter.snapshot(clock::now()).queued, 2);
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(0));
    }

    assert_eq!(order.recv().await, Some((0, start)));
    assert_eq!(order.recv().await, Some((2, start + TENTH)));
    assert_eq!(order.recv().await, Some((3, start + 2 * TENTH)));
    assert_eq!(limiter.snapshot(clock::now()).queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_it_waits_takes_no_token() {
    let start = clock::now();
    let limiter = limiter(Duration::from_secs(9), 9);
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    let ask = || service.clone().oneshot(Ask::default());
    assert_eq!(ask().await, Ok(1));

    let left = timeout(TENTH / 2, ask()).await;

    assert!(left.is_err());
    assert_eq!(limiter.snapshot(clock::now()).queued, 0);
    assert_eq!(ask().await, Ok(1));
    assert_eq!(clock::now() - start, TENTH);
}

#[test]
fn rates_that_cannot_work_are_named() {
    let rate = |calls, per, burst| Rate {
        calls: NonZeroU32::new(calls).unwrap(),
        per,
        burst: NonZeroU32::new(burst),
    };
    let key = |overall: Option<Rate>, per_tenant: Option<Rate>, max_wait| {
        let config = RateLimitConfig {
            overall,
            per_tenant,
            max_wait,
            ..RateLimitConfig::default()
        };
        config.validate().map_err(|error| error.key)
    };
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));

    assert_eq!(key(None, None, Duration::ZERO), Ok(()));
    assert_eq!(key(Some(rate(10_000_000, second, 0)), None, second), Ok(()));
    assert_eq!(
        key(Some(rate(10_000_001, second, 0)), None, second),
        Err("overall")
    );
    assert_eq!(
        key(None, Some(rate(1, Duration::ZERO, 0)), Duration::ZERO),
        Err("per_tenant")
    );
    assert_eq!(key(None, Some(rate(1, day, 365)), Duration::ZERO), Ok(()));
    assert_eq!(
        key(None, Some(rate(1, day, 366)), Duration::ZERO),
        Err("per_tenant")
    );
    assert_eq!(key(None, None, second), Err("max_wait"));
}

/// Ten calls a second.
fn bursting(burst: Option<u32>, per_tenant: Option<u32>) -> RateLimiter {
    let rate = |calls: u32, burst: Option<u32>| Rate {
        calls: NonZeroU32::new(calls).unwrap(),
        per: Duration::from_secs(1),
        burst: burst.and_then(NonZeroU32::new),
    };
    RateLimiter::new(RateLimitConfig {
        overall: Some(rate(10, burst)),
        per_tenant: per_tenant.map(|calls| rate(calls, Some(calls))),
        ..RateLimitConfig::default()
    })
    .unwrap()
}

fn taken(limiter: &RateLimiter, tenant: u64, now: clock::Instant) -> usize {
    (0..1000)
        .filter(|_| limiter.try_take(tenant, now).is_ok())
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_what_was_asked_for_and_little_unless_asked() {
    let now = clock::now();

    assert_eq!(taken(&bursting(None, None), 0, now), 1);
    assert_eq!(taken(&bursting(Some(10), None), 0, now), 10);
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_back_on_time_and_not_before() {
    let start = clock::now();
    let limiter = bursting(None, None);
    assert_eq!(limiter.try_take(0, start), Ok(()));

    let tick = Duration::from_nanos(1);
    assert_eq!(limiter.try_take(0, start), Err(TENTH));
    assert_eq!(limiter.try_take(0, start + (TENTH - tick)), Err(tick));
    assert_eq!(limiter.try_take(0, start + TENTH), Ok(()));
}

/// Ten calls a second with a burst of ten: thirty take two seconds.
#[tokio::test(start_paused = true)]
async fn the_rate_holds_over_time() {
    let start = clock::now();
    let limiter = bursting(Some(10), None);
    let by = |seconds: u32| {
        (0..=seconds * 10)
            .map(|tenth| taken(&limiter, 0, start + tenth * TENTH))
            .sum::<usize>()
    };

    assert_eq!(by(2), 30);
}

#[tokio::test(start_paused = true)]
async fn a_greedy_tenant_takes_its_share_and_leaves_the_rest() {
    let now = clock::now();
    let limiter = bursting(Some(10), Some(4));

    assert_eq!(taken(&limiter, 1, now), 4);
    assert_eq!(taken(&limiter, 2, now), 4);
    assert_eq!(taken(&limiter, 3, now), 2, "there are ten for all");
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_there_is_no_limit() {
    let limiter = RateLimiter::new(RateLimitConfig::default()).unwrap();

    assert_eq!(taken(&limiter, 0, clock::now()), 1000);
}

fn tenths(calls: u32) -> RateLimitConfig {
    RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::new(calls).unwrap(),
            per: TENTH,
            burst: Some(NonZeroU32::MIN),
        }),
        max_wait: Duration::from_secs(1),
        ..RateLimitConfig::default()
    }
}

/// Five wait for one token in a tenth of a second each.
#[tokio::test(start_paused = true)]
async fn those_who_wait_follow_a_changed_rate() {
    let served_after = async |config: RateLimitConfig| {
        let (limiter, start) = (RateLimiter::new(tenths(1)).unwrap(), clock::now());
        let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
        let ask = || {
            service
                .clone()
                .oneshot(Ask::default().until(start + 6 * TENTH))
        };
        assert!(limiter.try_take(0, start).is_ok());
        let change = async {
            tokio::task::yield_now().await;
            assert_eq!(limiter.snapshot(start).queued, 5);
            assert!(
                limiter
                    .reconfigure(RateLimitConfig {
                        max_wait: Duration::MAX,
                        ..tenths(9)
                    })
                    .is_err()
            );
            limiter.reconfigure(config).unwrap();
        };
        let (answers, ()) = tokio::join!(
            async { tokio::join!(ask(), ask(), ask(), ask(), ask()) },
            change
        );
        assert_eq!(limiter.snapshot(start).queued, 0);
        let answers: [Result<u32, Fault>; 5] = answers.into();
        (answers.map(|answer| answer.is_ok()), clock::now() - start)
    };

    assert_eq!(served_after(tenths(1)).await, ([true; 5], 5 * TENTH));
    assert_eq!(served_after(tenths(10)).await, ([true; 5], TENTH / 2));
    let none = RateLimitConfig::default();
    assert_eq!(served_after(none).await, ([true; 5], Duration::ZERO));
    let slow = RateLimitConfig {
        overall: tenths(1).overall.map(|rate| Rate {
            per: 2 * TENTH,
            ..rate
        }),
        ..tenths(1)
    };
    let (answers, took) = served_after(slow).await;
    assert_eq!(answers, [true, true, true, false, false]);
    assert_eq!(took, 6 * TENTH);
}

/// Looks back at the limiter when it is dropped, as a waker may that is the
/// last to know of a task.
struct LooksBack(RateLimiter);

impl Wake for LooksBack {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LooksBack {
    fn drop(&mut self) {
        let _ = self.0.snapshot(clock::now());
    }
}

#[tokio::test(start_paused = true)]
async fn wakers_are_dropped_and_woken_without_a_lock() {
    let limiter = RateLimiter::new(tenths(1)).unwrap();
    let mut service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    assert!(limiter.try_take(0, clock::now()).is_ok());
    let waker = || Waker::from(Arc::new(LooksBack(limiter.clone())));
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Box::pin(service.call(Ask::default())))
        .collect();
    for _ in 0..2 {
        for call in &mut waiting {
            assert!(
                call.as_mut()
                    .poll(&mut Context::from_waker(&waker()))
                    .is_pending()
            );
        }
    }

    drop(waiting.swap_remove(0));
    advance(TENTH).await;
    let mut last = waiting.swap_remove(0);
    assert!(
        last.as_mut()
            .poll(&mut Context::from_waker(&waker()))
            .is_pending()
    );
    limiter.reconfigure(RateLimitConfig::default()).unwrap();
    drop(waiting);

    assert_eq!(limiter.snapshot(clock::now()).queued, 0);
}

/// They are told at once, and not when their time is up.
#[tokio::test(start_paused = true)]
async fn whoever_would_wait_in_vain_at_a_changed_rate_is_told_at_once() {
    let (limiter, start) = (RateLimiter::new(tenths(1)).unwrap(), clock::now());
    let service = RateLimitLayer::new(limiter.clone(), Tester).layer(endless());
    assert!(limiter.try_take(0, start).is_ok());
    let waiting = tokio::spawn(service.oneshot(Ask::default()));
    tokio::task::yield_now().await;

    let rate = Rate {
        per: Duration::from_secs(60),
        ..tenths(1).overall.unwrap()
    };
    let slow = RateLimitConfig {
        overall: Some(rate),
        ..tenths(1)
    };
    limiter.reconfigure(slow).unwrap();

    assert_eq!(waiting.await.unwrap(), limited(Duration::from_secs(60)));
    assert_eq!(clock::now(), start);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_loan_ends_with_the_rate() {
    let fast = |calls| RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::new(calls).unwrap(),
            per: Duration::from_secs(1),
            burst: None,
        }),
        ..RateLimitConfig::default()
    };
    let (limiter, now) = (RateLimiter::new(fast(1_000_000)).unwrap(), clock::now());
    // One, two, four, eight; and of the next sixteen all but one are left.
    (0..16).for_each(|_| limiter.try_take(0, now).unwrap());

    limiter.reconfigure(fast(1)).unwrap();

    assert!(limiter.try_take(0, now).is_err(), "the one token is taken");
}

#[tokio::test(start_paused = true)]
async fn tenants_keep_what_they_spent_and_what_they_did_not() {
    let config = |calls, max_tenants| RateLimitConfig {
        per_tenant: Some(Rate {
            calls: NonZeroU32::new(calls).unwrap(),
            per: Duration::from_secs(1),
            burst: NonZeroU32::new(calls),
        }),
        max_tenants: NonZeroUsize::new(max_tenants).unwrap(),
        ..RateLimitConfig::default()
    };
    let (limiter, now) = (RateLimiter::new(config(10, 2)).unwrap(), clock::now());
    let taken = |tenant| taken(&limiter, tenant, now);
    assert_eq!((taken(1), taken(2), taken(3)), (10, 10, 10));

    limiter.reconfigure(config(15, 3)).unwrap();

    assert_eq!((taken(1), taken(2)), (5, 5));
    assert_eq!(taken(3), 15, "there is room for one of its own");
    assert_eq!(taken(4), 5, "the shared one is what it was");
    assert_eq!(limiter.snapshot(now).tenants, 3);
}
