//! Against the plain thing, with time: a number of places and a list of those
//! who wait, each for as long as it may.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use tokio::{
    runtime,
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::testing::{Ask, Fault, Tester};

/// In milliseconds. Whatever happens does so at a part of it of its own, so
/// that no two things happen at once whose order matters: calls come at none,
/// leave the queue at a half, and are given up after that.
const UNIT: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Visit {
    comes: u64,
    holds: u64,
    given_up: Option<u64>,
}

/// When it came in, and when it was refused.
type Fate = (Option<u64>, Option<u64>);

fn visits() -> impl Strategy<Value = Vec<Visit>> {
    let visit = (1_u64..3, 0_u64..12, prop::option::weighted(0.3, 0_u64..12));
    prop::collection::vec(visit, 1..60).prop_map(|visits| {
        let mut now = 0;
        let timed = (0..).zip(visits).map(|(number, (pause, holds, given_up))| {
            now += pause * UNIT;
            Visit {
                comes: now,
                holds: holds * UNIT + 1,
                given_up: given_up.map(|units| now + units * UNIT + UNIT * 7 / 10 + number * 1000),
            }
        });
        timed.collect()
    })
}

fn expected(config: &BulkheadConfig, visits: &[Visit]) -> Vec<Fate> {
    let patience = u64::try_from(config.max_wait.as_millis()).unwrap();
    let mut fates = vec![(None, None); visits.len()];
    let (mut coming, mut queue) = ((0..visits.len()).peekable(), VecDeque::new());
    let mut inside: Vec<u64> = Vec::new();
    let given_up = |visit: usize| visits[visit].given_up.unwrap_or(u64::MAX);
    let ends = |visit: usize, now| given_up(visit).min(now + visits[visit].holds);
    loop {
        let comes = coming.peek().map(|&visit| visits[visit].comes);
        let leaves = |&visit: &usize| given_up(visit).min(visits[visit].comes + patience);
        let left = queue.iter().map(leaves).min();
        let Some(now) = [comes, inside.iter().copied().min(), left]
            .into_iter()
            .flatten()
            .min()
        else {
            return fates;
        };
        inside.retain(|&end| end > now);
        queue.retain(|visit| {
            let stays = leaves(visit) > now;
            if !stays && given_up(*visit) > now {
                fates[*visit].1 = Some(now);
            }
            stays
        });
        while inside.len() < config.max_concurrent.get()
            && let Some(visit) = queue.pop_front()
        {
            fates[visit].0 = Some(now);
            inside.push(ends(visit, now));
        }
        if let Some(visit) = coming.next_if(|&visit| visits[visit].comes == now) {
            if inside.len() < config.max_concurrent.get() {
                fates[visit].0 = Some(now);
                inside.push(ends(visit, now));
            } else if queue.len() < config.max_queue {
                queue.push_back(visit);
            } else {
                fates[visit].1 = Some(now);
            }
        }
    }
}

async fn seen(config: BulkheadConfig, visits: Vec<Visit>) -> Vec<Fate> {
    let start = Instant::now();
    let now = move || u64::try_from(start.elapsed().as_millis()).unwrap();
    let bulkhead = Bulkhead::new(config).unwrap();
    let fates = Arc::new(Mutex::new(vec![(None, None); visits.len()]));
    let tasks: Vec<_> = (0..)
        .zip(visits)
        .map(|(number, visit)| {
            let (fates, inside) = (Arc::clone(&fates), Arc::clone(&fates));
            let service =
                BulkheadLayer::new(bulkhead.clone(), Tester).layer(service_fn(move |_: Ask| {
                    inside.lock().unwrap()[number].0 = Some(now());
                    let holds = sleep(Duration::from_millis(visit.holds));
                    async move {
                        holds.await;
                        Ok::<u32, Fault>(0)
                    }
                }));
            tokio::spawn(async move {
                sleep_until(start + Duration::from_millis(visit.comes)).await;
                let left = visit
                    .given_up
                    .map_or(u64::MAX / 2_000_000, |at| at - visit.comes);
                let call = timeout(Duration::from_millis(left), service.oneshot(Ask::default()));
                if let Ok(Err(_)) = call.await {
                    fates.lock().unwrap()[number].1 = Some(now());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        (bulkhead.snapshot().in_flight, bulkhead.snapshot().queued),
        (0, 0)
    );
    Arc::try_unwrap(fates).unwrap().into_inner().unwrap()
}

proptest! {
    #[test]
    fn a_bulkhead_is_a_number_and_a_list_that_is_left_in_time(
        max_concurrent in 1_usize..6,
        max_queue in 0_usize..6,
        waits in 0_u64..8,
        visits in visits(),
    ) {
        let config = BulkheadConfig {
            max_concurrent: NonZeroUsize::new(max_concurrent).unwrap(),
            max_queue,
            max_wait: match max_queue {
                0 => Duration::ZERO,
                _ => Duration::from_millis(waits * UNIT + UNIT / 2),
            },
        };
        let paused = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();

        let seen = paused.unwrap().block_on(seen(config.clone(), visits.clone()));

        prop_assert_eq!(seen, expected(&config, &visits));
    }
}
