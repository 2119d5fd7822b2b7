//! The one timer of a line.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{runtime::Handle, time::Sleep};

/// What tokio's timers count in.
const TICK: Duration = Duration::from_millis(1);

/// Wakes the line when the first one's turn has come.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Set>);

#[derive(Debug)]
struct Set {
    /// In nanoseconds.
    at: u64,
    /// Dropping it is what ends it.
    _timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Sets it for `turn`, on the first of `runtimes` that has not ended. It
    /// must be cleared once it has gone off.
    pub(super) fn set<'a>(
        &mut self,
        turn: u64,
        runtimes: impl IntoIterator<Item = &'a Handle>,
        now: u64,
        waker: &Waker,
    ) {
        if self.0.as_ref().is_some_and(|set| set.at == turn) {
            return;
        }
        let left = Duration::from_nanos(turn.saturating_sub(now));
        let timer = runtimes.into_iter().find_map(|runtime| {
            // One that has ended panics, though it is not our caller's.
            catch_unwind(AssertUnwindSafe(|| start(left, runtime, waker))).ok()
        });
        self.0 = timer.map(|timer| Set {
            at: turn,
            _timer: timer,
        });
    }

    /// Sets it for nothing.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

/// A new timer each time: one that is set anew could wake the line at once,
/// under the lock that is held here.
fn start(left: Duration, runtime: &Handle, waker: &Waker) -> Pin<Box<Sleep>> {
    let _entered = runtime.enter();
    let mut timer = Box::pin(tokio::time::sleep(left));
    let mut cx = Context::from_waker(waker);
    while let Poll::Ready(()) = timer.as_mut().poll(&mut cx) {
        // The two clocks differ by less than that.
        timer = Box::pin(tokio::time::sleep(TICK));
    }
    timer
}
