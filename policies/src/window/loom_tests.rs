//! Every order in which threads may meet at a window: those that own a ring
//! and write it with a plain load and store, and whoever clears it, changes
//! its length or adds it up meanwhile.

use loom::{model, sync::Arc, thread};

use super::*;

const SLICE: u64 = 100_000_000;
const NOW: u64 = 5 * SLICE;

fn window() -> Arc<Window> {
    Arc::new(Window::new(SHORTEST))
}

/// Runs `other` in another thread that has the window too.
fn beside(window: &Arc<Window>, other: impl FnOnce(&Window) + 'static) -> thread::JoinHandle<()> {
    let window = Arc::clone(window);
    thread::spawn(move || other(&window))
}

#[test]
fn threads_lose_no_event() {
    model(|| {
        let window = window();
        // Two own a ring, and this one shares.
        let others = [true, false].map(|marked| {
            beside(&window, move |window| {
                window.add(NOW, marked);
                window.add(NOW, false);
            })
        });
        window.add(NOW, true);
        for other in others {
            other.join().unwrap();
        }

        assert_eq!(window.sum(NOW), Counts { all: 5, marked: 2 });
    });
}

/// The next owner goes on where the one before ended.
#[test]
fn a_ring_goes_from_thread_to_thread_with_its_counts() {
    model(|| {
        let window = window();
        beside(&window, |window| window.add(NOW, false))
            .join()
            .unwrap();
        let other = beside(&window, |window| window.add(NOW, true));
        window.add(NOW, false);
        other.join().unwrap();

        assert_eq!(window.sum(NOW), Counts { all: 3, marked: 1 });
    });
}

/// A thread may have read its count before the window was cleared, and write
/// it after. What was counted before must not come back.
#[test]
fn what_was_cleared_does_not_come_back() {
    model(|| {
        let window = window();
        let other = beside(&window, |window| {
            window.add(NOW, true);
            window.add(NOW, true);
        });

        window.clear();
        window.add(NOW, false);
        other.join().unwrap();

        let sum = window.sum(NOW);
        assert!((1..=3).contains(&sum.all), "{sum:?}");
        assert_eq!(sum.all - sum.marked, 1, "{sum:?}");
        let before = sum.all;
        window.add(NOW, true);
        assert_eq!(window.sum(NOW).all, before + 1, "it counts as before");
    });
}

/// As [`what_was_cleared_does_not_come_back`], where all was counted before.
#[test]
fn a_window_that_was_cleared_is_empty_however_late_somebody_writes() {
    model(|| {
        let window = window();
        window.add(NOW, true);
        let other = beside(&window, |window| window.add(NOW, true));

        window.clear();
        let sum = window.sum(NOW);
        assert!(sum.all <= 1, "{sum:?}");
        other.join().unwrap();

        assert!(window.sum(NOW).all <= 1);
    });
}

/// It is of a slice of another length, which may have any number.
#[test]
fn a_changed_length_neither_doubles_events_nor_stops_the_count() {
    model(|| {
        let window = window();
        window.add(NOW, true);
        let other = beside(&window, |window| window.add(NOW, true));

        window.resize(2 * SHORTEST, NOW);
        other.join().unwrap();

        let sum = window.sum(NOW);
        assert!((1..=2).contains(&sum.all), "{sum:?}");
        window.add(NOW, true);
        assert_eq!(window.sum(NOW).all, sum.all + 1, "it counts as before");
    });
}

/// Whoever adds up while the slice ends sees events of one slice or the next.
#[test]
fn a_slice_that_ends_takes_no_event_of_the_next_along() {
    model(|| {
        let window = window();
        window.add(NOW, true);
        let later = NOW + BUCKETS as u64 * SLICE;
        let other = beside(&window, move |window| {
            window.add(NOW, true);
            window.add(later, false);
        });

        let sum = window.sum(later);
        assert!(sum.marked == 0 && sum.all <= 1, "{sum:?}");
        other.join().unwrap();

        assert_eq!(window.sum(later), Counts { all: 1, marked: 0 });
    });
}
