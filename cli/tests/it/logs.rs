//! `plugin logs`: one log of what a plugin writes and what becomes of it, to its end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout},
};

use orchestrator_testkit::{Kind, TestHome, TestPlugin};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, finish, pipeline, signal},
    serve::Service,
};

const PYTHON: &str = "/usr/bin/python3";

fn home() -> Home {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for phase in ["greet", "fail", "denied"] {
        fs::write(dir.join(format!("{phase}.yaml")), pipeline(phase)).unwrap();
    }
    home
}

/// Runs a pipeline in the service to its end.
fn run(service: &Service, body: &Value) {
    let answer = service.api("POST", "/api/v1/runs", Some(body));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/runs/{id}");
    let report = || service.api("GET", &path, None).json();
    eventually("the run ends", || !report()["outcome"].is_null());
}

fn fail(service: &Service) {
    run(service, &json!({ "pipeline": "fail" }));
}

/// Somebody who follows the greeter's log and has seen one line of it.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn of(home: &Home, service: &Service) -> Self {
        fail(service);
        let follow = ["plugin", "logs", "greeter", "--follow", "--json"];
        let mut child = home.command(&follow).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("\"plugin\":\"greeter\""), "{line}");
        Self { child, lines }
    }
}

#[test]
fn who_follows_a_service_that_is_killed_is_told_that_it_is_gone() {
    let home = home();
    let service = Service::start(&home, &[]);
    let address = service.address.clone();
    let Follower { child, lines } = Follower::of(&home, &service);
    service.signal(Signal::KILL);
    service.wait();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let done = finish(child).with_code(7);
    let error = done.error();
    assert_eq!(error["code"], "ORC-5067", "{rest:?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&address), "{message}");
    let help = error["help"].as_str().unwrap();
    assert!(help.contains("orchestrator serve"), "{help}");
}

#[test]
fn who_follows_a_service_that_drains_gets_its_last_lines_and_ends_well() {
    let home = home();
    let service = Service::start(&home, &[]);
    let Follower { child, lines } = Follower::of(&home, &service);
    service.signal(Signal::TERM);
    service.wait().ok();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let last = rest.last().unwrap();
    assert!(last.contains("version 0.1.0 is unloaded"), "{last}");
    finish(child).ok();
}

#[test]
fn who_has_seen_enough_ends_well() {
    let home = home();
    let service = Service::start(&home, &[]);
    let Follower { mut child, lines } = Follower::of(&home, &service);
    drop(lines);
    eventually("it ends", || {
        fail(&service);
        child.try_wait().unwrap().is_some()
    });
    finish(child).ok();
    let Follower { child, .. } = Follower::of(&home, &service);
    signal(child.id(), Signal::INT);
    assert_eq!(
        finish(child).code,
        -1,
        "by the signal, as a shell tells: 130"
    );
}

/// Level and message of each line of the greeter's log.
fn told(home: &Home, plugin: &str) -> Vec<(String, String)> {
    let done = home.run(&["plugin", "logs", plugin, "--json"]).ok();
    let lines = done.stdout.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (text("level"), text("message"))
    });
    lines.collect()
}

/// Where each of these comes, all in order.
#[track_caller]
fn in_order(lines: &[(String, String)], wanted: &[(&str, &str)]) {
    let mut rest = lines.iter();
    for (level, message) in wanted {
        let is_it = |line: &(String, String)| line.0 == *level && line.1.contains(message);
        assert!(rest.any(is_it), "{level} {message} in {lines:#?}");
    }
}

#[test]
fn what_a_plugin_writes_and_what_becomes_of_it_are_one_log() {
    let home = home();
    let service = Service::start(&home, &["--set", "runtime.exec.output_bytes_max=1KiB"]);
    fail(&service);
    home.run(&["plugin", "disable", "greeter"]).ok();
    home.run(&["plugin", "enable", "greeter"]).ok();
    home.run(&["plugin", "reload", "greeter"]).ok();
    fail(&service);
    let much = "x".repeat(4_096);
    let body = json!({ "pipeline": "greet", "input": { "who": much } });
    run(&service, &body);
    run(&service, &json!({ "pipeline": "denied" }));
    let seen = told(&home, "greeter");
    in_order(
        &seen,
        &[
            ("info", "version 0.1.0 is running"),
            ("error", "it broke"),
            ("info", "is disabled: disabled by an operator"),
            ("info", "is running: enabled by an operator"),
            (
                "info",
                "was reloaded: 0.1.0 serves, before 0.1.0; no state moved",
            ),
            ("error", "it broke"),
            ("error", "uses 1025 of output, more than 1024: kill"),
            ("warn", "phase denied failed: permission denied"),
        ],
    );
}

#[test]
fn a_reload_that_fails_and_a_process_that_ends_are_lines_too() {
    let home = Home::new();
    let program = orchestrator_testkit::scripted_plugin();
    install(&home, "1.0.0", &program);
    fs::create_dir(home.root().join("pipelines")).unwrap();
    let tally = "version: 1\nname: tally\nsteps: [{ id: s, plugin: tally, phase: tally }]\n";
    fs::write(home.root().join("pipelines/tally.yaml"), tally).unwrap();
    let service = Service::start(&home, &["--set", "runtime.restart.first=10ms"]);
    run(&service, &json!({ "pipeline": "tally" }));
    install(&home, "1.1.0", Path::new("/bin/false"));
    home.run(&["plugin", "reload", "tally"]).with_code(1);
    let plugins = || service.api("GET", "/api/v1/plugins/tally", None).json();
    let pid = || plugins()["plugins"][0]["pid"].as_u64();
    let first = pid().unwrap();
    signal(u32::try_from(first).unwrap(), Signal::KILL);
    eventually("there is another", || pid().is_some_and(|pid| pid != first));
    eventually("that is said", || {
        let is_it = |line: &(String, String)| line.1.contains("is started again in");
        told(&home, "tally").iter().any(is_it)
    });
    home.run(&["plugin", "restart", "tally"]).ok();
    in_order(
        &told(&home, "tally"),
        &[
            (
                "error",
                "was not reloaded, 1.0.0 goes on: tally 1.1.0 did not start",
            ),
            ("warn", "signal 9"),
            ("info", "restarted by an operator"),
        ],
    );
}

fn install(home: &Home, version: &str, program: &Path) {
    let phases = json!([{ "name": "tally" }]);
    let plugin = TestPlugin::program("tally", Kind::Node, program, phases);
    TestHome::at(home.root()).install(&plugin.with("version", json!(version)));
}

/// Asks the proxy for what was not granted.
const ASKS: &str = r#"
import json, socket, sys
if sys.argv[-1] == "info":
    print(json.dumps({"id": "asker", "version": "1.0.0", "phases": ["ask"]}))
if "execute" in sys.argv:
    it = socket.create_connection(("127.0.0.1", 3128), 20)
    it.sendall(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
    print(json.dumps(it.recv(12).decode()))
    print("INFO was answered", file=sys.stderr)
"#;

#[test]
fn what_a_plugin_is_refused_is_a_line_among_its_own() {
    if !Path::new(PYTHON).exists() {
        return;
    }
    let home = Home::new();
    let script = home.write("ask.py", ASKS);
    let phases = json!([{ "name": "ask" }]);
    let asker = TestPlugin::program("asker", Kind::Exec, Path::new(&script), phases)
        .with("interpreter", json!(PYTHON))
        .with(
            "capabilities",
            json!([
                format!("process:spawn={PYTHON}"),
                "network:access=good.example:443",
            ]),
        );
    TestHome::at(home.root()).install(&asker);
    fs::create_dir(home.root().join("pipelines")).unwrap();
    let ask = "version: 1\nname: ask\nsteps: [{ id: s, plugin: asker, phase: ask }]\n";
    fs::write(home.root().join("pipelines/ask.yaml"), ask).unwrap();
    let service = Service::start(&home, &["--set", "runtime.sandbox.level3=confined"]);
    run(&service, &json!({ "pipeline": "ask" }));
    let denied = "was refused network:access=evil.example:443: not_granted";
    // It writes when it has the answer, which comes after the refusal was told.
    let wanted = [("warn", denied), ("info", "was answered")];
    in_order(&told(&home, "asker"), &wanted);
}
