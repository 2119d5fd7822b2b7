//! What a caller gets when the service fails.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    time::Duration,
};

use tokio::time::advance;
use tower::{ServiceBuilder, ServiceExt};

use super::*;
use crate::{
    breaker::{Breaker, BreakerConfig, BreakerLayer},
    clock::{self, Instant},
    refusal::{Refusal, RefusalKind},
    testing::{Ask, Fault, Script, Tester, recorder},
};

const SECOND: Duration = Duration::from_secs(1);

/// What comes of one call that ends in `result`, if the fallback is 7.
async fn answer(result: Result<u32, Fault>) -> Result<u32, Fault> {
    FallbackLayer::value(Tester, |_: &Result<u32, Fault>| Some(7))
        .layer(Script::answers([result]))
        .oneshot(Ask::default())
        .await
}

#[tokio::test]
async fn it_answers_for_failures_and_refusals_and_not_for_the_callers_mistakes() {
    let refusal = Fault::Refused(Refusal::RateLimited {
        retry_after: SECOND,
    });

    assert_eq!(answer(Ok(1)).await, Ok(1));
    assert_eq!(answer(Err(Fault::Broken)).await, Ok(7));
    assert_eq!(answer(Err(refusal)).await, Ok(7));
    assert_eq!(answer(Err(Fault::Invalid)).await, Err(Fault::Invalid));
}

/// Says which answers are fallbacks, and that 503 is none.
#[derive(Clone, Copy)]
struct Marks;

impl Classify<Ask, u32, Fault> for Marks {
    fn refusal(&self, error: &Fault) -> Option<RefusalKind> {
        Tester.refusal(error)
    }

    fn outcome(&self, result: &Result<u32, Fault>) -> Outcome {
        match result {
            Ok(503) => Outcome::Failure,
            result => Tester.outcome(result),
        }
    }

    fn mark_fallback(&self, response: &mut u32) {
        *response += 1000;
    }
}

#[tokio::test]
async fn an_answer_says_that_it_is_a_fallback() {
    let (listener, events) = recorder();
    let service = FallbackLayer::value(Marks, |failed: &Result<u32, Fault>| {
        (*failed != Err(Fault::Busy(SECOND))).then_some(7)
    })
    .with_listener(listener)
    .layer(Script::answers([
        Ok(1),
        Ok(503),
        Err(Fault::Refused(Refusal::CircuitOpen {
            retry_after: SECOND,
        })),
        Err(Fault::Busy(SECOND)),
    ]));
    let ask = || service.clone().oneshot(Ask::default());

    assert_eq!((ask().await, ask().await), (Ok(1), Ok(1007)));
    assert_eq!(ask().await, Ok(1007));
    assert_eq!(
        ask().await,
        Err(Fault::Busy(SECOND)),
        "it has none for that"
    );

    let by = FallbackKind::Value;
    let expected = [None, Some(RefusalKind::CircuitOpen)];
    assert_eq!(
        events.all(),
        expected.map(|cause| PolicyEvent::FellBack { by, cause })
    );
}

#[tokio::test]
async fn another_service_is_asked_the_same_once_and_only_if_the_first_fails() {
    let (listener, events) = recorder();
    let first = Script::answers([Ok(1), Err(Fault::Broken), Err(Fault::Broken)]);
    let second = Script::answers([Ok(2), Err(Fault::Invalid)]);
    let service = FallbackLayer::service(Tester, second.clone())
        .with_listener(listener)
        .layer(first);
    let ask = || service.clone().oneshot(Ask::of_tenant(5));

    assert_eq!(ask().await, Ok(1));
    assert_eq!(second.calls(), 0);
    assert_eq!(ask().await, Ok(2));
    assert_eq!(second.seen()[0].tenant, 5);
    assert_eq!(ask().await, Err(Fault::Broken), "the first failure");

    assert_eq!(
        events.names(),
        ["fell back to service", "no fallback from service"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_good_answer_is_of_the_same_key_and_not_too_old() {
    let answers = LastGood::new(&LastGoodConfig::default()).unwrap();
    let script = Script::answers([
        Ok(1),
        Ok(2),
        Err(Fault::Broken),
        Err(Fault::Broken),
        Err(Fault::Broken),
        Err(Fault::Broken),
    ]);
    let key = |ask: &Ask| (ask.tenant != 9).then_some(ask.tenant);
    let service = FallbackLayer::last_good(Tester, answers.clone(), key).layer(script);
    let ask = |tenant| service.clone().oneshot(Ask::of_tenant(tenant));
    assert_eq!(ask(5).await, Ok(1));
    assert_eq!(ask(9).await, Ok(2));
    assert_eq!(answers.len(), 1, "no key, nothing kept");

    advance(299 * SECOND).await;
    assert_eq!(ask(5).await, Ok(1));
    assert_eq!(ask(6).await, Err(Fault::Broken));
    assert_eq!(ask(9).await, Err(Fault::Broken));
    advance(SECOND).await;
    assert_eq!(ask(5).await, Err(Fault::Broken), "a fallback is no success");
}

#[test]
fn answers_are_kept_to_a_number_and_the_newest_stay() {
    let config = |max_keys| LastGoodConfig {
        max_keys: NonZeroUsize::new(max_keys).unwrap(),
        ..LastGoodConfig::default()
    };
    let answers = LastGood::new(&config(64)).unwrap();
    let now = Instant::from_nanos(1);
    for key in 0..10_000_u32 {
        answers.keep(key, key, now);
        answers.keep(key, key + 1, now);
        assert!(answers.len() <= 64);
        assert_eq!(answers.get(&key, now), Some(key + 1));
    }
    assert_eq!(answers.len(), 64, "each part is full");

    assert_eq!(
        answers.reconfigure(&config(15)).unwrap_err().key,
        "max_keys"
    );
    answers.reconfigure(&config(16)).unwrap();
    (0..10_000).for_each(|key| answers.keep(key, key, now));
    assert_eq!(answers.len(), 16);
}

/// The breaker below has counted a failure, and a refusal of its own.
#[tokio::test(start_paused = true)]
async fn a_fallback_is_no_success_for_the_breaker() {
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::value(Tester, |_: &Result<u32, Fault>| {
            Some(7)
        }))
        .layer(BreakerLayer::new(breaker.clone(), Tester))
        .service(Script::answers(vec![Err(Fault::Broken); 5]));

    for _ in 0..9 {
        assert_eq!(service.clone().oneshot(Ask::default()).await, Ok(7));
    }

    let snapshot = breaker.snapshot(clock::now());
    assert_eq!((snapshot.requests, snapshot.failures), (5, 5));
    assert!(snapshot.retry_after.is_some());
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_the_work() {
    let (first, second) = (Script::hang(), Script::hang());
    let mut service = FallbackLayer::service(Tester, second.clone()).layer(first.clone());
    let call = service.call(Ask::default());
    drop(tokio::time::timeout(Duration::ZERO, call).await);
    drop(service);

    assert_eq!((first.holders(), second.holders()), (1, 1));
    assert_eq!(second.calls(), 0);
}

/// Looks back at the answers when it is cloned or dropped, as an answer may
/// that knows where it came from.
struct LooksBack(LastGood<Key, LooksBack>);

impl Clone for LooksBack {
    fn clone(&self) -> Self {
        let _ = self.0.len();
        Self(self.0.clone())
    }
}

impl Drop for LooksBack {
    fn drop(&mut self) {
        let _ = self.0.len();
    }
}

#[derive(Clone)]
struct Key(u32, LastGood<Self, LooksBack>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = self.1.len();
    }
}

/// In a thread of its own, for whoever waits for itself never ends.
#[test]
fn answers_and_keys_are_cloned_and_dropped_without_a_lock() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let answers = LastGood::new(&LastGoodConfig {
            max_keys: NonZeroUsize::new(16).unwrap(),
            ..LastGoodConfig::default()
        })
        .unwrap();
        let now = clock::now();
        let key = |number| Key(number, answers.clone());
        for number in 0..100 {
            for _ in 0..2 {
                answers.keep(key(number), LooksBack(answers.clone()), now);
            }
            assert!(answers.get(&key(number), now).is_some());
        }
        done.send(()).unwrap();
    });

    assert_eq!(ended.recv_timeout(Duration::from_secs(20)), Ok(()));
}
