use proptest::prelude::*;

use super::*;

const LENGTH: Duration = Duration::from_nanos(1_000_000_000);
const SLICE: u64 = 100_000_000;

fn counts(all: u64, marked: u64) -> Counts {
    Counts { all, marked }
}

#[test]
fn an_event_counts_for_ten_slices_and_no_longer() {
    let window = Window::new(LENGTH);
    window.add(0, true);
    window.add(SLICE - 1, false);

    assert_eq!(window.sum(0), counts(2, 1));
    assert_eq!(window.sum(10 * SLICE - 1), counts(2, 1));
    assert_eq!(window.sum(10 * SLICE), counts(0, 0));
}

/// A thread may be held up between reading the length and counting, and
/// then writes a number that is of no use any more.
#[test]
fn a_number_of_another_length_does_not_block_its_bucket() {
    let window = Window::new(LENGTH);
    window.add(1000 * SLICE, false);
    window.resize(10 * LENGTH, 1000 * SLICE);
    // The old slice that has the bucket of the present one, which is 100.
    let stray = 996;
    let bucket = Bucket {
        slice: window.stamp(stray) >> SLICE_SHIFT,
        counts: counts(1, 1),
    };
    window.rings.at(Place::of_this_thread()).value()[index_of(stray)]
        .store(bucket.pack(), Ordering::Relaxed);
    let now = 1001 * SLICE;
    assert_eq!(window.sum(now).marked, 0);

    window.add(now, true);

    assert_eq!(window.sum(now).marked, 1);
}

/// A thread that owns its ring may write what it read before the clearing.
#[test]
fn what_comes_back_after_a_clearing_counts_for_nothing() {
    let window = Window::new(LENGTH);
    window.add(0, true);
    let ring = window.rings.at(Place::of_this_thread()).value();
    let before = ring[0].load(Ordering::Relaxed);

    window.clear();
    ring[0].store(before + 1, Ordering::Relaxed);

    assert_eq!(window.sum(0), counts(0, 0));
    window.add(0, false);
    assert_eq!(window.sum(0), counts(1, 0));
}

#[test]
fn an_event_too_late_for_its_bucket_is_dropped() {
    let window = Window::new(LENGTH);
    window.add(10 * SLICE, false);
    window.add(0, true);

    assert_eq!(window.sum(10 * SLICE), counts(1, 0));
}

#[test]
fn a_full_bucket_keeps_its_ratio() {
    let full = Bucket {
        slice: 3,
        counts: counts(COUNT_FULL, COUNT_FULL / 4),
    };

    let more = full.with(3, true).unwrap();

    assert_eq!(more.counts, counts(COUNT_FULL / 2 + 1, COUNT_FULL / 8 + 1));
    assert_eq!(Bucket::unpack(more.pack()), more);
}

/// Half the numbers later its number looks as if it were in the past.
#[test]
fn a_bucket_may_lie_unused_for_any_time() {
    for idle in [
        SLICE_MASK / 2,
        SLICE_MASK / 2 + 1,
        SLICE_MASK - LATE_MAX - 10,
        SLICE_MASK + 100,
    ] {
        let window = Window::new(LENGTH);
        (0..10).for_each(|slice| window.add(slice * SLICE, true));
        let now = idle * SLICE;

        window.add(now, false);

        assert_eq!(window.sum(now), counts(1, 0), "{idle}");
    }
}

#[test]
fn the_slice_number_may_wrap() {
    let window = Window::new(LENGTH);
    let wrap = (SLICE_MASK + 1) * SLICE;
    window.add(wrap - 1, true);
    window.add(wrap, false);

    assert_eq!(window.sum(wrap), counts(2, 1));
}

#[test]
fn threads_lose_no_count() {
    let window = Window::new(LENGTH);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|n| window.add(0, n % 4 == 0)));
        }
    });

    assert_eq!(window.sum(0), counts(4000, 1000));
}

proptest! {
    #[test]
    fn slices_are_numbered_as_by_division(length in 2u64..1 << 40, now in 0u64..1 << 60) {
        let (number, by_division) = (Slices::of(length).number(now), now / length);
        let left = length - now % length;
        prop_assert!(number == by_division || number == by_division + 1 && left <= length / 16 + 1);
    }

    #[test]
    fn a_slice_begins_no_later_than_it_should(length in 2u64..1 << 32, number in 0u64..1 << 20) {
        prop_assert_eq!(Slices::of(length).number(number * length), number);
        prop_assert_eq!(Slices::of(length).length(), length);
    }

    /// Counts come with it, as far as the new length reaches.
    #[test]
    fn another_length_keeps_the_counts(
        waits in prop::collection::vec(0u64..3 * SLICE, 1..60),
        length in 1u64..30,
    ) {
        let window = Window::new(LENGTH);
        let mut times = Vec::new();
        let mut now = 0;
        for wait in waits {
            now += wait;
            window.add(now, false);
            times.push(now);
        }
        let old = times.iter().filter(|time| *time / SLICE + 10 > now / SLICE);
        let slice = length * SLICE / 10;

        window.resize(Duration::from_nanos(length * SLICE), now);

        // A slice of the old length moves as one.
        let reach = (length * SLICE).saturating_sub(SLICE + slice);
        let least = old.clone().filter(|time| now - **time < reach).count() as u64;
        let kept = window.sum(now).all;
        prop_assert!((least..=old.count() as u64).contains(&kept), "{kept}");
        window.add(now, true);
        prop_assert_eq!(window.sum(now), counts(kept + 1, 1));
    }

    /// Against the plain thing: a list of all events.
    #[test]
    fn counts_what_a_list_would(steps in prop::collection::vec((0u64..3 * SLICE, any::<bool>()), 1..200)) {
        let window = Window::new(LENGTH);
        let mut list = Vec::new();
        let mut now = 0;
        for (wait, marked) in steps {
            now += wait;
            window.add(now, marked);
            list.push((now / SLICE, marked));
            list.retain(|(slice, _)| slice + 10 > now / SLICE);
            let marked = list.iter().filter(|(_, marked)| *marked).count();
            prop_assert_eq!(window.sum(now), counts(list.len() as u64, marked as u64));
        }
    }
}
