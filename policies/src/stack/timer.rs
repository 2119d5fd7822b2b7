//! Timers that are kept after use.
//!
//! To register a timer with the runtime and to take it out again costs more
//! than all that the policies do. Nearly every call that waits is answered long
//! before its time is up, so the timer of one call serves the next as it is: it
//! is set for an earlier moment than that one needs, ends once for nothing, and
//! is only then set anew. A thread that makes a million calls, each with a
//! second's time, registers about one timer a second for each call that waits
//! at once.
//!
//! A kept timer keeps the memory of the task that last waited for it until it
//! ends or is taken again, and with it some of the runtime, until the thread
//! ends or waits in another one. [`KEPT_MAX`] bounds both.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    runtime::{self, Handle},
    time::Sleep,
};

use crate::clock::{self, HORIZON, Instant};

/// How many timers a thread keeps beside those in use. Where calls come and go
/// evenly, a few serve any number of them.
const KEPT_MAX: usize = 32;

/// How long after it was set a timer is taken as it is. It ends by the runtime's
/// clock and is compared by ours, and the two drift apart; or one of them stops
/// while the machine sleeps.
const FRESH: Duration = Duration::from_secs(1);

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { runtime: None, timers: Vec::new() }) };
}

/// The timers of this thread that nobody uses.
struct Kept {
    /// Whose they are: one of another runtime may never end.
    runtime: Option<runtime::Id>,
    timers: Vec<Armed>,
}

/// A timer of the runtime's, and what it is set for.
struct Armed {
    sleep: Pin<Box<Sleep>>,
    end: Instant,
    set: Instant,
}

/// Ends at a moment.
pub(super) struct Timer {
    end: Instant,
    runtime: runtime::Id,
    /// Set for that moment or for an earlier one. There until it is dropped.
    armed: Option<Armed>,
}

impl Timer {
    /// A timer that ends at `end`. `now` is when the clock was last read, which
    /// is near enough to tell whether a kept timer is fresh.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with timers.
    pub(super) fn until(end: Instant, now: Instant) -> Self {
        let runtime = Handle::current().id();
        let kept = KEPT.try_with(|kept| kept.borrow_mut().take(runtime));
        let armed = match kept.ok().flatten() {
            Some(mut armed) => {
                if armed.end > end || now - armed.set > FRESH {
                    armed.set(end);
                }
                armed
            }
            None => Armed::new(end),
        };
        Self {
            end,
            runtime,
            armed: Some(armed),
        }
    }

    /// Ready once the moment has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(armed) = &mut self.armed else {
            unreachable!("it is taken when this is dropped");
        };
        loop {
            ready!(armed.sleep.as_mut().poll(cx));
            if armed.end >= self.end {
                return Poll::Ready(());
            }
            armed.set(self.end);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(armed) = self.armed.take() else {
            return;
        };
        // A thread that is ending keeps none. What is not kept is dropped when
        // nothing is borrowed any more: it may be the last of its runtime.
        let _unkept = KEPT.try_with(|kept| kept.borrow_mut().keep(self.runtime, armed));
    }
}

impl Kept {
    fn take(&mut self, runtime: runtime::Id) -> Option<Armed> {
        match self.runtime == Some(runtime) {
            true => self.timers.pop(),
            false => None,
        }
    }

    /// Gives back what is not kept.
    fn keep(&mut self, runtime: runtime::Id, armed: Armed) -> Vec<Armed> {
        if self.timers.len() >= KEPT_MAX && self.runtime == Some(runtime) {
            return vec![armed];
        }
        let unkept = match self.runtime == Some(runtime) {
            true => Vec::new(),
            false => mem::take(&mut self.timers),
        };
        self.runtime = Some(runtime);
        self.timers.push(armed);
        unkept
    }
}

impl Armed {
    fn new(end: Instant) -> Self {
        let now = clock::now();
        let end = end.min(clock::after(now, HORIZON));
        Self {
            sleep: Box::pin(tokio::time::sleep(end - now)),
            end,
            set: now,
        }
    }

    fn set(&mut self, end: Instant) {
        let now = clock::now();
        let end = end.min(clock::after(now, HORIZON));
        let there = tokio::time::Instant::now() + (end - now);
        self.sleep.as_mut().reset(there);
        (self.end, self.set) = (end, now);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, thread};

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    fn runtime() -> Runtime {
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    }

    fn in_millis(millis: u64) -> Timer {
        let now = clock::now();
        Timer::until(now + Duration::from_millis(millis), now)
    }

    fn kept() -> usize {
        KEPT.with(|kept| kept.borrow().timers.len())
    }

    /// Waits for the timer; how many milliseconds that took.
    async fn ended(mut timer: Timer) -> u128 {
        let began = tokio::time::Instant::now();
        poll_fn(|cx| timer.poll(cx)).await;
        began.elapsed().as_millis()
    }

    /// As a call does that waits and is answered before its time is up.
    async fn unneeded(mut timer: Timer) {
        poll_fn(|cx| {
            assert!(timer.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_kept_timer_ends_when_the_next_call_needs_it_and_not_before() {
        for (earlier, later) in [(10, 1_000), (1_000, 10), (10, 10)] {
            runtime().block_on(async {
                unneeded(in_millis(earlier)).await;
                assert_eq!(kept(), 1);

                assert_eq!(ended(in_millis(later)).await, later.into());
                assert_eq!(kept(), 1);
            });
        }
    }

    #[test]
    fn a_timer_that_has_ended_can_be_used_again() {
        runtime().block_on(async {
            for _ in 0..3 {
                assert_eq!(ended(in_millis(5)).await, 5);
            }
            unneeded(in_millis(5)).await;
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(ended(in_millis(7)).await, 7);
            assert_eq!(kept(), 1);
        });
    }

    #[test]
    fn calls_in_turn_register_one_timer() {
        runtime().block_on(async {
            unneeded(in_millis(1_000)).await;
            let first = in_millis(2_000).armed.as_ref().map(|armed| armed.end);
            for _ in 0..1_000 {
                let timer = in_millis(2_000);
                assert_eq!(timer.armed.as_ref().map(|armed| armed.end), first);
                unneeded(timer).await;
            }
        });
    }

    /// Our clock may have gone on without the runtime's.
    #[test]
    fn an_old_timer_is_set_anew() {
        runtime().block_on(async {
            unneeded(in_millis(3_600_000)).await;
            KEPT.with(|kept| {
                let armed = &mut kept.borrow_mut().timers[0];
                armed.end = clock::now() + Duration::from_millis(1);
            });
            tokio::time::advance(FRESH + Duration::from_millis(1)).await;

            assert_eq!(ended(in_millis(10)).await, 10);
        });
    }

    #[test]
    fn no_more_are_kept_than_bounded() {
        runtime().block_on(async {
            let many: Vec<_> = (0..4 * KEPT_MAX as u64).map(in_millis).collect();
            drop(many);
            assert_eq!(kept(), KEPT_MAX);
        });
    }

    #[test]
    fn a_timer_of_another_runtime_is_not_used() {
        let one = runtime();
        one.block_on(async { unneeded(in_millis(10)).await });
        let other = runtime();
        drop(one);
        for _ in 0..2 {
            assert_eq!(other.block_on(async { ended(in_millis(5)).await }), 5);
            assert_eq!(kept(), 1);
        }
    }

    #[test]
    fn a_timer_may_outlive_its_runtime() {
        let runtime = runtime();
        let timer = runtime.block_on(async {
            let mut timer = in_millis(5);
            poll_fn(|cx| Poll::Ready(timer.poll(cx).is_pending())).await;
            timer
        });
        drop(runtime);
        drop(timer);
    }

    #[test]
    fn a_timer_may_end_on_another_thread_and_with_it() {
        let runtime = runtime();
        let timer = runtime.block_on(async { in_millis(5) });
        let other = thread::spawn(move || {
            drop(timer);
            kept()
        });
        assert_eq!(other.join().expect("no panic"), 1);
    }

    #[test]
    fn a_moment_beyond_all_timers_is_waited_for() {
        let last = Instant::from_nanos(u64::MAX);
        runtime().block_on(async { unneeded(Timer::until(last, clock::now())).await });
    }
}
