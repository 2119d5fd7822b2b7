//! Retry as a layer.

use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;
use tower::{Layer, ServiceExt};

use super::*;
use crate::{
    refusal::{Refusal, TimeoutScope},
    retry::RetryConfig,
    testing::{Ask, Events, Fault, Script, Tester, recorder},
};

const SECOND: Duration = Duration::from_secs(1);

fn layer(change: impl FnOnce(&mut RetryConfig)) -> (RetryLayer<Tester>, Events) {
    let mut config = RetryConfig::default();
    change(&mut config);
    let (listener, events) = recorder();
    let layer = RetryLayer::new(config, Tester).unwrap();
    (layer.with_listener(listener).with_seed(7), events)
}

fn broken(times: usize) -> Script {
    Script::answers(vec![Err(Fault::Broken); times])
}

#[tokio::test(start_paused = true)]
async fn makes_as_many_attempts_as_allowed_and_numbers_them() {
    let script = broken(9);
    let (layer, events) = layer(|_| ());

    let result = layer.layer(script.clone()).oneshot(Ask::default()).await;

    assert_eq!(result, Err(Fault::Broken));
    let numbers: Vec<u32> = script.seen().iter().map(|ask| ask.attempt).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(events.names(), ["retry 2", "retry 3", "stop 3 exhausted"]);
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_it() {
    let script = Script::answers([Err(Fault::Broken), Ok(7), Err(Fault::Broken)]);
    let (layer, events) = layer(|_| ());

    assert_eq!(
        layer.layer(script.clone()).oneshot(Ask::default()).await,
        Ok(7)
    );

    assert_eq!(script.calls(), 2);
    assert_eq!(events.names(), ["retry 2"]);
}

/// As a response with status 503 is for a client.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_a_failure_is_tried_again_and_the_last_one_counts() {
    for (answers, once_only, last, calls) in [
        ([Ok(503), Ok(7), Ok(8)], false, 7, 2),
        ([Ok(503), Ok(503), Ok(503)], false, 503, 3),
        ([Ok(503), Ok(7), Ok(8)], true, 503, 1),
    ] {
        let script = Script::answers(answers);
        let (layer, _) = layer(|_| ());
        let ask = Ask {
            once_only,
            ..Ask::default()
        };

        let result = layer.layer(script.clone()).oneshot(ask).await;

        assert_eq!((result, script.calls()), (Ok(last), calls));
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_means_no_retry() {
    let script = broken(9);
    let (layer, events) = layer(|config| config.max_attempts = NonZeroU32::MIN);

    let result = layer.layer(script.clone()).oneshot(Ask::default()).await;

    assert_eq!((result, script.calls()), (Err(Fault::Broken), 1));
    assert!(events.names().is_empty());
}

/// At least one attempt is made, or a request that was taken up again too
/// late would never get an answer.
#[tokio::test(start_paused = true)]
async fn attempts_made_before_count() {
    let cases: [(u32, &[u32], &[&str]); 3] = [
        (1, &[2, 3], &["retry 3", "stop 3 exhausted"]),
        (2, &[3], &["stop 3 exhausted"]),
        (7, &[8], &["stop 8 exhausted"]),
    ];
    for (made, numbers, told) in cases {
        let script = broken(9);
        let (layer, events) = layer(|_| ());
        let ask = Ask {
            made,
            ..Ask::default()
        };

        let result = layer.layer(script.clone()).oneshot(ask).await;

        assert_eq!(result, Err(Fault::Broken));
        let seen: Vec<u32> = script.seen().iter().map(|ask| ask.attempt).collect();
        assert_eq!(
            (&*seen, events.names()),
            (numbers, told.iter().map(|it| it.to_string()).collect())
        );
    }
}

/// What each error leads to, for a request that may be repeated and for
/// one that may not.
#[tokio::test(start_paused = true)]
async fn only_what_does_no_harm_and_may_help_is_repeated() {
    let timeout = |scope| Refusal::Timeout {
        scope,
        limit: SECOND,
    };
    let retry_after = SECOND;
    let cases = [
        (Fault::Broken, 3, 1),
        (Fault::Invalid, 1, 1),
        (Fault::Busy(SECOND), 3, 3),
        (timeout(TimeoutScope::Attempt).into(), 3, 1),
        (timeout(TimeoutScope::Total).into(), 1, 1),
        (Refusal::CircuitOpen { retry_after }.into(), 1, 1),
        (Refusal::RateLimited { retry_after }.into(), 1, 1),
        (
            Refusal::Other {
                policy: "maintenance",
                retry_after: None,
            }
            .into(),
            1,
            1,
        ),
        (
            Refusal::Overloaded {
                limit: 1,
                queued: 0,
            }
            .into(),
            1,
            1,
        ),
        (
            Refusal::Panicked {
                message: String::new(),
            }
            .into(),
            3,
            1,
        ),
    ];
    for (fault, idempotent, once_only) in cases {
        for (repeatable, expected) in [(true, idempotent), (false, once_only)] {
            let script = Script::answers(vec![Err(fault.clone()); 9]);
            let ask = Ask {
                once_only: !repeatable,
                ..Ask::default()
            };
            let result = layer(|_| ()).0.layer(script.clone()).oneshot(ask).await;

            assert_eq!(result, Err(fault.clone()));
            assert_eq!(
                script.calls(),
                expected,
                "{fault:?}, repeatable: {repeatable}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_waits() {
    let waits = |seed| async move {
        let (layer, events) = layer(|config| config.max_attempts = NonZeroU32::new(9).unwrap());
        let start = clock::now();
        let result = layer
            .with_seed(seed)
            .layer(broken(9))
            .oneshot(Ask::default())
            .await;
        assert_eq!(result, Err(Fault::Broken));
        (clock::now() - start, events.all())
    };

    let (first, again, other) = (waits(1).await, waits(1).await, waits(2).await);

    assert_eq!(first.1, again.1);
    assert_ne!(first.1, other.1);
    assert!(first.0 > Duration::ZERO, "it waited");
}

/// The wait is known before it begins, so nobody sleeps into a deadline.
#[tokio::test(start_paused = true)]
async fn gives_up_without_sleeping_when_the_deadline_comes_first() {
    let asked = |left| async move {
        let (layer, events) = layer(|_| ());
        let script = Script::answers([Err(Fault::Busy(SECOND)), Ok(1)]);
        let start = clock::now();
        let result = layer
            .layer(script)
            .oneshot(Ask::default().until(start + left))
            .await;
        (result, clock::now() - start, events.names())
    };

    let (result, took, events) = asked(SECOND).await;
    assert_eq!((result, took), (Err(Fault::Busy(SECOND)), Duration::ZERO));
    assert_eq!(events, ["stop 1 deadline"]);

    let (result, took, _) = asked(SECOND + Duration::from_millis(1)).await;
    assert_eq!((result, took), (Ok(1), SECOND));
}

#[tokio::test(start_paused = true)]
async fn clones_share_a_budget_that_holds_retries_to_a_part_of_all() {
    let (layer, events) = layer(|config| config.budget.reserve = 0);
    let script = broken(2000);
    for _ in 0..1000 {
        let result = layer
            .clone()
            .layer(script.clone())
            .oneshot(Ask::default())
            .await;
        assert_eq!(result, Err(Fault::Broken));
    }

    let attempts = script.calls();
    assert!((1090..=1100).contains(&attempts), "{attempts}");
    assert!(events.names().contains(&"stop 1 budget".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_dropped_before_the_wait() {
    struct Attempt(#[expect(dead_code, reason = "held for its drop")] Script);

    impl Future for Attempt {
        type Output = Result<u32, Fault>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Err(Fault::Busy(SECOND)))
        }
    }

    let script = Script::hang();
    let held = script.clone();
    let (layer, _) = layer(|_| ());
    let service = layer.layer(tower::service_fn(move |_: Ask| Attempt(held.clone())));

    let mut call = Box::pin(service.oneshot(Ask::default()));
    let waited = timeout(SECOND / 2, &mut call).await;

    assert!(waited.is_err(), "it waits for the second attempt");
    assert_eq!(
        script.holders(),
        2,
        "the test and the service, but no attempt"
    );
}

/// Three retries around one another, each with traffic enough to retry all.
async fn nested(left: Option<AttemptBudget>) -> (usize, Vec<String>) {
    let script = broken(99);
    let (listener, events) = recorder();
    let layer = || {
        let config = RetryConfig {
            budget: RetryBudgetConfig {
                reserve: 100,
                ..RetryBudgetConfig::default()
            },
            ..RetryConfig::default()
        };
        let layer = RetryLayer::new(config, Tester).unwrap();
        layer.with_listener(Arc::clone(&listener))
    };
    let service = layer().layer(layer().layer(layer().layer(script.clone())));
    let ask = Ask {
        left,
        ..Ask::default()
    };

    assert_eq!(service.oneshot(ask).await, Err(Fault::Broken));
    (script.calls(), events.names())
}

#[tokio::test(start_paused = true)]
async fn nested_retries_do_not_multiply_where_the_request_carries_its_attempts() {
    assert_eq!(nested(None).await.0, 27, "three times three times three");

    for attempts in [1, 2, 3, 5] {
        let left = AttemptBudget::new(NonZeroU32::new(attempts).unwrap());
        let (calls, events) = nested(Some(left.clone())).await;

        assert_eq!(calls, attempts as usize);
        assert_eq!(left.left(), 0);
        assert!(events.iter().any(|event| event.ends_with("exhausted")));
    }
}

/// What the budget of all refuses is not taken from the request's.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_not_made_is_not_taken_from_the_request() {
    let left = AttemptBudget::new(NonZeroU32::new(3).unwrap());
    let (layer, events) = layer(|config| config.budget.reserve = 0);
    let ask = Ask {
        left: Some(left.clone()),
        ..Ask::default()
    };

    let result = layer.layer(broken(9)).oneshot(ask).await;

    assert_eq!(result, Err(Fault::Broken));
    assert_eq!(events.names(), ["stop 1 budget"]);
    assert_eq!(left.left(), 2);
}

#[tokio::test(start_paused = true)]
async fn decorrelated_waits_grow_from_the_base_and_know_the_last() {
    let (layer, events) = layer(|config| {
        config.max_attempts = NonZeroU32::new(9).unwrap();
        config.jitter = Jitter::Decorrelated;
    });

    let result = layer.layer(broken(9)).oneshot(Ask::default()).await;

    assert_eq!(result, Err(Fault::Broken));
    let waits = events.all().into_iter().filter_map(|event| match event {
        crate::PolicyEvent::RetryScheduled { delay, .. } => Some(delay),
        _ => None,
    });
    let (base, mut last, mut grown) = (Duration::from_millis(100), Duration::ZERO, false);
    for wait in waits {
        assert!(
            wait >= base && wait <= 3 * last.max(base),
            "{wait:?} after {last:?}"
        );
        grown |= wait > 3 * base;
        last = wait;
    }
    assert!(grown, "the last wait is not forgotten");
}

#[tokio::test(start_paused = true)]
async fn new_settings_keep_the_budgets_memory_and_wrong_ones_change_nothing() {
    let retry = Retry::new(RetryConfig::default()).unwrap();
    let layer = Policies::with(Tester).retry(retry.clone());
    let attempts = async || {
        let script = broken(9);
        let result = layer.layer(script.clone()).oneshot(Ask::default()).await;
        assert_eq!(result, Err(Fault::Broken));
        script.calls()
    };
    assert_eq!(attempts().await, 3);
    let remembered = retry.budget(clock::now());
    assert_eq!((remembered.requests, remembered.retries), (1, 2));

    let mut config = retry.config();
    config.max_attempts = NonZeroU32::new(5).unwrap();
    config.base_delay = Duration::ZERO;
    let refused = retry.reconfigure(config.clone());
    assert_eq!(refused.unwrap_err().key, "base_delay");
    assert_eq!(retry.config(), RetryConfig::default());
    assert_eq!(attempts().await, 3);

    config.base_delay = Duration::from_millis(1);
    config.budget.reserve = 6;
    retry.reconfigure(config).unwrap();
    assert_eq!(retry.budget(clock::now()).left, 2, "four were made before");
    assert_eq!(attempts().await, 3, "five attempts, had the budget more");
}

#[tokio::test(start_paused = true)]
async fn a_shared_budget_keeps_its_settings() {
    let budget = RetryBudget::new(RetryBudgetConfig::default()).unwrap();
    let retry = Retry::with_budget(RetryConfig::default(), budget.clone()).unwrap();
    let mut config = RetryConfig::default();
    config.budget.reserve = 99;

    retry.reconfigure(config).unwrap();

    assert_eq!(budget.snapshot(clock::now()).left, 10);
}

/// The first attempt kept no copy of its request, for there was to be no other.
#[tokio::test(start_paused = true)]
async fn an_attempt_made_as_the_last_one_stays_the_last_one() {
    let once = RetryConfig {
        max_attempts: NonZeroU32::MIN,
        ..RetryConfig::default()
    };
    let retry = Retry::new(once).unwrap();
    let (listener, events) = recorder();
    let layer = Policies::with(Tester)
        .retry(retry.clone())
        .with_listener(listener);
    let service = layer.layer(tower::service_fn(move |_: Ask| {
        retry.reconfigure(RetryConfig::default()).unwrap();
        async { Err::<u32, _>(Fault::Broken) }
    }));

    let result = service.clone().oneshot(Ask::default()).await;

    assert_eq!(result, Err(Fault::Broken));
    assert_eq!(events.names(), ["stop 1 exhausted"]);
    assert_eq!(
        service.oneshot(Ask::default()).await,
        Err(Fault::Broken),
        "and the next call has three"
    );
    assert_eq!(events.names().len(), 4);
}
