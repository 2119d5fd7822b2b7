//! Measures how long calls take.
//!
//! For: knowing it. A quantile is what a hedge waits for, an adaptive limit
//! steers by, and a person looks at.
//!
//! Not for: telling calls apart. One histogram is of one service; it has no
//! labels and remembers no call.
//!
//! Times are counted in buckets whose width grows with the time, four to each
//! doubling, as HDR histograms do. A quantile is the middle of a bucket, and
//! thus at most an eighth from the truth for times from 256 ns to 36 minutes.
//! Nothing is kept for a call, so memory is bounded by the number
//! of buckets whatever the traffic.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    admission::{Admission, Call, End},
    clock::Instant,
    refusal::{Refusal, RefusalKind},
    retry::Once,
    stack::Policies,
    striped::{Place, Sums},
    sync::{AtomicU64, Ordering},
};

/// Times up to 2^8 ns share the first bucket.
const LEAST_BITS: u32 = 8;
/// Times from 2^41 ns on, which is 36 minutes, share the last.
const MOST_BITS: u32 = 41;
/// Buckets to each doubling, as a power of two.
const SPLIT_BITS: u32 = 2;
const BUCKETS: usize = ((MOST_BITS - LEAST_BITS) << SPLIT_BITS) as usize + 2;

/// A histogram of call durations, refusals left out. Copies share it.
#[derive(Clone, Debug)]
pub struct Latency(Arc<Sums<Counts>>);

#[derive(Debug)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    /// Of all times, in nanoseconds. Comes round after 584 years of calls.
    sum: AtomicU64,
}

/// What a [`Latency`] has counted.
#[derive(Clone, Debug)]
pub struct LatencySnapshot {
    buckets: [u64; BUCKETS],
    /// How many calls.
    pub count: u64,
    /// How long they took together.
    pub sum: Duration,
}

/// [`Latency`] alone, as a layer.
pub type LatencyLayer<C> = Policies<C, Latency>;

impl<C> LatencyLayer<C> {
    /// Counts the calls of every service that this layer wraps in `latency`.
    pub fn new(latency: Latency, classify: C) -> Self {
        Self::assemble(classify, latency, Once, ())
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Sums::new(|| Counts {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        })))
    }

    /// Counts one call.
    pub fn record(&self, took: Duration) {
        self.count(Place::of_this_thread(), crate::clock::nanos(took));
    }

    #[inline]
    fn count(&self, place: Place, nanos: u64) {
        let mine = self.0.at(place);
        let counts = mine.value();
        mine.add(&counts.buckets[bucket_of(nanos)], 1);
        mine.add(&counts.sum, nanos);
    }

    /// What was counted until now. Calls that end meanwhile may be in or not.
    #[must_use]
    pub fn snapshot(&self) -> LatencySnapshot {
        let mut buckets = [0; BUCKETS];
        let mut sum = 0_u64;
        for counts in self.0.iter() {
            for (all, one) in buckets.iter_mut().zip(&counts.buckets) {
                *all += one.load(Ordering::Relaxed);
            }
            sum = sum.wrapping_add(counts.sum.load(Ordering::Relaxed));
        }
        LatencySnapshot {
            count: buckets.iter().sum(),
            buckets,
            sum: Duration::from_nanos(sum),
        }
    }
}

impl LatencySnapshot {
    /// The time that a part `quantile` of the calls did not exceed, such as
    /// 0.95 of them, give or take an eighth; nothing if there were no calls.
    /// Of calls that took longer than 36 minutes it says no more than that.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count, rounded to a whole one"
        )]
        let rank = (quantile.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let mut seen = 0;
        let index = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        index.map(|index| Duration::from_nanos(middle_of(index)))
    }

    /// Each bucket's upper bound, and how many calls are in it. The last one's
    /// is as good as none: 584 years.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bound = |index| Duration::from_nanos(bound_of(index));
        (0..).map(bound).zip(self.buckets)
    }
}

/// The bucket for a time.
#[inline]
fn bucket_of(nanos: u64) -> usize {
    const LEAST: u64 = 1 << SPLIT_BITS;
    let bits = nanos >> (LEAST_BITS - SPLIT_BITS);
    if bits < LEAST {
        return 0;
    }
    // The leading bits say where between two doublings it is.
    let doubling = bits.ilog2() - SPLIT_BITS;
    let leading = bits >> doubling;
    let index = 1 + (u64::from(doubling) << SPLIT_BITS) + (leading - LEAST);
    (index as usize).min(BUCKETS - 1)
}

/// The least time that is too long for a bucket.
fn bound_of(index: usize) -> u64 {
    let Some(index) = (index as u64).checked_sub(1) else {
        return 1 << LEAST_BITS;
    };
    if index as usize + 2 >= BUCKETS {
        return u64::MAX;
    }
    let (doubling, part) = (index >> SPLIT_BITS, index & ((1 << SPLIT_BITS) - 1));
    ((1 << SPLIT_BITS) + part + 1) << (doubling + u64::from(LEAST_BITS - SPLIT_BITS))
}

/// The time to give for those in a bucket. The last one has no middle.
fn middle_of(index: usize) -> u64 {
    let least = index.checked_sub(1).map_or(0, bound_of);
    if index + 1 >= BUCKETS {
        return least;
    }
    least + (bound_of(index) - least) / 2
}

/// When a call began. Nothing is before the first moment, so that one means
/// that it has not come in.
#[derive(Debug, Default)]
pub struct Hold(Instant);

impl<Req, Res, Err> Admission<Req, Res, Err> for Latency {
    type Hold = Hold;

    const WAITS: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        hold.0 = call.now();
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn settle(&self, hold: &mut Hold, call: &mut Call, end: &End<'_, Res, Err>) {
        let began = std::mem::take(&mut hold.0).as_nanos();
        if began != 0 && !end.refusal().is_some_and(RefusalKind::is_turned_away) {
            let nanos = call.now().as_nanos().saturating_sub(began);
            self.count(call.place(), nanos);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::sleep;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::testing::{Ask, Fault, Script, Tester};

    #[tokio::test(start_paused = true)]
    async fn a_call_counts_for_as_long_as_it_took() {
        let latency = Latency::new();
        let service = service_fn(|ask: Ask| async move {
            sleep(Duration::from_millis(ask.tenant)).await;
            Ok::<u32, Fault>(1)
        });
        let service = LatencyLayer::new(latency.clone(), Tester).layer(service);

        for millis in [10, 20, 30, 40] {
            let asked = service.clone().oneshot(Ask::of_tenant(millis)).await;
            assert_eq!(asked, Ok(1));
        }

        let snapshot = latency.snapshot();
        assert_eq!(snapshot.count, 4);
        assert_eq!(snapshot.sum, Duration::from_millis(100));
        let median = snapshot.quantile(0.5).unwrap().as_millis();
        assert!((18..=22).contains(&median), "{median}");
    }

    #[tokio::test]
    async fn what_was_turned_away_took_no_time_and_does_not_count() {
        let latency = Latency::new();
        let refused = Refusal::Overloaded {
            limit: 1,
            queued: 0,
        };
        let script = Script::answers([Err(Fault::Refused(refused)), Err(Fault::Broken)]);
        let service = LatencyLayer::new(latency.clone(), Tester).layer(script);

        for _ in 0..2 {
            assert!(service.clone().oneshot(Ask::default()).await.is_err());
        }

        assert_eq!(latency.snapshot().count, 1, "the failure does");
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Latency::new().snapshot().quantile(0.5), None);
    }

    #[test]
    fn a_time_that_is_too_long_to_tell_is_given_as_the_least_of_those() {
        let latency = Latency::new();
        latency.record(Duration::from_secs(3 * 3600));

        let longest = Duration::from_nanos(1 << MOST_BITS);
        assert_eq!(latency.snapshot().quantile(1.0), Some(longest));
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_an_eighth_from_the_truth(
            nanos in 1u64 << LEAST_BITS..1 << MOST_BITS,
        ) {
            let latency = Latency::new();
            latency.record(Duration::from_nanos(nanos));

            let told = latency.snapshot().quantile(0.5).unwrap().as_nanos();
            prop_assert!(told.abs_diff(nanos.into()) * 8 <= nanos.into(), "{told}");
        }

        #[test]
        fn a_time_is_below_its_bucket_s_bound_and_not_far(nanos in 0u64..1 << MOST_BITS) {
            let index = bucket_of(nanos);
            prop_assert!(nanos < bound_of(index));
            prop_assert!(index == 0 || nanos >= bound_of(index - 1));
            prop_assert!(index == 0 || bound_of(index) - nanos <= (nanos >> SPLIT_BITS) + 1);
        }

        #[test]
        fn long_times_share_the_last_bucket(nanos in 1u64 << MOST_BITS..) {
            prop_assert_eq!(bucket_of(nanos), BUCKETS - 1);
            prop_assert_eq!(bound_of(BUCKETS - 1), u64::MAX);
        }
    }
}
