//! Calls that wait in one line, each on a runtime of its own.

use std::{cell::Cell, future::poll_fn, panic, pin::Pin, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Runtime},
    task::coop,
    time,
};
use tower::{Layer, ServiceExt};

use super::*;
use crate::testing::{Ask, Fault, Script, Tester};

/// One of the calls on a limiter that has no token left.
type Call = Pin<Box<dyn Future<Output = Result<u32, Fault>> + Send>>;

const PATIENCE: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

/// Makes calls of which one is served each `interval`, the first after one.
fn calls(interval: Duration) -> impl FnMut() -> Call {
    let limiter = RateLimiter::new(RateLimitConfig {
        overall: Some(Rate {
            calls: NonZeroU32::MIN,
            per: interval,
            burst: Some(NonZeroU32::MIN),
        }),
        max_wait: PATIENCE,
        ..RateLimitConfig::default()
    })
    .unwrap();
    assert_eq!(limiter.try_take(0, clock::now()), Ok(()));
    let service = RateLimitLayer::new(limiter, Tester).layer(Script::answers(vec![Ok(1); 100]));
    move || Box::pin(service.clone().oneshot(Ask::default()))
}

/// Has `call` join the line on `runtime`, which nobody drives afterwards.
fn join(runtime: &Runtime, call: &mut Call) {
    runtime.block_on(poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    }));
}

/// Nobody polls the first one any more, and its runtime's timers never end or
/// are gone.
#[test]
fn a_runtime_that_nobody_drives_keeps_nobody_behind_it_waiting() {
    for has_ended in [true, false] {
        let mut call = calls(Duration::from_secs(1));
        let (idle, mut first) = (runtime(), call());
        join(&idle, &mut first);
        let idle = (!has_ended).then_some(idle);

        let start = time::Instant::now();
        let second = runtime().block_on(call());

        assert_eq!(second, Ok(1));
        assert!(start.elapsed() < PATIENCE / 2, "not at the end");
        drop(idle);
    }
}

#[test]
fn a_runtime_that_ended_is_tried_once() {
    thread_local! {
        static PANICS: Cell<u32> = const { Cell::new(0) };
    }
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.set(PANICS.get() + 1);
        print(info);
    }));
    let mut call = calls(Duration::from_millis(50));
    let ended = runtime();
    let mut ahead = [call(), call(), call()];
    for call in &mut ahead {
        join(&ended, call);
    }
    drop(ended);

    assert_eq!(runtime().block_on(call()), Ok(1));

    assert_eq!(PANICS.get(), 1);
}

/// A timer then wakes at once instead of being set, and that under the locks
/// that whoever is woken takes.
#[test]
fn a_call_whose_task_has_used_up_its_budget_joins_the_line() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let mut call = calls(Duration::from_millis(50))();
        let answer = runtime.block_on(poll_fn(|cx| {
            while let Poll::Ready(step) = coop::poll_proceed(cx) {
                step.made_progress();
            }
            call.as_mut().poll(cx)
        }));
        done.send(answer)
    });

    assert_eq!(is_done.recv_timeout(PATIENCE), Ok(Ok(1)));
}
