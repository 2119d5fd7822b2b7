//! What telemetry costs a call where it is done as one does it, each trap
//! beside the way of a phase's call: policies, metrics and trace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
};
use orchestrator_contract::TraceContext;
use orchestrator_observability::{Build, Telemetry, trace::with_trace};
use tokio::runtime::Builder;
use tracing::{Event, Subscriber, info_span, span, subscriber::with_default};

use super::{Ask, Echo, Parts, call};

const CALLS: u64 = 100;

/// Makes calls, each through every policy, with the metrics of its phase and
/// in a trace that is not sampled, and does `naively` beside. What is done only
/// once is done before `within` is entered.
fn calls(within: impl FnOnce(&mut dyn FnMut()), naively: impl Fn()) {
    let telemetry = Telemetry::new(Build { version: "0" });
    let phase = telemetry.phase("p", "x");
    let mut stack = Parts::new().unwrap().around(Echo { gives_way: false });
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let mut a_call = |value| {
        runtime.block_on(async {
            let _in_flight = phase.in_flight();
            phase.attempted();
            let unsampled = TraceContext::from_random(1, 2, false);
            let answer = with_trace(unsampled, call(&mut stack, Ask::new(value))).await;
            phase.executed(Duration::from_micros(1200), None);
            assert_eq!(answer, Ok(value + 1));
        });
    };
    a_call(0);
    within(&mut || {
        for value in 0..CALLS {
            a_call(value);
            naively();
        }
    });
}

/// Counts how often a metric is looked up.
#[derive(Default)]
struct LookUps(AtomicU64);

impl LookUps {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for LookUps {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.count();
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.count();
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.count();
        Histogram::noop()
    }
}

/// A macro finds its metric anew each time; that is several times what the
/// counting takes. Handles that are kept need no macro on the way of a call.
#[expect(clippy::disallowed_macros, reason = "it is the naive use")]
#[test]
fn trap_telemetry_1_a_macro_looks_its_metric_up_for_each_call() {
    let look_ups = |naively: fn()| {
        let recorder = LookUps::default();
        calls(
            |calls| metrics::with_local_recorder(&recorder, calls),
            naively,
        );
        recorder.0.load(Ordering::Relaxed)
    };

    let naive = look_ups(|| counter!("calls", "phase" => "x").increment(1));
    assert_eq!(naive, CALLS, "the trap is there");

    assert_eq!(look_ups(|| ()), 0);
}

/// Counts spans and events, and wants to see none of them.
#[derive(Clone, Default)]
struct Unsampled(Arc<AtomicU64>);

impl Subscriber for Unsampled {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.0.fetch_add(1, Ordering::Relaxed);
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A span is made before anybody can say that its trace is not sampled. Ours
/// is asked about first, so that such a call makes none, and no line either.
#[test]
fn trap_telemetry_2_a_span_is_made_for_each_call_though_its_trace_is_not_sampled() {
    let spans = |naively: fn()| {
        let subscriber = Unsampled::default();
        let seen = Arc::clone(&subscriber.0);
        calls(|calls| with_default(subscriber, calls), naively);
        seen.load(Ordering::Relaxed)
    };

    let naive = spans(|| drop(info_span!("phase", name = "x").entered()));
    assert_eq!(naive, CALLS, "the trap is there");

    assert_eq!(spans(|| ()), 0);
}
