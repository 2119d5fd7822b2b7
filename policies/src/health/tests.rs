//! Checks in virtual time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::time::{advance, sleep};

use super::*;
use crate::{breaker::BreakerState, testing::recorder};

const SECOND: Duration = Duration::from_secs(1);

/// Lets everything happen that is due within `time`.
async fn pass(time: Duration) {
    sleep(time).await;
}

/// A service to ask.
#[derive(Clone, Default)]
struct Service(Arc<(AtomicBool, AtomicUsize)>);

impl Service {
    fn set_down(&self, down: bool) {
        self.0.0.store(down, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    async fn check(self) -> Result<(), &'static str> {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        if self.0.0.load(Ordering::Relaxed) {
            Err("down")
        } else {
            Ok(())
        }
    }
}

fn monitor() -> HealthMonitor {
    HealthMonitor::with_seed(HealthConfig::default(), recorder().0, 7).unwrap()
}

fn watch(monitor: &HealthMonitor, name: &str) -> Service {
    let service = Service::default();
    let asked = service.clone();
    monitor
        .watch(name.to_owned(), move || asked.clone().check())
        .unwrap();
    service
}

#[tokio::test(start_paused = true)]
async fn one_bad_check_is_no_illness_and_one_good_one_no_recovery() {
    let (listener, events) = recorder();
    let monitor = HealthMonitor::with_seed(HealthConfig::default(), listener, 7).unwrap();
    let service = watch(&monitor, "db");
    // One round takes 9 to 11 s, the first at most one.
    let rounds = async |count: usize| {
        let goal = service.asked() + count;
        while service.asked() < goal {
            pass(SECOND / 10).await;
        }
    };
    assert_eq!(monitor.health("db"), Some(Health::Unknown));
    rounds(1).await;
    assert_eq!(monitor.health("db"), Some(Health::Unknown));
    rounds(1).await;
    assert_eq!(monitor.health("db"), Some(Health::Healthy));

    service.set_down(true);
    rounds(2).await;
    assert_eq!(monitor.health("db"), Some(Health::Healthy));
    service.set_down(false);
    rounds(1).await;
    service.set_down(true);
    rounds(2).await;
    assert_eq!(monitor.health("db"), Some(Health::Healthy), "not in a row");
    rounds(1).await;
    assert_eq!(monitor.health("db"), Some(Health::Unhealthy));
    let snapshot = monitor.snapshot().remove(0);
    assert_eq!(
        (snapshot.in_a_row, snapshot.problem.as_deref()),
        (3, Some("down"))
    );

    service.set_down(false);
    rounds(1).await;
    assert_eq!(monitor.health("db"), Some(Health::Unhealthy));
    rounds(1).await;
    assert_eq!(events.names(), ["db healthy", "db unhealthy", "db healthy"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_unhealthy_and_delays_no_other() {
    let monitor = monitor();
    monitor
        .watch("hangs", std::future::pending::<Result<(), String>>)
        .unwrap();
    let service = watch(&monitor, "well");

    pass(100 * SECOND).await;

    assert!((9..=12).contains(&service.asked()), "{}", service.asked());
    assert_eq!(monitor.health("hangs"), Some(Health::Unhealthy));
    let snapshots = monitor.snapshot();
    assert_eq!(snapshots[0].problem.as_deref(), Some("no answer within 2s"));
    assert_eq!(monitor.health("well"), Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_has_failed_and_goes_on() {
    let monitor = monitor();
    monitor
        .watch("panics", || async {
            assert!(std::hint::black_box(false), "on purpose");
            Ok::<(), String>(())
        })
        .unwrap();

    pass(60 * SECOND).await;

    let snapshot = monitor.snapshot().remove(0);
    assert_eq!(snapshot.health, Health::Unhealthy);
    assert!(snapshot.checks >= 5);
    assert_eq!(snapshot.problem.as_deref(), Some("the check panicked"));
}

#[tokio::test(start_paused = true)]
async fn checks_end_with_the_monitor_and_leave_the_breaker_as_they_found_it() {
    let breaker = Breaker::new(crate::BreakerConfig::default()).unwrap();
    let monitor = monitor();
    let service = Service::default();
    let asked = service.clone();
    service.set_down(true);
    monitor
        .watch_breaker("db", breaker.clone(), move || asked.clone().check())
        .unwrap();
    pass(40 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);

    drop(monitor);
    advance(SECOND / 10).await;
    tokio::task::yield_now().await;
    let asked = service.asked();
    pass(100 * SECOND).await;

    assert_eq!(service.asked(), asked);
    assert_eq!(Arc::strong_count(&service.0), 1, "no task is left");
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_is_open_while_its_service_is_unhealthy_and_ramps_up_after() {
    let breaker = Breaker::new(crate::BreakerConfig::default()).unwrap();
    let (monitor, service) = (monitor(), Service::default());
    let asked = service.clone();
    monitor
        .watch_breaker("db", breaker.clone(), move || asked.clone().check())
        .unwrap();
    service.set_down(true);
    pass(40 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);

    service.set_down(false);
    while breaker.state() == BreakerState::ForcedOpen {
        pass(SECOND / 10).await;
    }
    let now = crate::clock::now();
    let admitted = (0..100).filter(|_| breaker.admit(now).is_ok()).count();
    assert!((10..=20).contains(&admitted), "{admitted}");

    breaker.force_closed();
    service.set_down(true);
    pass(60 * SECOND).await;
    assert_eq!(monitor.health("db"), Some(Health::Unhealthy));
    assert_eq!(
        breaker.state(),
        BreakerState::ForcedClosed,
        "a person's word"
    );
}

/// And the same seed gives the same moments.
#[tokio::test(start_paused = true)]
async fn intervals_are_random_within_bounds() {
    let moments = async |seed| {
        let monitor =
            HealthMonitor::with_seed(HealthConfig::default(), recorder().0, seed).unwrap();
        let begin = tokio::time::Instant::now();
        let moments = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&moments);
        let check = move || {
            notes.lock().unwrap().push(begin.elapsed());
            std::future::ready(Ok::<(), String>(()))
        };
        monitor.watch("db", check).unwrap();
        pass(200 * SECOND).await;
        drop(monitor);
        let moments = moments.lock().unwrap();
        moments.clone()
    };

    let first = moments(7).await;

    assert!(first[0] <= SECOND, "{first:?}");
    let gaps: Vec<_> = first.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let bounds = 9 * SECOND..=11 * SECOND + SECOND / 100;
    assert!(gaps.iter().all(|gap| bounds.contains(gap)), "{gaps:?}");
    assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]));
    assert_eq!(first, moments(7).await);
    assert_ne!(first, moments(8).await);
}

#[tokio::test(start_paused = true)]
async fn new_settings_take_effect_at_once() {
    let monitor = HealthMonitor::new(HealthConfig {
        interval: 3600 * SECOND,
        jitter: Ratio::new(0.001).unwrap(),
        ..HealthConfig::default()
    })
    .unwrap();
    let service = watch(&monitor, "db");
    pass(10 * SECOND).await;
    assert_eq!(service.asked(), 1);

    let wrong = HealthConfig {
        timeout: Duration::ZERO,
        ..HealthConfig::default()
    };
    assert_eq!(monitor.reconfigure(wrong).unwrap_err().key, "timeout");
    monitor.reconfigure(HealthConfig::default()).unwrap();
    // 9 to 11 s after the first, which came within 3.6 s.
    pass(5 * SECOND).await;

    assert_eq!(service.asked(), 2);
    assert_eq!(monitor.health("db"), Some(Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn checks_are_kept_to_a_number() {
    let monitor = HealthMonitor::new(HealthConfig {
        max_checks: NonZeroUsize::MIN,
        ..HealthConfig::default()
    })
    .unwrap();
    let first = watch(&monitor, "a");
    let well = || std::future::ready(Ok::<(), String>(()));
    assert_eq!(monitor.watch("b", well), Err(TooManyChecks { limit: 1 }));

    monitor.watch("a", well).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&first.0), 1, "another took its place");
    assert!(monitor.unwatch("a") && !monitor.unwatch("a"));
    assert_eq!(monitor.watch("b", well), Ok(()));
}

/// A monitor, and services that are unhealthy and hold `breaker` open.
async fn unhealthy<const N: usize>(breaker: &Breaker) -> (HealthMonitor, [Service; N]) {
    let monitor = monitor();
    let services = std::array::from_fn(|number| {
        let service = Service::default();
        service.set_down(true);
        let asked = service.clone();
        let check = move || asked.clone().check();
        let name = number.to_string();
        monitor.watch_breaker(name, breaker.clone(), check).unwrap();
        service
    });
    pass(40 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);
    (monitor, services)
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_forces_outlasts_the_recovery() {
    let breaker = Breaker::new(crate::BreakerConfig::default()).unwrap();
    let (_monitor, [service]) = unhealthy(&breaker).await;
    breaker.force_open();

    service.set_down(false);
    pass(40 * SECOND).await;

    assert_eq!(breaker.state(), BreakerState::ForcedOpen);
    breaker.reset();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_takes_a_force_back_leaves_the_checks_theirs() {
    let breaker = Breaker::new(crate::BreakerConfig::default()).unwrap();
    let (_monitor, [service]) = unhealthy(&breaker).await;

    breaker.force_closed();
    assert_eq!(breaker.state(), BreakerState::ForcedClosed);
    breaker.reset();
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);
    breaker.set_mode(crate::BreakerMode::Disabled);
    assert_eq!(breaker.state(), BreakerState::Disabled);
    breaker.set_mode(crate::BreakerMode::Enforce);
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);

    service.set_down(false);
    pass(40 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn traffic_comes_back_when_the_last_service_is_well() {
    let breaker = Breaker::new(crate::BreakerConfig::default()).unwrap();
    let (monitor, [one, other]) = unhealthy(&breaker).await;

    one.set_down(false);
    pass(40 * SECOND).await;
    assert_eq!(monitor.health("0"), Some(Health::Healthy));
    assert_eq!(breaker.state(), BreakerState::ForcedOpen);

    other.set_down(false);
    pass(40 * SECOND).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_change_says_which_it_is_and_why() {
    let (listener, events) = recorder();
    let monitor = HealthMonitor::with_seed(HealthConfig::default(), listener, 7).unwrap();
    let service = watch(&monitor, "db");
    pass(40 * SECOND).await;
    service.set_down(true);
    pass(40 * SECOND).await;
    drop(monitor);

    let change = |event: crate::PolicyEvent| match event {
        crate::PolicyEvent::HealthChanged(change) => (change.sequence, change.reason),
        other => panic!("{other:?}"),
    };
    let changes: Vec<_> = events.all().into_iter().map(change).collect();
    assert_eq!(changes, [(1, None), (2, Some("down".to_owned()))]);
}
