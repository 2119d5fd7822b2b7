//! Every order in which a few threads may meet at a few permits.

use std::task::{Poll, Waker};

use loom::{
    future::block_on,
    model,
    sync::{Arc, atomic::AtomicUsize},
    thread,
};

use super::*;

/// Two stripes with permits of their own, which takes at least 16 permits; all
/// but `free` are taken.
fn spread(free: usize) -> Permits {
    let permits = Permits::new(16, 0, 2);
    assert!((free..16).all(|_| permits.take(0, 0)));
    permits
}

/// Counts who is inside.
fn enter(inside: &AtomicUsize, limit: usize) {
    assert!(inside.fetch_add(1, Ordering::Relaxed) < limit);
}

fn leave(inside: &AtomicUsize) {
    inside.fetch_sub(1, Ordering::Relaxed);
}

#[test]
fn one_permit_is_never_held_twice() {
    model(|| {
        let permits = Arc::new(Permits::new(1, 0, 1));
        let inside = Arc::new(AtomicUsize::new(0));
        let visit = |thread| {
            let (permits, inside) = (Arc::clone(&permits), Arc::clone(&inside));
            move || {
                if permits.take(thread, 0) {
                    enter(&inside, 1);
                    leave(&inside);
                    permits.give_back(thread);
                }
            }
        };

        let other = thread::spawn(visit(0));
        visit(1)();
        other.join().unwrap();

        assert_eq!(permits.taken(), 0);
    });
}

/// Two permits are free, and two threads want one each; so nobody may be
/// refused, wherever the permits are and whoever moves them just then.
#[test]
fn nobody_is_refused_while_a_permit_is_free() {
    model(|| {
        let permits = Arc::new(spread(2));
        let visit = |thread| {
            let permits = Arc::clone(&permits);
            move || {
                assert!(permits.take(thread, 0));
                permits.give_back(thread + 1);
            }
        };

        let other = thread::spawn(visit(0));
        visit(1)();
        other.join().unwrap();

        assert_eq!(permits.taken(), 14);
    });
}

/// All are taken out of the stripes, shared out among fewer, and given back
/// meanwhile.
#[test]
fn a_change_of_the_limit_neither_loses_nor_doubles_a_permit() {
    model(|| {
        let permits = Arc::new(spread(4));
        let other = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.give_back(1))
        };

        permits.resize(20, 0, || ());
        other.join().unwrap();

        assert_eq!((permits.limit(), permits.taken()), (20, 11));
    });
}

/// The permit that comes back is the one from which on permits are spread.
#[test]
fn nobody_is_refused_while_permits_are_being_spread() {
    model(|| {
        let permits = Arc::new(spread(0));
        (0..7).for_each(|_| permits.give_back(0));
        let taker = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || assert!(permits.take(1, 0)))
        };

        permits.give_back(0);
        taker.join().unwrap();

        assert_eq!(permits.taken(), 9);
    });
}

/// Waits as a bulkhead's call does.
async fn wait(permits: &Permits) {
    if permits.take(0, 0) {
        return;
    }
    let mut ticket = None;
    std::future::poll_fn(|cx| match ticket {
        None => match permits.join(1, cx.waker()) {
            Join::Taken => Poll::Ready(()),
            Join::Queued(place) => {
                ticket = Some(place);
                Poll::Pending
            }
            Join::Full => panic!("there is room for one"),
        },
        Some(place) if permits.is_served(place, cx.waker()) => Poll::Ready(()),
        Some(_) => Poll::Pending,
    })
    .await;
}

/// A lost wake-up would leave the waiting thread blocked, which loom reports.
#[test]
fn whoever_waits_is_woken() {
    model(|| {
        let permits = Arc::new(Permits::new(1, 0, 1));
        assert!(permits.take(0, 0));
        let waiter = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || {
                block_on(wait(&permits));
                permits.give_back(0);
            })
        };

        permits.give_back(0);
        waiter.join().unwrap();

        assert_eq!((permits.taken(), permits.queued()), (0, 0));
    });
}

/// The one that leaves may have been given the permit just then.
#[test]
fn whoever_leaves_the_queue_takes_no_permit_along() {
    model(|| {
        let permits = Arc::new(Permits::new(1, 0, 1));
        assert!(permits.take(0, 0));
        let giver = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.give_back(0))
        };

        match permits.join(1, Waker::noop()) {
            Join::Taken => permits.give_back(0),
            Join::Queued(ticket) => {
                if !permits.leave(ticket) {
                    permits.give_back(0);
                }
            }
            Join::Full => panic!("there is room for one"),
        }
        giver.join().unwrap();

        assert_eq!((permits.taken(), permits.queued()), (0, 0));
        assert!(permits.take(0, 0));
    });
}

/// Who comes while somebody waits finds nothing, even as a permit comes free.
#[test]
fn a_newcomer_does_not_overtake_who_waits() {
    model(|| {
        let permits = Arc::new(Permits::new(1, 0, 1));
        assert!(permits.take(0, 0));
        let Join::Queued(ticket) = permits.join(1, Waker::noop()) else {
            panic!("the one permit is taken");
        };
        let giver = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.give_back(0))
        };

        assert!(!permits.take(1, 0));
        giver.join().unwrap();

        assert!(permits.is_served(ticket, Waker::noop()));
        assert!(!permits.take(1, 0));
    });
}
