//! Runs and pipelines while plugins are reloaded.

use std::time::Duration;

use orchestrator_contract::PluginState;
use orchestrator_engine::{Disabled, Home, RunReport, RunRequest};
use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::{Rig, in_flight, output, pipeline, run, within};

/// A release of the plugin that counts its calls.
fn release(rig: &Rig, version: &str, channel: &str) {
    let phases = json!([{ "name": "tally" }]);
    let plugin = TestPlugin::program("tally", Kind::Node, &scripted_plugin(), phases);
    let plugin = plugin.with("version", json!(version));
    TestHome::at(rig.home.path()).install(&plugin.with("channel", json!(channel)));
}

fn body(plugin: &str) -> String {
    format!(
        "steps:\n\
         \x20 - {{ id: tally, plugin: {plugin}, phase: tally }}\n\
         outputs:\n\
         \x20 n: {{ from: \"${{{{ steps.tally.output.n }}}}\", primary: true }}\n"
    )
}

fn version(report: &RunReport) -> String {
    let tallied = report
        .steps
        .iter()
        .find(|step| step.step.as_str() == "tally");
    tallied.unwrap().version.to_string()
}

/// A run has written down which plugins it began with, and keeps them.
#[tokio::test]
async fn a_run_keeps_the_version_it_began_with_and_the_next_one_has_the_new_one() {
    let rig = Rig::new();
    release(&rig, "1.0.0", "stable");
    TestHome::at(rig.home.path()).install(&TestPlugin::scripted("scripted"));
    let settle = Duration::from_millis(100);
    let engine = rig.start_with(|config| config.runtime.reload.settle = settle);
    let engine = engine.await;
    let first = run(&engine, &body("tally")).await;
    assert_eq!((&*version(&first), &*output(&first, "n")), ("1.0.0", "1"));

    let gate = rig.home.path().join("gate");
    let long = format!(
        "steps:\n\
         \x20 - {{ id: wait, plugin: scripted, phase: wait, input: {{ gate: {} }} }}\n\
         \x20 - {{ id: tally, plugin: tally, phase: tally, needs: [wait] }}\n",
        gate.display()
    );
    let long = engine
        .submit(RunRequest::new(pipeline(&long)))
        .await
        .unwrap();
    in_flight(&engine, long.id()).await;
    release(&rig, "1.1.0", "stable");
    let done = within(engine.reload_plugin("tally")).await.unwrap();
    assert!(done.state.kept && done.left == 1, "{done:?}");
    let next = run(&engine, &body("tally")).await;
    assert_eq!((&*version(&next), &*output(&next, "n")), ("1.1.0", "2"));
    std::fs::write(gate, "").unwrap();
    let long = within(long.wait()).await.unwrap();
    assert_eq!(version(&long), "1.0.0");
    let pinned = run(&engine, &body("tally@=1.0.0")).await;
    assert_eq!(version(&pinned), "1.0.0", "it can be asked for");
}

#[tokio::test]
async fn a_pipeline_names_a_channel_and_the_operator_does_for_those_that_do_not() {
    let rig = Rig::new();
    release(&rig, "1.5.0", "stable");
    release(&rig, "2.0.0", "beta");
    let engine = rig.start().await;
    assert_eq!(version(&run(&engine, &body("tally")).await), "1.5.0");
    assert_eq!(version(&run(&engine, &body("tally@beta")).await), "2.0.0");
    assert_eq!(version(&run(&engine, &body("tally@^2")).await), "2.0.0");
    drop(engine);

    let channel = serde_json::from_value(json!("beta")).unwrap();
    let engine = rig.start_with(|config| {
        config.runtime.channels.insert("tally".to_owned(), channel);
    });
    let engine = engine.await;
    assert_eq!(version(&run(&engine, &body("tally")).await), "2.0.0");
    assert_eq!(version(&run(&engine, &body("tally@stable")).await), "1.5.0");
}

/// Whoever wrote it down, and whenever.
#[tokio::test]
async fn what_is_written_down_as_disabled_is_not_started_by_a_reload() {
    let rig = Rig::new();
    let disabled = Disabled::of(&Home::at(rig.home.path()).unwrap());
    let engine = rig.start().await;
    disabled.add("tally", "tests").unwrap();
    release(&rig, "1.0.0", "stable");
    let done = within(engine.reload_plugin("tally")).await.unwrap();
    assert_eq!(done.plugin.state, PluginState::Disabled);
    engine.enable_plugin("tally").unwrap();
    assert_eq!(version(&run(&engine, &body("tally")).await), "1.0.0");
    drop(engine);

    let rig = Rig::new();
    let of_config = serde_json::from_value(json!({ "disabled": true })).unwrap();
    let engine = rig.start_with(|config| {
        config.plugins.insert("tally".to_owned(), of_config);
    });
    let engine = engine.await;
    release(&rig, "1.0.0", "stable");
    let done = within(engine.reload_plugin("tally")).await.unwrap();
    assert_eq!(done.plugin.state, PluginState::Disabled);
}

/// What is written down is what counts after the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_disables_and_who_enables_at_once_leave_what_is_written_down() {
    let rig = Rig::new();
    let disabled = Disabled::of(&Home::at(rig.home.path()).unwrap());
    let engine = rig.start().await;
    for round in 0..100 {
        let (one, other) = (engine.clone(), engine.clone());
        let (disabling, enabling) = tokio::join!(
            spawn_blocking(move || one.disable_plugin("counted", "tests").unwrap()),
            spawn_blocking(move || other.enable_plugin("counted").unwrap()),
        );
        disabling.unwrap();
        enabling.unwrap();
        let plugins = engine.plugins();
        let counted = plugins.iter().find(|it| it.id == "counted").unwrap();
        let is_disabled = counted.state == PluginState::Disabled;
        assert_eq!(is_disabled, disabled.has("counted"), "round {round}");
    }
}
