//! Against the plain thing: a level that rises with time.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::{
    gcra::{Bucket, Pace},
    lease::Leases,
    limiter::Overall,
    line::{Line, Standing, Ticket},
    *,
};
use crate::striped::{self, Place};

/// A bucket whose tokens weigh as many as the nanoseconds that they take.
#[derive(Clone, Copy)]
struct Level {
    interval: u64,
    burst: u64,
    level: u64,
    now: u64,
}

impl Level {
    fn full(rate: &Rate) -> Self {
        let interval = clock::nanos(rate.interval());
        let burst = u64::from(rate.burst_or_default().get());
        Self {
            interval,
            burst,
            level: interval * burst,
            now: 0,
        }
    }

    fn rise(&mut self, now: u64) {
        let now = now.max(self.now);
        self.level = (self.level + (now - self.now)).min(self.interval * self.burst);
        self.now = now;
    }

    fn take(&mut self, now: u64) -> Result<(), u64> {
        self.rise(now);
        match self.level.checked_sub(self.interval) {
            Some(rest) => self.level = rest,
            None => return Err(self.interval - self.level),
        }
        Ok(())
    }

    fn change(&mut self, rate: &Rate, now: u64) {
        self.rise(now);
        let missing = self.interval * self.burst - self.level;
        let mut next = Self::full(rate);
        let missing = u128::from(missing) * u128::from(next.interval) / u128::from(self.interval);
        next.level -= next.level.min(u64::try_from(missing).unwrap());
        next.now = self.now;
        *self = next;
    }
}

fn any_rate() -> impl Strategy<Value = Rate> {
    (1_u32..5_000, 1_u64..5_000, 1_u32..50).prop_map(|(calls, millis, burst)| Rate {
        calls: NonZeroU32::new(calls).unwrap(),
        per: Duration::from_millis(millis),
        burst: NonZeroU32::new(burst),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    Wait(u64),
    Change(Rate),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Take),
        4 => (0_u64..20_000_000).prop_map(Step::Wait),
        1 => any_rate().prop_map(Step::Change),
    ]
}

/// One of the places that threads share.
fn place(thread: usize) -> Place {
    Place::shared_number((thread % striped::places()) as u32)
}

proptest! {
    #[test]
    fn a_bucket_is_a_level_that_rises(
        first in any_rate(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut bucket, mut level) = (Bucket::new(&first), Level::full(&first));
        let mut now = 1;
        level.rise(now);
        for step in steps {
            match step {
                Step::Take => {
                    let taken = bucket.take(now).map_err(clock::nanos);
                    prop_assert_eq!(taken, level.take(now));
                }
                Step::Wait(nanos) => now += nanos,
                Step::Change(rate) => {
                    bucket = bucket.at_rate(&rate, now);
                    level.change(&rate, now);
                }
            }
            level.rise(now);
            prop_assert_eq!(bucket.tokens(now), level.level / level.interval);
            let next_in = bucket.next_at().saturating_sub(now);
            prop_assert_eq!(next_in, level.interval.saturating_sub(level.level));
        }
    }

    /// What is on loan can be used a little later than it was taken, and that
    /// is all that lending changes.
    #[test]
    fn lent_tokens_exceed_the_rate_by_no_more_than_what_is_on_loan(
        per_second in 1_000_000_u32..10_000_000,
        burst in 1_u32..100_000,
        steps in prop::collection::vec((0_usize..8, 0_u64..100_000, 1_usize..50), 1..500),
    ) {
        let rate = Rate {
            calls: NonZeroU32::new(per_second).unwrap(),
            per: second(),
            burst: NonZeroU32::new(burst),
        };
        let overall = Overall::new(&rate, Bucket::new(&rate));
        let leases = Leases::new();
        let on_loan = overall.lease_most * striped::places() as u64;
        prop_assert!(on_loan <= u64::from(burst).max(4 * striped::places() as u64) / 4);
        let mut most = Level::full(&rate);
        most.burst += on_loan;
        most.level = most.burst * most.interval;
        let mut now = 1;
        for (thread, wait, calls) in steps {
            now += wait;
            for _ in 0..calls {
                if overall.take(&leases, place(thread), now).is_ok() {
                    prop_assert_eq!(most.take(now), Ok(()));
                }
            }
        }
    }
}

fn fast(calls: u32, burst: u32) -> Overall {
    let rate = Rate {
        calls: NonZeroU32::new(calls).unwrap(),
        per: second(),
        burst: NonZeroU32::new(burst),
    };
    Overall::new(&rate, Bucket::new(&rate))
}

/// Nine calls for ten tokens, by one thread most of the time.
#[test]
fn a_steady_stream_within_the_rate_is_never_refused() {
    for (calls, burst) in [(100_000, 10_000), (1_000_000, 1_000), (9_000_000, 9_000)] {
        let (overall, leases) = (fast(calls, burst), Leases::new());
        assert!(overall.lease_most > 1);
        let step = 1_000_000_000 * 10 / 9 / u64::from(calls);
        for call in 0..200_000_u64 {
            let thread = usize::from(call % 100 == 0);
            let taken = overall.take(&leases, place(thread), 1 + call * step);
            assert_eq!(taken, Ok(()), "call {call} at {calls} a second");
        }
    }
}

/// Every call comes after all leases ended.
#[test]
fn a_slow_stream_forfeits_nothing() {
    let (overall, leases) = (fast(10_000_000, 1_000_000), Leases::new());

    for call in 0..1000_u64 {
        let thread = usize::try_from(call % 2).unwrap();
        let now = 1 + call * 2 * super::lease::LASTS;
        assert_eq!(overall.take(&leases, place(thread), now), Ok(()));
        assert_eq!(overall.bucket.tokens(now), 1_000_000 - 1);
    }
}

/// What a waiting call looks like from outside.
struct Waiter {
    ticket: Ticket,
    number: u64,
    until: u64,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Waiter {
    /// When it looks how it stands.
    fn looks_at(&self) -> u64 {
        if self.woken.0.load(Ordering::Relaxed) {
            0
        } else {
            self.until
        }
    }

    fn waker(&self) -> Waker {
        self.woken.0.store(false, Ordering::Relaxed);
        Waker::from(Arc::clone(&self.woken))
    }
}

fn serve(line: &mut Line, bucket: &Bucket, now: u64) {
    line.serve(bucket, now).into_iter().for_each(Waker::wake);
}

proptest! {
    /// In the order in which they came, at the moment when their token is
    /// there, and never after they left.
    #[test]
    fn the_line_serves_in_order_and_on_time(
        interval_micros in 1_u64..5_000,
        burst in 1_u32..5,
        steps in prop::collection::vec((0_u64..3_000_000, 0_u64..20_000_000, any::<u8>()), 1..200),
    ) {
        let rate = Rate {
            calls: NonZeroU32::MIN,
            per: Duration::from_micros(interval_micros),
            burst: NonZeroU32::new(burst),
        };
        let (bucket, mut line, mut level) = (Bucket::new(&rate), Line::default(), Level::full(&rate));
        let mut waiting: Vec<Waiter> = Vec::new();
        let (mut now, mut served, mut last) = (1, 0, None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (number, (wait, patience, choice)) in (0_u64..).zip(steps) {
            let end = now + wait;
            // The alarm, and everybody who is woken, in the order in which they
            // are. Nobody else looks.
            loop {
                let due = (waiting.iter().map(Waiter::looks_at).zip(0..)).min();
                let alarm = line.next_turn().unwrap_or(u64::MAX);
                let at = alarm.min(due.map_or(u64::MAX, |(at, _)| at));
                if at > end {
                    break;
                }
                now = now.max(at);
                serve(&mut line, &bucket, now);
                let Some((_, due)) = due.filter(|(at, _)| *at <= now) else {
                    continue;
                };
                let mut waker = waiting[due].waker();
                let waiter = &mut waiting[due];
                match line.standing(waiter.ticket, now, &mut waker) {
                    Standing::Served => {
                        prop_assert!(now <= waiter.until);
                        prop_assert!(last < Some(waiter.number));
                        prop_assert_eq!(level.take(now), Ok(()));
                        (last, served) = (Some(waiter.number), served + 1);
                        waiting.remove(due);
                    }
                    Standing::Waits => prop_assert!(false, "only who is served is woken"),
                    Standing::TooLate(_) => prop_assert!(false, "nobody came between"),
                }
            }
            now = end;
            // No token lies there while somebody waits for one.
            prop_assert!(waiting.is_empty() || bucket.next_at() > now);
            if choice % 4 == 0 && !waiting.is_empty() {
                let left = waiting.remove(usize::from(choice) % waiting.len());
                prop_assert!(line.leave(left.ticket).is_some());
                serve(&mut line, &bucket, now);
                continue;
            }
            serve(&mut line, &bucket, now);
            let (turn, until) = (line.turn_of_newcomer(&bucket, now), now + patience);
            if turn <= now {
                prop_assert!(waiting.is_empty());
                prop_assert_eq!(bucket.take(now), Ok(()));
                prop_assert_eq!(level.take(now), Ok(()));
                (last, served) = (Some(number), served + 1);
            } else if turn <= until {
                let woken = Arc::<Woken>::default();
                let ticket =
                    line.join(turn, until, Waker::from(Arc::clone(&woken)), runtime.handle().clone());
                waiting.push(Waiter { ticket, number, until, woken });
            }
        }
        prop_assert_eq!(line.len(), waiting.len());
        prop_assert_eq!(bucket.asked(), served, "one question for each token");
    }

    #[test]
    fn a_pace_taken_over_loses_no_token_and_makes_none(
        before in any_rate(), after in any_rate(), missing in 0_u64..50, now in 0_u64..1 << 60,
    ) {
        let (before, after) = (Pace::of(&before), Pace::of(&after));
        let missing = missing.min(before.burst.get().into());

        let full_at = after.take_over(now + missing * before.interval, before, now);

        let kept = missing.min(after.burst.get().into());
        prop_assert_eq!(full_at, now + kept * after.interval);
    }
}
