//! Against the plain thing: one number and a list.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::*;

const STRIPES: usize = 4;

/// What permits are for whoever does not look inside.
#[derive(Default)]
struct Model {
    limit: i64,
    inside: i64,
    queue: VecDeque<Ticket>,
    /// Tickets that were served and not taken notice of.
    served: Vec<Ticket>,
}

impl Model {
    fn free(&self) -> i64 {
        self.limit - self.inside
    }

    fn take(&mut self, spared: i64) -> bool {
        let taken = self.queue.is_empty() && self.free() > spared;
        self.inside += i64::from(taken);
        taken
    }

    fn serve(&mut self) {
        while self.free() > 0
            && let Some(ticket) = self.queue.pop_front()
        {
            self.inside += 1;
            self.served.push(ticket);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        thread: usize,
        spared: usize,
    },
    GiveBack {
        thread: usize,
    },
    Join {
        queue_max: usize,
    },
    /// The one in this place of the queue leaves it.
    Leave {
        place: prop::sample::Index,
    },
    Resize {
        limit: usize,
        kept: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let thread = || 0..2 * STRIPES;
    prop_oneof![
        12 => (thread(), 0_usize..20).prop_map(|(thread, spared)| Step::Take { thread, spared }),
        8 => thread().prop_map(|thread| Step::GiveBack { thread }),
        2 => (0_usize..8).prop_map(|queue_max| Step::Join { queue_max }),
        1 => any::<prop::sample::Index>().prop_map(|place| Step::Leave { place }),
        1 => (1_usize..150, 0_usize..40).prop_map(|(limit, kept)| Step::Resize { limit, kept }),
    ]
}

fn follow(limit: usize, mut kept: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let permits = Permits::new(limit, kept, STRIPES);
    let mut model = Model {
        limit: count(limit),
        ..Model::default()
    };
    kept = kept.min(limit);
    for step in steps {
        match step {
            Step::Take { thread, spared } => {
                let spared = count(spared.min(kept));
                prop_assert_eq!(permits.take(thread, spared), model.take(spared));
            }
            Step::GiveBack { thread } if model.inside > count(model.served.len()) => {
                permits.give_back(thread);
                model.inside -= 1;
                model.serve();
            }
            Step::GiveBack { .. } => {}
            // As callers do: who finds a permit does not join.
            Step::Join { .. } if permits.take(0, 0) => prop_assert!(model.take(0)),
            Step::Join { queue_max } => match permits.join(queue_max, Waker::noop()) {
                Join::Taken => prop_assert!(false, "there was none a moment ago"),
                Join::Full => prop_assert!(model.queue.len() >= queue_max),
                Join::Queued(ticket) => {
                    prop_assert!(model.queue.len() < queue_max);
                    model.queue.push_back(ticket);
                }
            },
            Step::Leave { place } if !model.queue.is_empty() => {
                let place = place.index(model.queue.len());
                let ticket = model.queue.remove(place).unwrap();
                prop_assert!(permits.leave(ticket));
            }
            Step::Leave { .. } => {}
            Step::Resize { limit, kept: keep } => {
                permits.resize(limit, keep, || ());
                kept = keep.min(limit);
                model.limit = count(limit);
                model.serve();
            }
        }
        for ticket in model.served.drain(..) {
            prop_assert!(permits.is_served(ticket, Waker::noop()));
            prop_assert!(!permits.leave(ticket));
        }
        for ticket in &model.queue {
            prop_assert!(!permits.is_served(*ticket, Waker::noop()));
        }
        prop_assert_eq!(count(permits.taken()), model.inside);
        prop_assert_eq!(permits.queued(), model.queue.len());
        prop_assert_eq!(count(permits.limit()), model.limit);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn permits_are_a_number_and_a_list(
        limit in 1_usize..150,
        kept in 0_usize..40,
        steps in prop::collection::vec(step(), 1..600),
    ) {
        follow(limit, kept, steps)?;
    }
}

#[test]
fn permits_are_spread_while_many_are_free_and_pooled_while_few_are() {
    let permits = Permits::new(64, 0, STRIPES);
    let spread = || permits.pool().is_spread();
    assert!(spread());

    // One thread that uses up its stripe's permits gets those of others.
    for taken in 1..=48 {
        assert!(permits.take(0, 0));
        assert_eq!((permits.taken(), spread()), (taken, true));
    }
    while permits.take(0, 0) {}
    assert_eq!((permits.taken(), spread()), (64, false));

    for taken in (33..64).rev() {
        permits.give_back(1);
        assert_eq!((permits.taken(), spread()), (taken, false));
    }
    permits.give_back(1);
    assert_eq!((permits.taken(), spread()), (32, true));
}

#[test]
fn a_small_limit_needs_no_spreading() {
    for limit in [1, 15] {
        assert!(
            !Permits::new(limit, 0, STRIPES).pool().is_spread(),
            "{limit}"
        );
    }
    assert!(Permits::new(16, 0, STRIPES).pool().is_spread());
    assert!(!Permits::new(16, 1, STRIPES).pool().is_spread());
    assert!(!Permits::new(1000, 0, 1).pool().is_spread());
}

/// Looks back at the permits when it is dropped, as a waker may that is the
/// last to know of a task.
struct LooksBack(Arc<Permits>);

impl Wake for LooksBack {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LooksBack {
    fn drop(&mut self) {
        let _ = self.0.taken();
    }
}

#[test]
fn wakers_are_dropped_and_woken_without_the_lock() {
    let permits = Arc::new(Permits::new(1, 0, STRIPES));
    let waker = || Waker::from(Arc::new(LooksBack(Arc::clone(&permits))));
    assert!(permits.take(0, 0));
    let join = |waker| match permits.join(9, &waker) {
        Join::Queued(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let (first, second) = (join(waker()), join(waker()));

    assert!(!permits.is_served(first, &waker()));
    assert!(permits.leave(first));
    permits.give_back(0);

    assert!(permits.is_served(second, &waker()));
}

/// As many threads as there are permits, each of which wants one: whoever is
/// refused was refused in vain. And one thread more never gets in with all
/// others inside.
#[test]
fn threads_are_refused_when_all_is_taken_and_never_otherwise() {
    const THREADS: usize = 4;
    for limit in [THREADS, 16, 64] {
        let permits = Permits::new(limit, 0, STRIPES);
        let each = limit / THREADS;
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (permits, inside, most) = (&permits, &inside, &most);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let wanted = 1 + round % each;
                        for number in 0..wanted {
                            assert!(permits.take(thread + number % 2, 0));
                            let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                        }
                        for _ in 0..wanted {
                            inside.fetch_sub(1, Ordering::SeqCst);
                            permits.give_back(thread + round);
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= limit);
        assert_eq!(permits.taken(), 0);
    }
}

/// Twice as many as may be inside, so that permits move all the time.
#[test]
fn threads_never_hold_more_than_there_are_and_lose_none() {
    for limit in [1, 3, 16, 40] {
        let permits = Permits::new(limit, 0, STRIPES);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (permits, inside, most) = (&permits, &inside, &most);
                scope.spawn(move || {
                    for round in 0..5_000 {
                        let got = (0..limit / 2 + 1).take_while(|_| {
                            let got = permits.take(thread, 0);
                            if got {
                                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                                most.fetch_max(now, Ordering::SeqCst);
                            }
                            got
                        });
                        for _ in 0..got.count() {
                            inside.fetch_sub(1, Ordering::SeqCst);
                            permits.give_back(thread + round);
                        }
                    }
                });
            }
        });
        assert!((1..=limit).contains(&most.into_inner()));
        assert_eq!(permits.taken(), 0);
        assert!((0..limit).all(|_| permits.take(0, 0)), "all came back");
        assert!(!permits.take(0, 0));
    }
}
