//! Processes that stand still under a run: the run ends in bounded time with the right
//! error, and the next one works.

use std::{fs, time::Duration};

use orchestrator_contract::ErrorKind;
use orchestrator_engine::{Engine, RunReport, config::HealthAction};
use orchestrator_testkit::{Signal, TestHome, TestPlugin, keeper, send, stop};
use serde_json::json;

use crate::support::{Rig, eventually, run};

const STEPS: &str = "\
steps:
  - id: s
    plugin: scripted
    phase: echo
    input: 1
    timeout: 1s
    policy: { retry: { max_attempts: 1 } }
";

fn install(rig: &Rig) {
    TestHome::at(rig.home.path()).install(&TestPlugin::scripted("scripted"));
}

fn pid(engine: &Engine) -> Option<u32> {
    let plugins = engine.plugins().into_iter();
    let scripted = plugins.filter(|it| it.id == "scripted").last();
    scripted.unwrap().pid
}

fn error(report: &RunReport) -> Option<ErrorKind> {
    report.steps[0].error.as_ref().map(|error| error.kind())
}

/// It cannot take the cancellation of the call either, for which it is replaced.
#[tokio::test]
async fn a_step_of_a_plugin_that_stands_still_ends_at_its_deadline() {
    let rig = Rig::new();
    install(&rig);
    let grace = Duration::from_millis(200);
    let engine = rig.start_with(|config| config.runtime.node.cancel_grace = grace);
    let engine = engine.await;
    assert_eq!(error(&run(&engine, STEPS).await), None);
    let stopped = pid(&engine).unwrap();
    stop(stopped).await;
    assert_eq!(error(&run(&engine, STEPS).await), Some(ErrorKind::Timeout));
    eventually("it is replaced", || {
        pid(&engine).is_some_and(|pid| pid != stopped)
    })
    .await;
    eventually("the old one is left", || {
        !fs::exists(format!("/proc/{stopped}")).unwrap()
    })
    .await;
    assert_eq!(error(&run(&engine, STEPS).await), None);
}

/// Nobody calls it; it is found out and replaced.
#[tokio::test]
async fn a_plugin_that_stands_still_is_replaced_where_health_says_so() {
    let rig = Rig::new();
    install(&rig);
    let engine = rig.start_with(|config| {
        config.health.action = HealthAction::Restart;
        config.health.check.interval = Duration::from_millis(50);
        config.health.check.timeout = Duration::from_millis(500);
        config.runtime.restart.first = Duration::from_millis(10);
    });
    let engine = engine.await;
    assert_eq!(error(&run(&engine, STEPS).await), None);
    let stopped = pid(&engine).unwrap();
    stop(stopped).await;
    eventually("it is replaced", || {
        pid(&engine).is_some_and(|pid| pid != stopped)
    })
    .await;
    assert_eq!(error(&run(&engine, STEPS).await), None);
}

#[tokio::test]
async fn runs_do_not_notice_that_the_keeper_of_plugins_was_stopped() {
    let rig = Rig::new();
    install(&rig);
    let tool = TestPlugin::shell("tool", json!([{ "name": "run" }]), "cat");
    TestHome::at(rig.home.path()).install(&tool);
    let engine = rig.start().await;
    let both = format!("{STEPS}\x20 - {{ id: t, plugin: tool, phase: run, input: 2 }}\n");
    for _ in 0..3 {
        let report = run(&engine, &both).await;
        let failed = report.steps.iter().find(|step| step.error.is_some());
        assert!(failed.is_none(), "{failed:?}");
        send(keeper(std::process::id()).unwrap(), Signal::STOP);
    }
}
