use orchestrator_testkit::{TestHome, TestPlugin};
use serde_json::json;

use crate::harness::{Home, finish};

#[test]
fn a_setting_is_shown_with_where_it_comes_from() {
    let home = Home::new();
    let show = ["config", "show", "--origin", "run", "--json"];
    let value = home.run(&show).ok().json();
    assert_eq!(value["run.concurrency"]["source"], "default");

    std::fs::write(home.root().join("config.toml"), "[run]\nconcurrency = 3\n").unwrap();
    let value = home.run(&show).ok().json();
    assert_eq!(value["run.concurrency"]["value"], 3);
    let source = value["run.concurrency"]["source"].as_str().unwrap();
    assert!(source.ends_with("config.toml"), "{source}");

    let mut command = home.command(&show);
    command.env("ORCHESTRATOR_RUN__CONCURRENCY", "5");
    let value = finish(command.spawn().unwrap()).ok().json();
    assert_eq!(value["run.concurrency"]["value"], 5);
    assert_eq!(
        value["run.concurrency"]["source"],
        "ORCHESTRATOR_RUN__CONCURRENCY"
    );

    let args = [&show[..], &["--set", "run.concurrency=7"]].concat();
    assert_eq!(home.run(&args).ok().json()["run.concurrency"]["value"], 7);
}

#[test]
fn a_setting_that_does_not_fit_is_status_3() {
    let home = Home::new();
    for setting in ["run.concurrency=none", "run.unknown=1"] {
        let args = ["config", "show", "--set", setting, "--json"];
        let done = home.run(&args).with_code(3);
        let code = done.error()["code"].as_str().unwrap().to_owned();
        assert!(code.starts_with("ORC-12"), "{code}");
    }
    let done = home.run(&["config", "show", "--set", "nonsense", "--json"]);
    assert_eq!(done.with_code(2).error()["code"], "ORC-5012");
}

#[test]
fn what_a_plugin_calls_sensitive_is_not_shown() {
    let home = Home::new();
    TestHome::at(home.root()).install(
        &TestPlugin::shell("vault", json!([{ "name": "open" }]), "cat")
            .with("sensitive_fields", json!(["door.pin"])),
    );
    let text = "[plugins.vault.config.door]\npin = 4711\ncolour = \"green\"\n";
    std::fs::write(home.root().join("config.toml"), text).unwrap();
    for args in [
        &["config", "show"][..],
        &["config", "show", "--origin", "plugins", "--json"],
    ] {
        let done = home.run(args).ok();
        assert!(!done.stdout.contains("4711"), "{}", done.stdout);
        assert!(done.stdout.contains("[redacted]"), "{}", done.stdout);
        assert!(done.stdout.contains("green"), "{}", done.stdout);
    }
}

#[test]
fn a_secret_in_a_plugins_configuration_is_not_shown() {
    let home = Home::new();
    let text = "[plugins.p.config]\napi_token = \"hunter2\"\nplain = \"shown\"\n";
    std::fs::write(home.root().join("config.toml"), text).unwrap();
    for args in [
        &["config", "show"][..],
        &["config", "show", "--origin", "--json"],
    ] {
        let done = home.run(args).ok();
        assert!(!done.stdout.contains("hunter2"), "{}", done.stdout);
        assert!(done.stdout.contains("shown"), "{}", done.stdout);
    }
}
