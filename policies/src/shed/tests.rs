use std::{collections::VecDeque, future::pending, time::Duration};

use proptest::prelude::*;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::testing::{Ask, Fault, Script, Tester, recorder};

fn config(max_in_flight: usize) -> ShedConfig {
    ShedConfig {
        max_in_flight: NonZeroUsize::new(max_in_flight).unwrap(),
        ..ShedConfig::default()
    }
}

fn shed(max_in_flight: usize) -> Shed {
    Shed::new(config(max_in_flight)).unwrap()
}

fn limits(shed: &Shed) -> [usize; 4] {
    shed.snapshot().classes.map(|class| class.limit)
}

/// How many calls of `class` are let in.
fn fill(shed: &Shed, class: Criticality) -> usize {
    (0..).take_while(|_| shed.enter(class)).count()
}

#[test]
fn each_class_has_its_share_and_no_share_is_nothing() {
    assert_eq!(limits(&shed(1000)), [700, 800, 950, 1000]);
    assert_eq!(limits(&shed(10)), [7, 8, 9, 10]);
    assert_eq!(limits(&shed(1)), [1, 1, 1, 1]);
}

#[test]
fn a_class_finds_the_room_that_those_below_it_may_not_take() {
    for limit in [10, 100, 1000] {
        let shed = shed(limit);
        let let_in = Criticality::ALL.map(|class| fill(&shed, class));

        let in_all = let_in.iter().scan(0, |sum, let_in| {
            *sum += let_in;
            Some(*sum)
        });
        assert!(in_all.eq(limits(&shed)));
        assert_eq!(shed.snapshot().in_flight, limit);
    }
}

/// More and more calls of each class, each of which takes ten ticks or so, into
/// room for a hundred. The most important come last in every tick, when there
/// is least room.
#[test]
fn under_overload_the_sheddable_go_first_and_critical_plus_last() {
    const TICKS: usize = 5_000;
    let mut rng = fastrand::Rng::with_seed(7);
    for (per_tick, shed_at_all) in [
        (1, [false, false, false, false]),
        (2, [true, false, false, false]),
        (4, [true, true, true, false]),
        (12, [true, true, true, true]),
    ] {
        let shed = shed(100);
        let mut ends = VecDeque::from([0; 20]);
        for _ in 0..TICKS {
            let ended = ends.pop_front().unwrap();
            (0..ended).for_each(|_| shed.leave());
            ends.push_back(0);
            for class in Criticality::ALL
                .into_iter()
                .flat_map(|class| vec![class; per_tick])
            {
                if shed.enter(class) {
                    ends[rng.usize(0..20)] += 1;
                } else {
                    let _ = shed.refuse(class);
                }
            }
        }

        let refused = shed.snapshot().classes.map(|class| class.refused);

        assert!(
            refused.is_sorted_by(|less, more| less >= more),
            "{refused:?}"
        );
        // The odd one out of a thousand is luck.
        let at_all = refused.map(|refused| refused > per_tick as u64 * TICKS as u64 / 1000);
        assert_eq!(at_all, shed_at_all, "{per_tick} a tick: {refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_shed_says_so_and_one_that_is_dropped_makes_room() {
    let (listener, events) = recorder();
    let shed = shed(1);
    let script = Script::hang();
    let service = ShedLayer::new(shed.clone(), Tester)
        .with_listener(listener)
        .layer(script.clone());
    let ask = || {
        let call = service.clone().oneshot(Ask::default());
        timeout(Duration::from_secs(1), call)
    };

    let (first, second) = tokio::join!(ask(), ask());

    assert!(first.is_err(), "it hangs until it is dropped");
    let refusal = Refusal::Shed {
        criticality: Criticality::Critical,
        limit: 1,
    };
    assert_eq!(second, Ok(Err(Fault::Refused(refusal))));
    assert_eq!(script.calls(), 1);
    assert_eq!(events.names(), ["refused shed"]);
    let snapshot = shed.snapshot();
    assert_eq!(snapshot.in_flight, 0);
    assert_eq!(snapshot.of(Criticality::Critical).refused, 1);
    assert_eq!(snapshot.of(Criticality::CriticalPlus).refused, 0);
}

#[tokio::test]
async fn what_a_request_is_classified_as_counts() {
    #[derive(Clone, Copy)]
    struct Batch;
    impl crate::Classify<Criticality, (), Fault> for Batch {
        fn criticality(&self, request: &Criticality) -> Criticality {
            *request
        }
    }
    let shed = shed(10);
    let service = ShedLayer::new(shed.clone(), Batch)
        .layer(service_fn(|_: Criticality| pending::<Result<(), Fault>>()));
    let ask = |class| {
        let mut call = Box::pin(service.clone().oneshot(class));
        let polled = futures_poll(call.as_mut());
        (call, polled)
    };

    let sheddable: Vec<_> = (0..9).map(|_| ask(Criticality::Sheddable)).collect();
    let (_call, plus) = ask(Criticality::SheddablePlus);

    let refused = sheddable.iter().filter(|(_, polled)| polled.is_ready());
    assert_eq!(refused.count(), 2);
    assert!(plus.is_pending());
    assert_eq!(shed.snapshot().in_flight, 8);
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn reconfiguring_keeps_what_is_in_flight() {
    let shed = shed(100);
    assert_eq!(fill(&shed, Criticality::Sheddable), 70);

    shed.reconfigure(config(50)).unwrap();
    assert_eq!(limits(&shed), [35, 40, 47, 50]);
    assert_eq!(shed.snapshot().in_flight, 70);
    assert!(!shed.enter(Criticality::CriticalPlus));
    (0..30).for_each(|_| shed.leave());
    assert_eq!(fill(&shed, Criticality::SheddablePlus), 0);
    assert_eq!(fill(&shed, Criticality::CriticalPlus), 10);

    shed.reconfigure(config(1000)).unwrap();
    assert_eq!(fill(&shed, Criticality::Sheddable), 650);
}

#[test]
fn shares_that_put_the_less_important_first_are_refused() {
    let share = |share| Ratio::new(share).unwrap();
    let key = |config: ShedConfig| config.validate().map_err(|error| error.key);
    let known = shed(10);

    assert_eq!(key(ShedConfig::default()), Ok(()));
    let sheddable = ShedConfig {
        sheddable: share(0.81),
        ..config(20)
    };
    assert_eq!(key(sheddable.clone()), Err("sheddable"));
    let sheddable_plus = ShedConfig {
        sheddable_plus: share(0.96),
        ..config(20)
    };
    assert_eq!(key(sheddable_plus), Err("sheddable_plus"));
    assert_eq!(key(config(PERMITS_MAX + 1)), Err("max_in_flight"));
    assert!(known.reconfigure(sheddable).is_err());
    assert_eq!(limits(&known), [7, 8, 9, 10], "all is as it was");
}

#[derive(Clone, Debug)]
enum Step {
    Enter(usize),
    Leave,
    Reconfigure(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..4).prop_map(Step::Enter),
        5 => Just(Step::Leave),
        1 => (1_usize..120).prop_map(Step::Reconfigure),
    ]
}

proptest! {
    /// Against the plain thing: a count and four bounds.
    #[test]
    fn lets_in_what_a_count_would(
        limit in 1_usize..120,
        steps in prop::collection::vec(step(), 1..600),
    ) {
        let shed = shed(limit);
        let mut bounds = limits(&shed);
        let mut in_flight = 0;
        for step in steps {
            match step {
                Step::Enter(class) => {
                    let let_in = shed.enter(Criticality::ALL[class]);
                    prop_assert_eq!(let_in, in_flight < bounds[class]);
                    in_flight += usize::from(let_in);
                }
                Step::Leave if in_flight > 0 => {
                    shed.leave();
                    in_flight -= 1;
                }
                Step::Leave => {}
                Step::Reconfigure(limit) => {
                    shed.reconfigure(config(limit)).unwrap();
                    bounds = Criticality::ALL.map(|class| config(limit).limit_of(class));
                }
            }
            prop_assert_eq!(shed.snapshot().in_flight, in_flight);
        }
    }
}
