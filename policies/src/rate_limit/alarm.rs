//! The timers of a line, one on each runtime that somebody in it waits on.
//!
//! Each is set for the first one's turn, whoever that is: a runtime whose timers
//! nobody drives, because it is idle or has ended, holds up nobody of another.
//!
//! They are set under the lock that whoever is woken takes, so nobody is woken
//! while one is set (`Ring`).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id},
    task::coop,
    time::Sleep,
};

/// What tokio's timers count in.
const TICK: Duration = Duration::from_millis(1);

/// Wakes the line when the first one's turn has come.
#[derive(Debug, Default)]
pub(super) struct Alarm(HashMap<Id, Clock>);

/// One of the runtimes.
#[derive(Debug, Default)]
struct Clock {
    /// Nothing once it is known to have ended.
    runtime: Option<Handle>,
    /// How many in the line wait on it.
    waiting: usize,
    set: Option<Set>,
}

#[derive(Debug)]
struct Set {
    /// In nanoseconds.
    at: u64,
    /// Dropping it is what ends it.
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Counts in one who waits on `runtime`.
    pub(super) fn join(&mut self, runtime: Handle) {
        let clock = self.0.entry(runtime.id()).or_default();
        clock.waiting += 1;
        clock.runtime = Some(runtime);
    }

    /// Counts out one who waited on `runtime`.
    pub(super) fn leave(&mut self, runtime: Id) {
        if let Some(clock) = self.0.get_mut(&runtime) {
            clock.waiting -= 1;
            if clock.waiting == 0 {
                self.0.remove(&runtime);
            }
        }
    }

    /// Sets it for `turn`, in nanoseconds as `now` is, again if it has gone off
    /// for that already.
    pub(super) fn set(&mut self, turn: u64, now: u64, waker: &Waker) {
        for clock in self.0.values_mut() {
            clock.set(turn, now, waker);
        }
    }
}

impl Clock {
    fn set(&mut self, turn: u64, now: u64, waker: &Waker) {
        let is_set = |set: &Set| set.at == turn && !set.timer.is_elapsed();
        if self.set.as_ref().is_some_and(is_set) {
            return;
        }
        self.set = None;
        let Some(runtime) = &self.runtime else {
            return;
        };
        let left = Duration::from_nanos(turn.saturating_sub(now));
        // One that has ended panics, though it is not our caller's, and there
        // is no other way to know.
        match catch_unwind(AssertUnwindSafe(|| start(left, runtime, waker))) {
            Ok(timer) => self.set = Some(Set { at: turn, timer }),
            Err(_) => self.runtime = None,
        }
    }
}

/// A new timer each time: one that is set anew could wake the line at once. So
/// could one that is polled by a task that has used up its budget.
fn start(left: Duration, runtime: &Handle, waker: &Waker) -> Pin<Box<Sleep>> {
    let _entered = runtime.enter();
    let mut timer = Box::pin(tokio::time::sleep(left));
    loop {
        let ring = Arc::new(Ring::new(waker.clone()));
        let as_waker = Waker::from(Arc::clone(&ring));
        let set = pin!(coop::unconstrained(timer.as_mut()));
        if set.poll(&mut Context::from_waker(&as_waker)).is_pending() && ring.is_set() {
            return timer;
        }
        // The two clocks differ by less than that.
        timer = Box::pin(tokio::time::sleep(TICK));
    }
}

/// Wakes nobody before the timer is set: one that goes off on another thread
/// just then leaves the waking to the thread that sets it.
struct Ring {
    waker: Waker,
    /// That the timer is set, or has gone off before it was.
    is_decided: AtomicBool,
}

impl Ring {
    fn new(waker: Waker) -> Self {
        Self {
            waker,
            is_decided: AtomicBool::new(false),
        }
    }

    /// The timer is set, unless it has gone off already.
    fn is_set(&self) -> bool {
        !self.is_decided.swap(true, Ordering::AcqRel)
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        // Whoever comes first sees that the other has not.
        if self.is_decided.swap(true, Ordering::AcqRel) {
            self.waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ring() -> (Arc<Count>, Arc<Ring>) {
        let count = Arc::new(Count::default());
        let ring = Ring::new(Waker::from(Arc::clone(&count)));
        (count, Arc::new(ring))
    }

    #[test]
    fn a_timer_that_goes_off_while_it_is_set_wakes_nobody_and_is_set_again() {
        let (count, ring) = ring();
        Arc::clone(&ring).wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert!(!ring.is_set());
    }

    #[test]
    fn a_timer_that_is_set_wakes() {
        let (count, ring) = ring();
        assert!(ring.is_set());
        ring.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
