//! The order of the policies, told by what a caller sees.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, Criticality, Event, EventSink, Payload, PhaseCall, PhaseReply, RunId, SessionId,
    TraceContext,
};
use orchestrator_observability::{Build, Telemetry};
use tokio::{sync::Notify, time::Instant};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{bus::Bus, config::Config};

const TOTAL: Duration = Duration::from_secs(60);

/// A stack around a scripted plugin, with what it told.
struct Rig {
    stack: Service,
    reached: Arc<AtomicU32>,
    told: Arc<Told>,
    telemetry: Telemetry,
}

#[derive(Default)]
struct Told(Mutex<Vec<Event>>);

impl EventSink for Told {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// What the scripted plugin does.
#[derive(Clone, Copy)]
enum Does {
    Hangs,
    FailsForNow,
    FailsForGood,
    Panics,
    AnswersAfter(Duration),
}

impl Rig {
    fn new(does: Does, change: impl FnOnce(&mut PolicyConfig)) -> Self {
        let mut policy = Config::defaults().unwrap().policy;
        policy.deadline.attempt = Some(Duration::from_secs(10));
        change(&mut policy);
        let reached = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&reached);
        let plugin = service_fn(move |request: StackCall| {
            counter.fetch_add(1, Ordering::Relaxed);
            behave(does, request)
        });
        let telemetry = Telemetry::new(Build { version: "0.0.0" });
        let told = Arc::new(Told::default());
        let listener = BreakerListener {
            bus: Bus::new(vec![told.clone()]),
            plugin: "scripted".into(),
            phase: Some("act".into()),
        };
        let stack = build(Ingredients {
            shared: &SharedPolicies::new(&policy, listener.clone().shared()).unwrap(),
            policy: &policy,
            total: policy.deadline.total.unwrap_or(TOTAL),
            metrics: telemetry.phase("scripted", "act"),
            teller: Teller::new(listener.bus.clone()),
            plugin,
        });
        Self {
            stack: stack.unwrap().service,
            reached,
            told,
            telemetry,
        }
    }

    async fn ask(&self, idempotent: bool) -> Result<PhaseReply, CallError> {
        self.stack.clone().oneshot(request(idempotent)).await
    }

    async fn kind(&self, idempotent: bool) -> &'static str {
        match self.ask(idempotent).await {
            Ok(_) => "answered",
            Err(error) => error.kind().as_str(),
        }
    }

    fn reached(&self) -> u32 {
        self.reached.load(Ordering::Relaxed)
    }

    fn told(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.told
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|event| wanted(event))
            .count()
    }
}

async fn behave(does: Does, request: StackCall) -> Result<PhaseReply, StackError> {
    match does {
        Does::AnswersAfter(pause) => tokio::time::sleep(pause).await,
        Does::Hangs => std::future::pending().await,
        Does::FailsForNow => return Err(StackError::Plugin(CallError::transient("busy"))),
        Does::FailsForGood => return Err(StackError::Plugin(CallError::permanent("no"))),
        Does::Panics => panic!("scripted"),
    }
    Ok(PhaseReply::new(request.into_call().input))
}

fn request(idempotent: bool) -> StackCall {
    let call = PhaseCall {
        run: RunId::from_parts(0, 1),
        step: "step".into(),
        plugin: "scripted".into(),
        phase: "act".into(),
        attempt: 1,
        tenant: None,
        criticality: Criticality::default(),
        deadline: None,
        idempotency_key: "key".into(),
        trace: TraceContext::from_random(1, 1, false),
        session: SessionId::from_parts(0, 1),
        input: Payload::null(),
    };
    StackCall::new(call, idempotent)
}

fn once(policy: &mut PolicyConfig) {
    policy.retry.max_attempts = 1.try_into().unwrap();
}

/// A plugin that hangs is failing: the attempt deadline is inside the breaker.
#[tokio::test(start_paused = true)]
async fn a_hang_trips_the_breaker() {
    let rig = Rig::new(Does::Hangs, once);
    for _ in 0..5 {
        assert_eq!(rig.kind(true).await, "timeout");
    }

    assert_eq!(rig.kind(true).await, "circuit_open");

    assert_eq!(
        rig.reached(),
        5,
        "an open circuit does not reach the plugin"
    );
    let opened = |event: &Event| matches!(event, Event::BreakerChanged { sequence: 1, .. });
    assert_eq!(rig.told(opened), 1);
}

/// The same without a limit of the attempt's own: who is dropped at the call's
/// deadline has failed too.
#[tokio::test(start_paused = true)]
async fn a_hang_until_the_deadline_trips_the_breaker() {
    let rig = Rig::new(Does::Hangs, |policy| {
        once(policy);
        policy.deadline.attempt = None;
    });
    for _ in 0..5 {
        assert_eq!(rig.kind(true).await, "timeout");
    }

    assert_eq!(rig.kind(true).await, "circuit_open");
}

/// Callers turned away for lack of room do not count against the plugin: the
/// breaker ignores what the bulkhead below it refuses.
#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_bulkhead_does_not_trip_the_breaker() {
    let rig = Rig::new(Does::AnswersAfter(Duration::from_secs(1)), |policy| {
        once(policy);
        policy.bulkhead.max_concurrent = 1.try_into().unwrap();
        policy.bulkhead.max_queue = 0;
        policy.bulkhead.max_wait = Duration::ZERO;
        policy.breaker.consecutive_failures = 1.try_into().unwrap();
    });

    let (first, second, third) = tokio::join!(rig.kind(true), rig.kind(true), rig.kind(true));

    assert_eq!(
        (first, second, third),
        ("answered", "overloaded", "overloaded")
    );
    assert_eq!(rig.kind(true).await, "answered");
}

/// Each attempt asks the breaker: retry is outside of it, and stops when it
/// refuses.
#[tokio::test(start_paused = true)]
async fn a_retry_never_runs_while_the_breaker_is_open() {
    let rig = Rig::new(Does::FailsForNow, |policy| {
        policy.retry.max_attempts = 10.try_into().unwrap();
        policy.retry.budget.reserve = 100;
        policy.retry.max_delay = Duration::from_millis(100);
        policy.breaker.consecutive_failures = 3.try_into().unwrap();
    });

    assert_eq!(rig.kind(true).await, "circuit_open");

    assert_eq!(rig.reached(), 3);
    let failed = |event: &Event| matches!(event, Event::AttemptFailed { error, .. } if *error == CallError::transient("busy"));
    assert_eq!(rig.told(failed), 3, "the plugin's own errors are told");
}

/// A pause that would outlast the deadline is not begun: the caller learns the
/// plugin's error at once instead of a time-out later.
#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_finish_in_time_is_not_slept_for() {
    let rig = Rig::new(Does::FailsForNow, |policy| {
        policy.deadline.total = Some(Duration::from_secs(2));
        policy.deadline.attempt = None;
        policy.retry.base_delay = Duration::from_secs(3600);
        policy.retry.max_delay = Duration::from_secs(3600);
    });
    let started = Instant::now();

    assert_eq!(rig.kind(true).await, "plugin_transient");

    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(rig.reached(), 1);
    let given_up = |event: &Event| matches!(event, Event::RetryGivenUp { reason, .. } if &**reason == "deadline");
    assert_eq!(rig.told(given_up), 1);
}

/// One call is one token, however often it is tried: the rate limit is outside
/// of retry.
#[tokio::test(start_paused = true)]
async fn retries_take_no_tokens() {
    let rig = Rig::new(Does::FailsForNow, |policy| {
        let rate = serde_json::json!({ "calls": 1, "per": "1h", "burst": 1 });
        policy.rate_limit.overall = serde_json::from_value(rate).unwrap();
    });

    assert_eq!(rig.kind(true).await, "plugin_transient");
    assert_eq!(
        rig.reached(),
        3,
        "all three attempts were made on one token"
    );
    assert_eq!(rig.kind(true).await, "rate_limited");
}

/// A sleeping retry holds no slot: the bulkhead is inside retry.
#[tokio::test(start_paused = true)]
async fn a_pausing_retry_holds_no_slot() {
    let rig = Rig::new(Does::FailsForNow, |policy| {
        policy.bulkhead.max_concurrent = 1.try_into().unwrap();
        policy.retry.max_attempts = 2.try_into().unwrap();
        policy.breaker.consecutive_failures = 100.try_into().unwrap();
        policy.breaker.min_requests = 100.try_into().unwrap();
    });

    let (first, second) = tokio::join!(rig.kind(true), rig.kind(true));

    assert_eq!((first, second), ("plugin_transient", "plugin_transient"));
    assert_eq!(rig.reached(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_may_happen_once_is_tried_once() {
    let rig = Rig::new(Does::FailsForNow, |_| ());
    assert_eq!(rig.kind(false).await, "plugin_transient");
    assert_eq!(rig.reached(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_says_no_is_neither_retried_nor_rested() {
    let rig = Rig::new(Does::FailsForGood, |_| ());
    for _ in 0..20 {
        assert_eq!(rig.kind(true).await, "plugin_permanent");
    }
    assert_eq!(rig.reached(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_and_counts() {
    let rig = Rig::new(Does::Panics, once);
    for _ in 0..5 {
        assert_eq!(rig.kind(true).await, "panic");
    }
    assert_eq!(rig.kind(true).await, "circuit_open");
}

/// The attempts of a call that is resumed go on counting, up to as many as are
/// allowed, and of each but the first somebody is told.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_on() {
    for (first, last) in [(1, 3), (2, 3), (3, 3), (5, 5)] {
        let rig = Rig::new(Does::FailsForNow, |_| ());
        let mut call = request(true).into_call();
        call.attempt = first;
        let again = Arc::new(Notify::new());
        let cap = cap::of_step(None, 3.try_into().unwrap(), first);
        let request = StackCall::of_step(call, true, Arc::clone(&again), cap);
        let attempts = request.attempts();

        rig.stack.clone().oneshot(request).await.unwrap_err();

        assert_eq!((rig.reached(), attempts.made()), (last - first + 1, last));
        let told = tokio::time::timeout(Duration::ZERO, again.notified()).await;
        assert_eq!(told.is_ok(), last > first);
    }
}

/// Every end of a call is counted with its kind, also of one that nobody waits
/// for any more.
#[tokio::test(start_paused = true)]
async fn every_call_is_counted_once() {
    let rig = Rig::new(Does::AnswersAfter(Duration::from_secs(5)), once);
    rig.ask(true).await.unwrap();
    let impatient = tokio::time::timeout(Duration::from_secs(1), rig.ask(true)).await;
    assert!(impatient.is_err());

    let page = rig.telemetry.render();

    let labels = r#"{plugin="scripted",phase="act"}"#;
    let executions = format!("orchestrator_plugin_phase_executions_total{labels} 2");
    assert!(page.contains(&executions), "{page}");
    let cancelled = r#"{plugin="scripted",phase="act",error_type="cancelled"} 1"#;
    assert!(page.contains(cancelled), "{page}");
}

/// What `policy.stack` leaves out is not there, whatever its section says.
#[tokio::test(start_paused = true)]
async fn a_policy_that_is_left_out_does_nothing() {
    let without = |kind| {
        move |policy: &mut PolicyConfig| {
            policy.breaker.consecutive_failures = 1.try_into().unwrap();
            let rate = serde_json::json!({ "calls": 1, "per": "1h", "burst": 1 });
            policy.rate_limit.overall = serde_json::from_value(rate).unwrap();
            policy.stack.leave_out(kind);
        }
    };
    use PolicyKind as Kind;

    let rig = Rig::new(Does::FailsForNow, without(Kind::Breaker));
    assert_eq!(rig.kind(true).await, "plugin_transient");
    assert_eq!(rig.reached(), 3, "nothing refuses the second attempt");
    let rig = Rig::new(Does::FailsForNow, without(Kind::Retry));
    assert_eq!(rig.kind(true).await, "plugin_transient");
    assert_eq!(rig.reached(), 1);
    let given_up = |event: &Event| matches!(event, Event::RetryGivenUp { .. });
    assert_eq!(rig.told(given_up), 0);
    let rig = Rig::new(Does::FailsForGood, without(Kind::RateLimit));
    for _ in 0..2 {
        assert_eq!(rig.kind(true).await, "plugin_permanent");
    }

    let second = Duration::from_secs(1);
    let narrow = |kind| {
        move |policy: &mut PolicyConfig| {
            policy.bulkhead.max_concurrent = 1.try_into().unwrap();
            policy.bulkhead.max_queue = 0;
            policy.bulkhead.max_wait = Duration::ZERO;
            policy.shed.max_in_flight = 1.try_into().unwrap();
            policy.stack.leave_out(kind);
        }
    };
    let both = async |rig: &Rig| tokio::join!(rig.kind(true), rig.kind(true));
    let by = |rig: &Rig, by| {
        rig.told(move |event| matches!(event, Event::CallRefused { by: it, .. } if *it == by))
    };
    use orchestrator_contract::RefusedBy;
    let rig = Rig::new(Does::AnswersAfter(second), narrow(Kind::Shed));
    both(&rig).await;
    assert_eq!(
        (by(&rig, RefusedBy::Shed), by(&rig, RefusedBy::Bulkhead)),
        (0, 1)
    );
    let rig = Rig::new(Does::AnswersAfter(second), |policy| {
        narrow(Kind::Bulkhead)(policy);
        policy.stack.leave_out(Kind::Shed);
    });
    assert_eq!(both(&rig).await, ("answered", "answered"));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_deadline_that_is_left_out_ends_no_attempt() {
    for (left_out, ended) in [(false, 10), (true, 60)] {
        let rig = Rig::new(Does::Hangs, |policy| {
            once(policy);
            if left_out {
                policy.stack.leave_out(PolicyKind::AttemptDeadline);
            }
        });
        let started = Instant::now();
        assert_eq!(rig.kind(true).await, "timeout");
        assert_eq!(started.elapsed().as_secs(), ended);
    }
}

/// A breaker that observes lets calls through and tells what it would do.
#[tokio::test(start_paused = true)]
async fn what_a_breaker_would_refuse_is_told() {
    use orchestrator_contract::RefusedBy;

    for (mode, refused, would) in [
        ("enforce", 2, 0),
        ("observe_only", 0, 2),
        ("disabled", 0, 0),
    ] {
        let rig = Rig::new(Does::FailsForNow, |policy| {
            once(policy);
            policy.breaker.consecutive_failures = 1.try_into().unwrap();
            policy.breaker.mode = serde_json::from_value(mode.into()).unwrap();
        });
        for _ in 0..3 {
            rig.ask(true).await.unwrap_err();
        }
        let by = RefusedBy::Breaker;
        let refuses =
            |event: &Event| matches!(event, Event::CallRefused { by: it, .. } if *it == by);
        let would_refuse = |event: &Event| matches!(event, Event::CallWouldBeRefused { by: it, phase: Some(_), .. } if *it == by);
        assert_eq!(
            (rig.told(refuses), rig.told(would_refuse)),
            (refused, would),
            "{mode}"
        );
        let in_earnest = mode == "enforce";
        let opened = |event: &Event| matches!(event, Event::BreakerChanged { enforced, .. } if *enforced == in_earnest);
        assert_eq!(rig.told(opened), usize::from(mode != "disabled"), "{mode}");
    }
}
