//! Many callers at once, on several threads.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use orchestrator_policies::{
    Breaker, BreakerConfig, BreakerLayer, BreakerState, Bulkhead, BulkheadConfig, BulkheadLayer,
    Refusal, clock,
};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::{Call, Calls, Failed, SECOND};

const CALLERS: usize = 1000;

/// The refused answer at once, so those that were let in are all that is
/// left; they are held until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_ten_thousand_callers_a_half_open_breaker_lets_in_exactly_its_probes() {
    const CALLERS: usize = 10_000;
    for probes in [1_usize, 7] {
        let breaker = Breaker::new(BreakerConfig {
            open: SECOND / 1000,
            consecutive_failures: 1.try_into().unwrap(),
            max_probes: u32::try_from(probes).unwrap().try_into().unwrap(),
            success_threshold: u32::try_from(probes).unwrap().try_into().unwrap(),
            ..BreakerConfig::default()
        })
        .unwrap();
        let now = clock::now();
        breaker
            .admit(now)
            .unwrap()
            .record(orchestrator_policies::Outcome::Failure, now);
        tokio::time::sleep(SECOND / 100).await;

        let (entered, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counter, gate) = (Arc::clone(&entered), Arc::clone(&release));
        let service = ServiceBuilder::new()
            .layer(BreakerLayer::new(breaker.clone(), Calls))
            .service(service_fn(move |_: Call| {
                counter.fetch_add(1, Ordering::SeqCst);
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.expect("never closed").forget();
                    Ok::<u32, Failed>(1)
                }
            }));
        let start = Arc::new(Barrier::new(CALLERS));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (service, start) = (service.clone(), Arc::clone(&start));
            callers.spawn(async move {
                start.wait().await;
                service.oneshot(Call::default()).await
            });
        }

        let wait = 20 * SECOND;
        for _ in probes..CALLERS {
            let answer = timeout(wait, callers.join_next())
                .await
                .expect("refused at once");
            let refusal = answer.unwrap().unwrap();
            assert!(
                matches!(refusal, Err(Failed::Refused(Refusal::CircuitOpen { .. }))),
                "{refusal:?}"
            );
        }
        assert_eq!(entered.load(Ordering::SeqCst), probes);
        assert_eq!(breaker.snapshot(clock::now()).probes as usize, probes);

        release.add_permits(probes);
        while let Some(answer) = timeout(wait, callers.join_next()).await.expect("released") {
            assert_eq!(answer.unwrap(), Ok(1));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}

/// Half of the calls are dropped at a moment that nobody chose.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bulkhead_never_holds_more_than_it_may_and_gets_every_slot_back() {
    // Few slots are one supply for all threads, and many are several.
    for limit in [8, 40] {
        crowd(limit).await;
    }
}

async fn crowd(limit: usize) {
    let bulkhead = Bulkhead::new(BulkheadConfig {
        max_concurrent: NonZeroUsize::new(limit).unwrap(),
        max_queue: CALLERS,
        max_wait: 20 * SECOND,
    })
    .unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counter, peak) = (Arc::clone(&inside), Arc::clone(&most));
    let service = BulkheadLayer::new(bulkhead.clone(), Calls);
    let service = ServiceBuilder::new()
        .layer(service)
        .service(service_fn(move |_: Call| {
            let visit = Visit::enter(Arc::clone(&counter), &peak);
            async move {
                tokio::time::sleep(SECOND / 1000).await;
                drop(visit);
                Ok::<u32, Failed>(1)
            }
        }));
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let call = service.clone().oneshot(Call::default());
        callers.spawn(async move {
            if number % 2 == 0 {
                return (true, call.await.is_ok());
            }
            let moment = SECOND / 1000 * u32::try_from(number % 50).unwrap();
            let answer = timeout(moment, call).await;
            (false, answer.is_ok_and(|answer| answer.is_ok()))
        });
    }

    let answers = timeout(20 * SECOND, callers.join_all())
        .await
        .expect("all end");

    // In the order in which they ended.
    let patient = answers.iter().filter(|(is_patient, _)| *is_patient);
    assert!(patient.clone().all(|(_, is_answered)| *is_answered));
    assert_eq!(patient.count(), CALLERS / 2);
    assert!((1..=limit).contains(&most.load(Ordering::SeqCst)));
    let left = bulkhead.snapshot();
    assert_eq!(
        (left.in_flight, left.queued, inside.load(Ordering::SeqCst)),
        (0, 0, 0)
    );
}

/// Counts the calls inside the service, also when they are dropped.
struct Visit(Arc<AtomicUsize>);

impl Visit {
    fn enter(inside: Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(inside)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
