//! What answers in place of a step's phase that fails.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use miette::Diagnostic as _;
use orchestrator_contract::{
    CallError, ErrorKind, Event, FallbackKind, PhaseCall, PhaseReply, RunOutcome, StepOutcome,
};
use orchestrator_engine::{
    Builtin, CallContext, Engine, Plugin, RunReport, RunRequest, config::Config,
    journal::RecordBody,
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::BoxFuture;
use orchestrator_policies::PolicyKind;
use serde_json::json;

use crate::support::{Rig, output, pipeline, run, run_with, within};

/// Answers with its name and its input until it is told to fail.
#[derive(Clone, Default)]
struct Rates {
    name: &'static str,
    failing: Arc<Mutex<Option<CallError>>>,
    hanging: Arc<AtomicBool>,
    called: Arc<AtomicU32>,
}

impl Rates {
    fn named(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    fn fail(&self, error: CallError) {
        *self.failing.lock().unwrap() = Some(error);
    }

    fn called(&self) -> u32 {
        self.called.load(Ordering::Relaxed)
    }

    fn builtin(&self, effect: &str) -> Builtin {
        let manifest = json!({
            "id": self.name,
            "version": "1.0.0",
            "description": "Scripted.",
            "kind": "builtin",
            "entry_point": self.name,
            "phases": [{ "name": "get", "effect": effect, "max_attempts": 1 }],
        });
        let manifest = Manifest::from_value(&manifest, self.name).unwrap();
        Builtin::new(manifest, self.clone())
    }
}

impl Plugin for Rates {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        self.called.fetch_add(1, Ordering::Relaxed);
        if self.hanging.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        let result = match self.failing.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(PhaseReply::new(call.input)),
        };
        Box::pin(std::future::ready(result))
    }
}

/// An engine with the plugins `rates` and `backup`.
struct Bench {
    rig: Rig,
    engine: Engine,
    rates: Rates,
    backup: Rates,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with("pure", |_| ()).await
    }

    async fn start_with(effect: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(Rig::new(), effect, change).await
    }

    async fn start_on(rig: Rig, effect: &str, change: impl FnOnce(&mut Config)) -> Self {
        let (rates, backup) = (Rates::named("rates"), Rates::named("backup"));
        let builder = rig.builder(change).builtin(rates.builtin("pure"));
        let builder = builder.builtin(backup.builtin(effect));
        let engine = builder.start().await.unwrap();
        Self {
            rig,
            engine,
            rates,
            backup,
        }
    }

    fn told(&self, answered: bool) -> usize {
        self.rig.told.count(|event| {
            matches!(event, Event::CallFellBack { answered: it, error: ErrorKind::PluginTransient, .. } if *it == answered)
        })
    }
}

/// A step of `rates` that falls back, and one that works on its result.
fn body(fallback: &str) -> String {
    format!(
        "input: {{ base: {{ type: string, default: EUR }} }}
steps:
  - id: ask
    plugin: rates
    phase: get
    input: {{ base: \"${{{{ input.base }}}}\" }}
    fallback: {fallback}
  - {{ id: use, plugin: echo, phase: say, input: \"${{{{ steps.ask.output }}}}\" }}
outputs:
  rates: {{ from: \"${{{{ steps.use.output }}}}\" }}
"
    )
}

fn busy() -> CallError {
    CallError::transient("busy")
}

fn fell_back(report: &RunReport) -> Option<FallbackKind> {
    assert_eq!(report.steps[0].step.as_str(), "ask");
    report.steps[0].fallback
}

const VALUE: &str = "{ value: { rates: [], base: \"${{ input.base }}\" } }";
const PHASE: &str = "{ plugin: backup@^1, phase: get }";
const LAST_GOOD: &str = "{ last_good: true }";

#[tokio::test]
async fn a_value_answers_and_the_record_says_so() {
    let bench = Bench::start().await;
    let report = run(&bench.engine, &body(VALUE)).await;
    assert_eq!((fell_back(&report), bench.told(true)), (None, 0));
    bench.rates.fail(busy());

    let report = run(&bench.engine, &body(VALUE)).await;

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(fell_back(&report), Some(FallbackKind::Value));
    assert_eq!(
        report.steps[0].reason.as_deref(),
        Some("fell back to the pipeline's value: busy")
    );
    assert_eq!(output(&report, "rates"), r#"{"base":"EUR","rates":[]}"#);
    assert_eq!(bench.told(true), 1);
    let records = bench.engine.history().records(report.id, 0).await.unwrap();
    let written = records.iter().find_map(|record| match &record.body {
        RecordBody::StepCompleted { fallback, .. } => fallback.as_deref(),
        _ => None,
    });
    assert_eq!(written.unwrap().error, busy());
}

/// What was written down is what another engine reads, goes on with, and hands on.
#[tokio::test]
async fn that_it_fell_back_outlives_the_engine_and_a_retry() {
    let bench = Bench::start().await;
    bench.rates.fail(busy());
    let failing = body(VALUE).replace("plugin: echo, phase: say", "plugin: fails, phase: now");
    let first = run(&bench.engine, &failing).await;
    assert_eq!(first.outcome, Some(RunOutcome::Failed));
    let again = within(bench.engine.retry(first.id, None)).await.unwrap();
    let again = within(again.wait()).await.unwrap();
    assert_eq!(bench.rates.called(), 1, "what fell back has its result");
    bench.engine.drain(Duration::from_secs(5)).await.unwrap();

    let next = bench.rig.start().await;

    for run in [first.id, again.id] {
        let report = next.history().report(run).await.unwrap();
        assert_eq!(fell_back(&report), Some(FallbackKind::Value));
        assert_eq!(report.steps[0].outcome, Some(StepOutcome::Success));
    }
}

#[tokio::test]
async fn another_plugins_phase_answers() {
    let bench = Bench::start().await;
    bench.rates.fail(busy());

    let report = run(&bench.engine, &body(PHASE)).await;

    assert_eq!(fell_back(&report), Some(FallbackKind::Phase));
    assert_eq!(output(&report, "rates"), r#"{"base":"EUR"}"#);
    assert_eq!((bench.rates.called(), bench.backup.called()), (1, 1));
    let records = bench.engine.history().records(report.id, 0).await.unwrap();
    let RecordBody::RunCreated(created) = &records[0].body else {
        panic!("{records:?}");
    };
    assert_eq!(created.fallbacks["ask"].plugin.as_str(), "backup");

    // Where that fails too, the first failure is the step's.
    bench.backup.fail(CallError::permanent("no"));
    let report = run(&bench.engine, &body(PHASE)).await;
    assert_eq!(report.steps[0].error, Some(busy()));
    assert_eq!((bench.told(true), bench.told(false)), (1, 1));
}

/// A crash between the failure and the fallback's answer: the step begins anew,
/// and its attempts go on counting.
#[tokio::test]
async fn a_step_that_was_falling_back_is_resumed() {
    let bench = Bench::start().await;
    bench.rates.fail(busy());
    bench.backup.hanging.store(true, Ordering::Relaxed);
    let request = RunRequest::new(pipeline(&body(PHASE)));
    let left = bench.engine.submit(request).await.unwrap().id();
    let asked = async {
        while bench.backup.called() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(asked).await;
    let drained = within(bench.engine.drain(Duration::ZERO)).await.unwrap();
    assert_eq!(drained.left_open, 1);

    let next = Bench::start_on(bench.rig, "pure", |_| ()).await;
    next.rates.fail(busy());
    let handle = within(next.engine.resume(left)).await.unwrap();
    let report = within(handle.wait()).await.unwrap();

    assert_eq!(report.outcome, Some(RunOutcome::Success));
    assert_eq!(fell_back(&report), Some(FallbackKind::Phase));
    assert_eq!(report.steps[0].attempts, 2);
}

#[tokio::test]
async fn the_last_good_result_to_the_same_input_answers() {
    let bench = Bench::start().await;
    let ask = async |tenant: &str, base: &str| {
        let request = RunRequest::new(pipeline(&body(LAST_GOOD)));
        let request = request.tenant(tenant).input(json!({ "base": base }));
        run_with(&bench.engine, request).await
    };
    ask("acme", "EUR").await;
    bench.rates.fail(busy());

    let report = ask("acme", "EUR").await;

    assert_eq!(fell_back(&report), Some(FallbackKind::LastGood));
    assert_eq!(output(&report, "rates"), r#"{"base":"EUR"}"#);
    for (tenant, base) in [("acme", "USD"), ("other", "EUR")] {
        let report = ask(tenant, base).await;
        assert_eq!(report.steps[0].error, Some(busy()), "{tenant} {base}");
    }
    assert_eq!((bench.told(true), bench.told(false)), (1, 2));
}

/// What is too long to be kept is not kept.
#[tokio::test]
async fn last_good_results_are_bounded() {
    let bench = Bench::start_with("pure", |config| {
        config.policy.fallback.result_bytes_max = 13;
    })
    .await;
    run(&bench.engine, &body(LAST_GOOD)).await;
    bench.rates.fail(busy());
    let report = run(&bench.engine, &body(LAST_GOOD)).await;
    assert_eq!(report.steps[0].error, Some(busy()));
}

/// A plugin that says no has answered, and an input that does not fit is not
/// the plugin's failure.
#[tokio::test]
async fn only_failures_fall_back() {
    let bench = Bench::start().await;
    for error in [CallError::permanent("no"), CallError::invalid_input("no")] {
        bench.rates.fail(error.clone());
        let report = run(&bench.engine, &body(VALUE)).await;
        assert_eq!(report.steps[0].error, Some(error));
    }
    let all = bench
        .rig
        .told
        .count(|event| matches!(event, Event::CallFellBack { .. }));
    assert_eq!(all, 0);
}

/// A refusal of a policy is answered as well: a fallback is outside of all.
#[tokio::test]
async fn a_refused_call_falls_back() {
    let bench = Bench::start_with("pure", |config| {
        config.policy.breaker.consecutive_failures = 1.try_into().unwrap();
    })
    .await;
    bench.rates.fail(busy());
    for _ in 0..3 {
        let report = run(&bench.engine, &body(VALUE)).await;
        assert_eq!(fell_back(&report), Some(FallbackKind::Value));
    }
    assert_eq!(bench.rates.called(), 1, "the breaker is open");
}

#[tokio::test]
async fn a_fallback_that_cannot_be_used_is_refused_at_once() {
    let left_out = |config: &mut Config| config.policy.stack.leave_out(PolicyKind::Fallback);
    let refused = async |bench: &Bench, fallback: &str| {
        let checked = bench.engine.check(&pipeline(&body(fallback)));
        let error = checked.err()?;
        Some((error.code().unwrap().to_string(), error.to_string()))
    };
    let bench = Bench::start_with("at_most_once", |_| ()).await;
    assert_eq!(refused(&bench, VALUE).await, None);
    let (code, message) = refused(&bench, PHASE).await.unwrap();
    assert_eq!(code, "ORC-4016");
    assert!(message.contains("may happen only once"), "{message}");
    let bench = Bench::start_with("pure", left_out).await;
    for fallback in [VALUE, PHASE, LAST_GOOD] {
        let (code, message) = refused(&bench, fallback).await.unwrap();
        assert_eq!(code, "ORC-4016");
        assert!(message.contains("`policy.stack`"), "{message}");
    }
}
