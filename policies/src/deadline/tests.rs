//! Time limits in virtual time.

use tokio::time::{advance, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::*;
use crate::{
    stack::Stack,
    testing::{Ask, Fault, Script, Tester, recorder},
};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

fn timeout(scope: TimeoutScope, limit: Duration) -> Result<u32, Fault> {
    Err(Fault::Refused(Refusal::Timeout { scope, limit }))
}

#[tokio::test(start_paused = true)]
async fn an_answer_just_in_time_counts_and_one_just_after_does_not() {
    let ask = |took| {
        ServiceBuilder::new()
            .layer(TotalDeadlineLayer::new(SECOND, Tester))
            .service_fn(move |_: Ask| async move {
                sleep(took).await;
                Ok::<_, Fault>(7)
            })
            .oneshot(Ask::default())
    };

    assert_eq!(ask(SECOND - TICK).await, Ok(7));
    assert_eq!(
        ask(SECOND + TICK).await,
        timeout(TimeoutScope::Total, SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn the_callers_earlier_deadline_wins_and_the_service_is_told() {
    let script = Script::hang();
    let service = TotalDeadlineLayer::new(10 * SECOND, Tester).layer(script.clone());
    let deadline = clock::after(clock::now(), SECOND);

    let result = service.oneshot(Ask::default().until(deadline)).await;

    assert_eq!(result, timeout(TimeoutScope::Total, SECOND));
    assert_eq!(script.seen()[0].deadline, Some(deadline));
    assert_eq!(clock::now(), deadline);
}

#[tokio::test(start_paused = true)]
async fn the_callers_later_deadline_is_brought_forward() {
    let script = Script::hang();
    let service = TotalDeadlineLayer::new(SECOND, Tester).layer(script.clone());
    let start = clock::now();

    let result = service
        .oneshot(Ask::default().until(start + 10 * SECOND))
        .await;

    assert_eq!(result, timeout(TimeoutScope::Total, SECOND));
    assert_eq!(script.seen()[0].deadline, Some(start + SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_is_refused_without_a_call() {
    let script = Script::answers([Ok(1)]);
    let (listener, events) = recorder();
    let service = AttemptDeadlineLayer::new(SECOND, Tester)
        .with_listener(listener)
        .layer(script.clone());
    let deadline = clock::now();
    let ask = |service: Stack<_, _, _, _, _>| service.oneshot(Ask::default().until(deadline));

    assert_eq!(
        ask(service.clone()).await,
        timeout(TimeoutScope::Total, Duration::ZERO)
    );
    advance(SECOND).await;
    assert_eq!(
        ask(service).await,
        timeout(TimeoutScope::Total, Duration::ZERO)
    );

    assert_eq!(script.calls(), 0);
    assert_eq!(
        events.names(),
        ["refused total_timeout", "refused total_timeout"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_cut_by_whichever_limit_comes_first() {
    let script = Script::hang();
    let service = AttemptDeadlineLayer::new(SECOND, Tester).layer(script);
    let ask = |left| {
        service
            .clone()
            .oneshot(Ask::default().until(clock::now() + left))
    };

    assert_eq!(ask(SECOND).await, timeout(TimeoutScope::Attempt, SECOND));
    assert_eq!(
        ask(SECOND - TICK).await,
        timeout(TimeoutScope::Total, SECOND - TICK)
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_limit_is_for_calls_to_come() {
    let (total, attempt) = (
        TotalDeadline::new(10 * SECOND),
        AttemptDeadline::new(5 * SECOND),
    );
    let service = crate::Policies::with(Tester)
        .per_call(total.clone())
        .per_attempt(attempt.clone())
        .layer(Script::hang());
    let under_way = tokio::spawn(service.clone().oneshot(Ask::default()));
    sleep(SECOND).await;

    attempt.reconfigure(2 * SECOND);
    let second = service.clone().oneshot(Ask::default()).await;
    total.reconfigure(SECOND);
    let third = service.oneshot(Ask::default()).await;

    assert_eq!(
        under_way.await.unwrap(),
        timeout(TimeoutScope::Attempt, 5 * SECOND)
    );
    assert_eq!(second, timeout(TimeoutScope::Attempt, 2 * SECOND));
    assert_eq!(third, timeout(TimeoutScope::Total, SECOND));
}

/// The sum of now and such a limit would panic, and so would its timer.
#[tokio::test(start_paused = true)]
async fn a_limit_without_end_is_cut_to_the_horizon() {
    let service = TotalDeadlineLayer::new(Duration::MAX, Tester).layer(Script::hang());

    let result = service.oneshot(Ask::default()).await;

    assert_eq!(result, timeout(TimeoutScope::Total, HORIZON));
}

#[tokio::test(start_paused = true)]
async fn waiting_until_the_service_is_ready_counts() {
    let service = AttemptDeadlineLayer::new(SECOND, Tester).layer(Script::never_ready());

    let result = service.oneshot(Ask::default()).await;

    assert_eq!(result, timeout(TimeoutScope::Attempt, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_call_is_dropped_before_the_timeout_is_told() {
    let script = Script::hang();
    let held = script.clone();
    let mut service =
        TotalDeadlineLayer::new(SECOND, Tester).layer(tower::service_fn(move |ask: Ask| {
            let mut held = held.clone();
            async move { held.call(ask).await }
        }));
    let mut future = std::pin::pin!(service.call(Ask::default()));
    let before = script.holders();

    assert!(future.as_mut().await.is_err());

    assert_eq!(script.holders(), before);
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_once_needs_no_timer() {
    let mut service = TotalDeadlineLayer::new(SECOND, Tester).layer(Script::answers([Ok(1)]));
    let mut future = std::pin::pin!(service.call(Ask::default()));

    assert_eq!(future.as_mut().await, Ok(1));
    assert!(!future.has_timer());
}

#[test]
fn limits_without_length_are_refused() {
    assert_eq!(DeadlineConfig::default().validate(), Ok(()));
    for config in [
        DeadlineConfig {
            total: Duration::ZERO,
            ..DeadlineConfig::default()
        },
        DeadlineConfig {
            attempt: HORIZON + TICK,
            ..DeadlineConfig::default()
        },
    ] {
        assert!(config.validate().is_err(), "{config:?}");
    }
}
