use orchestrator_testkit::{TestHome, TestPlugin};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    harness::{Home, finish},
    serve::Service,
};

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
        let message = done.error()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with("in the command line"), "{message}");
    }
    let done = home.run(&["config", "show", "--set", "nonsense", "--json"]);
    assert_eq!(done.with_code(2).error()["code"], "ORC-5012");
}

#[test]
fn a_settings_file_that_is_none_is_named() {
    let show = ["config", "show", "run", "--json"];
    for make in ["mkdir config.toml", "mkfifo config.toml"] {
        let home = Home::new();
        let file = home.root().join("config.toml").display().to_string();
        let before = format!("cd {}; {make}", home.root().display());
        let done = finish(home.command_after(&before, &show).spawn().unwrap());
        let error = done.with_code(3).error();
        assert_eq!(error["code"], "ORC-1215");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&file), "{message}");
    }
}

/// As `--config <(…)` of a shell is.
#[test]
fn settings_may_come_from_a_descriptor() {
    let home = Home::new();
    let show = |file| ["--config", file, "config", "show", "--json"];
    let text = "[run]\nconcurrency = 3\n";
    let of_a_pipe = home.run_with_stdin(&show("/dev/fd/0"), text);
    let before = format!("exec 3<<EOF\n{text}EOF");
    let of_a_file = home.command_after(&before, &show("/dev/fd/3")).spawn();
    for done in [of_a_pipe, finish(of_a_file.unwrap())] {
        assert_eq!(done.ok().json()["run.concurrency"], 3);
    }
    let done = home.run(&show("/dev/fd/77")).with_code(3);
    assert_eq!(done.error()["code"], "ORC-1210");
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

/// A misspelt name must not pass in silence, nor be told twice.
#[test]
fn settings_of_a_plugin_that_is_not_there_are_told_once() {
    let home = Home::with_greeter();
    let text = "[plugins.greter]\ndisabled = true\n";
    std::fs::write(home.root().join("config.toml"), text).unwrap();
    let file = home.pipeline("greet");
    for args in [
        &["plugin", "list"][..],
        &["plugin", "list", "--json"],
        &["plugin", "list", "--quiet"],
        &["run", "resume", "-v"],
        &["run", "start", &file],
    ] {
        let said = home.run(args).ok().stderr;
        let warnings: Vec<_> = said.lines().filter(|it| it.contains("greter")).collect();
        assert_eq!(warnings.len(), 1, "{args:?}: {said}");
        assert!(warnings[0].starts_with("warning: "), "{said}");
    }
    for args in [
        ["run", "start", &file, "--json"],
        ["pipeline", "validate", &file, "--json"],
    ] {
        let value = home.run(&args).ok().json();
        let warning = value["warnings"][0].as_str().unwrap();
        assert!(warning.contains("greter"), "{value}");
    }
    let service = Service::start(&home, &[]);
    service.signal(Signal::TERM);
    let said = service.wait().ok().stderr;
    assert_eq!(said.matches("greter").count(), 1, "{said}");
}

#[test]
fn a_level_that_is_none_is_refused_and_not_passed_over() {
    let home = Home::new();
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["run", "list"]] {
        let args = [command, &["--json", "--set", "log.level=loud"]].concat();
        let done = home.run(&args).with_code(3);
        assert_eq!(done.error()["code"], "ORC-1221");
    }
}

#[test]
fn commands_that_look_leave_a_home_as_it_is() {
    let home = Home::new();
    let run = "01JD3Y7ZJ6V4W2N9Q8K5T1R0BX";
    assert!(home.run(&["run", "list"]).ok().stdout.contains("no runs"));
    let listed = home.run(&["run", "list", "--json"]).ok().json();
    assert_eq!(listed, json!([]));
    for line in [
        &["run", "show", run, "--json"][..],
        &["run", "watch", run, "--json"],
        &["run", "cancel", run, "--json"],
    ] {
        let error = home.run(line).with_code(4).error();
        assert_eq!(error["code"], "ORC-4109", "{line:?}");
    }
    assert!(!home.root().join("journal").exists());
}
