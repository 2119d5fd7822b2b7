//! Runs whose process is gone, and that nobody can go on with.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Home, eventually, finish, read, signal};

/// A run whose process was killed in the middle of it.
fn killed(home: &Home, file: &str) -> String {
    let before = runs(home);
    let child = home.command(&["run", "start", file]).spawn().unwrap();
    let mut run = String::new();
    eventually("the step", || {
        let new = runs(home).into_iter().find(|run| !before.contains(run));
        run = new.unwrap_or_default();
        !run.is_empty() && {
            let shown = home.run(&["run", "show", &run, "--history"]).ok().stdout;
            shown.contains("say: started")
        }
    });
    signal(child.id(), Signal::KILL);
    finish(child);
    run
}

fn runs(home: &Home) -> Vec<String> {
    let listed = home.run(&["run", "list", "--json"]).ok().json();
    let runs = listed.as_array().unwrap().iter();
    runs.map(|run| run["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_run_without_its_plugin_is_told_and_can_be_cancelled() {
    let home = Home::with_greeter();
    let file = home.pipeline("sleep");
    let two = [killed(&home, &file), killed(&home, &file)];
    home.run(&["plugin", "remove", "greeter"]).ok();

    let done = home.run(&["run", "resume"]);
    assert_ne!(done.code, 0, "{}", done.stderr);
    for run in &two {
        assert!(done.stderr.contains(run.as_str()), "{}", done.stderr);
    }
    let done = home.run(&["run", "resume", "--json"]);
    assert_ne!(done.code, 0);
    let lines = done.stdout.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<_> = lines.collect::<Result<_, _>>().unwrap();
    for (line, run) in lines.iter().zip(&two) {
        assert_eq!(line["id"], **run);
        assert!(line["error"]["code"].is_string(), "{line}");
    }
    assert_eq!(lines.len(), 2);

    for run in &two {
        let done = home.run(&["run", "cancel", run, "--json"]).ok().json();
        assert_eq!(done["status"], "cancelled");
    }
    let done = home.run(&["run", "resume"]).ok();
    assert!(done.stderr.contains("no run waits"), "{}", done.stderr);
}

/// A home in which `sleep` may happen only once.
fn with_careful_greeter() -> Home {
    let home = Home::with_greeter();
    let package = home.greeter("careful");
    let manifest = read(format!("{package}/plugin.yaml"))
        .replace("version: 0.1.0", "version: 0.2.0")
        .replace("sleep, effect: pure", "sleep");
    home.write("careful/plugin.yaml", &manifest);
    let script = read(format!("{package}/greeter.sh"));
    home.write("careful/greeter.sh", &script.replace("0.1.0", "0.2.0"));
    home.run(&["plugin", "sign", &package, "--key", "release"])
        .ok();
    home.run(&["plugin", "install", &package]).ok();
    home
}

#[test]
fn a_person_says_what_became_of_a_step_and_the_run_goes_on() {
    let home = with_careful_greeter();
    let run = killed(&home, &home.pipeline("sleep"));
    let done = home.run(&["run", "resume", &run, "--json"]).with_code(1);
    assert_eq!(done.json()["steps"][0]["outcome"], "unknown");

    let resolve = |more: &[&str]| {
        let mut args = vec!["run", "resolve", &run, "say", "--json"];
        args.extend(more);
        home.run(&args)
    };
    resolve(&[]).with_code(2);
    resolve(&["--done", "--not-done"]).with_code(2);
    resolve(&["--not-done", "--output-json", "-"]).with_code(2);
    let receipt = home.write("receipt.json", r#"{"receipt":7}"#);
    let report = resolve(&["--done", "--output-json", &receipt, "--by", "ada"])
        .ok()
        .json();
    assert_eq!(report["outcome"], "success");
    let reason = report["steps"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("ada said at "), "{reason}");

    let new = report["id"].as_str().unwrap();
    let shown = home.run(&["run", "show", new, "--output", "GREETING.json"]);
    assert_eq!(shown.ok().stdout, r#"{"receipt":7}"#);
    let history = home.run(&["run", "show", new, "--history"]).ok().stdout;
    assert!(history.contains("say: happened, says ada"), "{history}");
    let again = home.run(&["run", "resolve", new, "say", "--done", "--json"]);
    assert_eq!(again.error()["code"], "ORC-4014");
}
