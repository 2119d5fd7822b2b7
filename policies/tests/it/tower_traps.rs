//! What goes wrong with tower's own layers, each trap beside the policy that
//! does without it.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
};

use orchestrator_policies::{
    Bulkhead, BulkheadConfig, BulkheadLayer, Policies, Retry, RetryConfig,
};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};

use crate::{Call, Calls, Failed, SECOND};

fn one_at_a_time() -> BulkheadConfig {
    BulkheadConfig {
        max_concurrent: NonZeroUsize::MIN,
        ..BulkheadConfig::default()
    }
}

/// A service that was made ready and is not called holds a permit.
#[tokio::test(start_paused = true)]
async fn trap_t01_a_permit_reserved_in_poll_ready_starves_others() {
    let service = service_fn(|_: Call| async { Ok::<_, Failed>(1) });

    let limited = ConcurrencyLimit::new(service, 1);
    let mut idle = limited.clone();
    idle.ready().await.unwrap();
    let starved = timeout(SECOND, limited.oneshot(Call::default())).await;
    assert!(starved.is_err(), "the trap is there");

    let bulkhead = Bulkhead::new(one_at_a_time()).unwrap();
    let bounded = BulkheadLayer::new(bulkhead.clone(), Calls).layer(service);
    let mut idle = bounded.clone();
    idle.ready().await.unwrap();
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    assert_eq!(bounded.oneshot(Call::default()).await, Ok(1));
}

/// A copy of a ready service is not ready. Who copies it for each call, as
/// those do who retry, must make the copy ready, for each attempt anew.
#[tokio::test(start_paused = true)]
async fn trap_t02_a_call_of_an_unready_copy_panics() {
    let limited = ConcurrencyLimit::new(
        service_fn(|call: Call| async move {
            if call.attempt < 3 {
                Err(Failed::Broken)
            } else {
                Ok(call.attempt)
            }
        }),
        1,
    );
    let mut ready = limited.clone();
    ready.ready().await.unwrap();
    let naive = catch_unwind(AssertUnwindSafe(|| {
        drop(ready.clone().call(Call::default()))
    }));
    assert!(naive.is_err(), "the trap is there");
    drop(ready);

    let retry = Retry::new(RetryConfig::default()).unwrap();
    let mut stack = Policies::with(Calls).retry(retry).layer(limited);
    stack.ready().await.unwrap();
    assert_eq!(stack.clone().call(Call::default()).await, Ok(3));
    assert_eq!(stack.call(Call::default()).await, Ok(3), "nor is one kept");
}
