use std::io::Read as _;

use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Home, eventually, finish, read, signal};

#[test]
fn a_run_reports_its_steps_and_writes_its_outputs() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let out = home.work().join("out");
    let dir = out.display().to_string();
    let args = [
        "run",
        "start",
        &file,
        "--input",
        "who=Ada",
        "--output-dir",
        &dir,
    ];
    let done = home.run(&args).ok();
    assert!(done.stdout.contains("greeter@0.1.0"), "{}", done.stdout);
    assert!(done.stdout.contains("success"), "{}", done.stdout);
    assert!(done.stderr.contains("say: success"), "{}", done.stderr);
    assert_eq!(read(out.join("GREETING.json")).trim(), r#"{"hello":"Ada"}"#);

    let json = home.run(&[&args[..], &["--json"]].concat()).ok().json();
    assert_eq!(json["outcome"], "success");
    assert_eq!(json["steps"][0]["attempts"], 1);
    assert!(
        json["outputs"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("GREETING.json")
    );

    let listed = home.run(&["run", "list", "--json"]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let run = listed[0]["id"].as_str().unwrap();
    let shown = home.run(&["run", "show", run, "--json"]).ok().json();
    assert_eq!(shown["steps"], json["steps"]);
    let output = home
        .run(&["run", "show", run, "--output", "GREETING.json"])
        .ok();
    assert_eq!(output.stdout.trim(), r#"{"hello":"Ada"}"#);
    let missing = home.run(&["run", "show", run, "--output", "x", "--json"]);
    assert_eq!(missing.with_code(4).error()["code"], "ORC-5016");
    let watched = home.run(&["run", "watch", run, "--json"]).ok().stdout;
    let kinds: Vec<String> = watched
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| record["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.first().unwrap(), "run_created");
    assert_eq!(kinds.last().unwrap(), "run_finished");
    let history = home.run(&["run", "show", run, "--history", "--json"]).ok();
    assert_eq!(history.json().as_array().unwrap().len(), kinds.len());
}

#[test]
fn a_run_that_fails_says_so_with_its_status() {
    let home = Home::with_greeter();
    for (phase, code) in [("fail", 1), ("denied", 5), ("slow", 8)] {
        let file = home.pipeline(phase);
        let done = home.run(&["run", "start", &file]).with_code(code);
        assert!(done.stdout.contains("failed"), "{}", done.stdout);
        assert!(!done.stdout.contains('\u{1b}'), "{}", done.stdout);
    }
    let failed = home
        .run(&["run", "list", "--status", "failed", "--json"])
        .ok();
    assert_eq!(failed.json().as_array().unwrap().len(), 3);
    let file = home.pipeline("fail");
    let done = home.run(&["run", "start", &file, "--json"]).with_code(1);
    let error = &done.json()["steps"][0]["error"];
    assert_eq!(error["kind"], "plugin_permanent");
    assert!(
        error["message"].as_str().unwrap().contains("it broke"),
        "{error}"
    );
}

#[test]
fn a_run_with_a_tampered_plugin_is_status_6() {
    let home = Home::with_greeter();
    let script = home.root().join("plugins/greeter/0.1.0/greeter.sh");
    let text = read(&script).replace("exit 2", "exit 3");
    std::fs::remove_file(&script).unwrap();
    std::fs::write(&script, text).unwrap();
    let file = home.pipeline("greet");
    let done = home.run(&["run", "start", &file, "--json"]).with_code(6);
    let code = done.error()["code"].as_str().unwrap().to_owned();
    assert!(code.starts_with("ORC-20"), "{code}");
    assert_eq!(home.run(&["run", "list"]).ok().stdout, "no runs\n");
}

#[test]
fn an_idempotency_key_finds_the_same_run() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let args = [
        "run",
        "start",
        &file,
        "--idempotency-key",
        "today",
        "--json",
    ];
    let first = home.run(&args).ok().json();
    let second = home.run(&args).ok().json();
    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        home.run(&["run", "list", "--json"])
            .ok()
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_is_wrong_with_the_input_is_told_before_anything_runs() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let wrong = home.run(&["run", "start", &file, "--input", "whom=Ada", "--json"]);
    wrong.with_code(3).error();
    let no = home.run(&["run", "start", &file, "--input", "Ada", "--json"]);
    assert_eq!(no.with_code(2).error()["code"], "ORC-5002");
    let stdin = ["run", "start", &file, "--input-json", "-", "--json"];
    let done = home.run_with_stdin(&stdin, r#"{"who":"Bob"}"#).ok();
    assert_eq!(done.json()["outcome"], "success");
    let large = " ".repeat((16 << 20) + 1);
    let files = [
        ("large", large.as_bytes()),
        ("list", b"[1]"),
        ("bytes", b"\xff"),
        ("half", b"{"),
    ];
    for (name, content) in files {
        std::fs::write(home.work().join(name), content).unwrap();
        let done = home.run(&["run", "start", &file, "--input-json", name, "--json"]);
        assert_eq!(done.with_code(3).error()["code"], "ORC-5018", "{name}");
    }
    for id in ["nonsense", "01JD3Y7ZJ6V4W2N9Q8K5T1R0BX"] {
        let done = home.run(&["run", "show", id, "--json"]);
        assert!([2, 4].contains(&done.code), "{done:?}");
        done.error();
    }
}

#[test]
fn outputs_that_could_not_be_written_are_refused_before_anything_runs() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let in_the_way = home.write("out", "");
    let below = format!("{in_the_way}/below");
    for dir in [in_the_way.as_str(), &below, "/proc/out"] {
        let done = home.run(&["run", "start", &file, "--output-dir", dir, "--json"]);
        assert!([3, 4].contains(&done.code), "{done:?}");
        assert_eq!(done.error()["code"], "ORC-5001");
    }
    assert_eq!(home.run(&["run", "list"]).ok().stdout, "no runs\n");
}

#[test]
fn attempts_that_fail_are_told_with_their_step() {
    let home = Home::new();
    let phases = ["work", "once", "flaky", "echo", "wait"]
        .map(|name| json!({ "name": name, "effect": "idempotent", "retryable": true }));
    TestHome::at(home.root()).install(&TestPlugin::program(
        "scripted",
        Kind::Node,
        &scripted_plugin(),
        json!(phases),
    ));
    let file = home.write(
        "flaky.yaml",
        "version: 1\nname: flaky\nsteps:\n\
         \x20 - { id: good, plugin: scripted, phase: work, input: {} }\n\
         \x20 - { id: bad, plugin: scripted, phase: flaky, input: { of: 1 } }\n",
    );
    let set = ["--set", "policy.retry.base_delay=1ms"];
    let done = home.run(&[&["run", "start", &file][..], &set].concat());
    let lines = done.with_code(1).stderr;
    for attempt in 1..=3 {
        let line = format!("bad: attempt {attempt} failed: ");
        assert_eq!(lines.matches(&line).count(), 1, "{lines}");
    }
    assert!(lines.contains("good: success"), "{lines}");
}

/// The id of the one run there is, once there is one.
fn the_run(home: &Home) -> String {
    let mut id = None;
    eventually("a run", || {
        let listed = home.run(&["run", "list", "--json"]).ok().json();
        id = listed[0]["id"].as_str().map(str::to_owned);
        id.is_some()
    });
    id.unwrap()
}

#[test]
fn ctrl_c_cancels_the_run_and_waits_until_that_is_written_down() {
    let home = Home::with_greeter();
    let file = home.pipeline("sleep");
    let child = home.command(&["run", "start", &file]).spawn().unwrap();
    let run = the_run(&home);
    signal(child.id(), Signal::INT);
    finish(child).with_code(130);
    let shown = home.run(&["run", "show", &run, "--json"]).ok().json();
    assert_eq!(shown["outcome"], "cancelled");
}

#[test]
fn a_run_is_cancelled_from_another_process() {
    let home = Home::with_greeter();
    let file = home.pipeline("sleep");
    let child = home.command(&["run", "start", &file]).spawn().unwrap();
    let run = the_run(&home);
    let done = home
        .run(&["run", "cancel", &run, "--reason", "enough"])
        .ok();
    assert!(done.stdout.contains("cancelled"), "{}", done.stdout);
    finish(child).with_code(1);
    let again = home.run(&["run", "cancel", &run, "--json"]);
    assert_ne!(again.code, 0);
    again.error();
}

#[test]
fn a_run_whose_process_was_killed_is_resumed() {
    let home = Home::with_greeter();
    // Long enough to be killed in the middle, short enough to wait for.
    let text = crate::harness::pipeline("greet").replace(
        "outputs:",
        "  - id: wait\n    plugin: greeter\n    phase: sleep\n    needs: [say]\n    required: false\n    timeout: 2s\noutputs:",
    );
    let file = home.write("two.yaml", &text);
    let child = home.command(&["run", "start", &file]).spawn().unwrap();
    let run = the_run(&home);
    eventually("the second step", || {
        let shown = home.run(&["run", "show", &run, "--history"]).ok().stdout;
        shown.contains("wait: started")
    });
    signal(child.id(), Signal::KILL);
    finish(child);
    let watch = home.run(&["run", "watch", &run, "--json"]);
    assert_eq!(watch.code, 1, "nobody drives it: {}", watch.stderr);

    let done = home.run(&["run", "resume", &run, "--json"]).ok().json();
    assert_eq!(done["id"], run);
    assert_eq!(done["resumed"], 1);
    assert_eq!(done["outcome"], "degraded");
    assert_eq!(
        done["steps"][0]["attempts"], 1,
        "a result is not made twice"
    );
}

#[test]
fn runs_that_are_resumed_together_are_told_apart() {
    let home = Home::with_greeter();
    let text = crate::harness::pipeline("greet").replace(
        "outputs:",
        "  - id: wait\n    plugin: greeter\n    phase: sleep\n    needs: [say]\n    required: false\n    timeout: 2s\noutputs:",
    );
    let file = home.write("two.yaml", &text);
    let hosts = [(), ()].map(|()| home.command(&["run", "start", &file]).spawn().unwrap());
    let mut runs = Vec::new();
    eventually("both second steps", || {
        let listed = home.run(&["run", "list", "--json"]).ok().json();
        let ids = listed.as_array().unwrap().iter();
        runs = ids
            .map(|run| run["id"].as_str().unwrap().to_owned())
            .collect();
        runs.len() == 2
            && runs.iter().all(|run| {
                let shown = home.run(&["run", "show", run, "--history"]).ok().stdout;
                shown.contains("wait: started")
            })
    });
    for host in hosts {
        signal(host.id(), Signal::KILL);
        finish(host);
    }
    let done = home.run(&["run", "resume"]).ok();
    for run in &runs {
        let line = format!("{run} wait: failed");
        assert_eq!(done.stderr.matches(&line).count(), 1, "{}", done.stderr);
        assert!(
            done.stdout
                .contains(&format!("run {run} of greet: degraded"))
        );
    }
    assert!(
        !done.stderr.lines().any(|line| line.starts_with("wait: ")),
        "{}",
        done.stderr
    );
}

#[test]
fn ctrl_c_cancels_all_runs_that_are_resumed_together() {
    let home = Home::with_greeter();
    let file = home.pipeline("sleep");
    let hosts = [(), ()].map(|()| home.command(&["run", "start", &file]).spawn().unwrap());
    let started = |status: &str| {
        let listed = home.run(&["run", "list", "--json", "--status", status]);
        listed.ok().json().as_array().unwrap().len()
    };
    eventually("both runs", || started("running") == 2);
    for host in hosts {
        signal(host.id(), Signal::KILL);
        finish(host);
    }
    let set = ["--set", "runtime.exec.kill_grace=1s"];
    let args = [&["run", "resume"][..], &set].concat();
    let mut child = home.command(&args).spawn().unwrap();
    // Its first line says that it listens to signals already.
    let mut first = [0];
    child
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    signal(child.id(), Signal::INT);
    let done = finish(child).with_code(130);
    assert!(
        done.stderr.contains("cancelling the runs"),
        "{}",
        done.stderr
    );
    assert_eq!(started("cancelled"), 2);
}

#[test]
fn a_failed_run_is_retried_from_where_it_failed() {
    let home = Home::with_greeter();
    let text = crate::harness::pipeline("greet").replace(
        "outputs:",
        "  - id: break\n    plugin: greeter\n    phase: fail\n    needs: [say]\noutputs:",
    );
    let file = home.write("breaks.yaml", &text);
    let first = home
        .run(&["run", "start", &file, "--json"])
        .with_code(1)
        .json();
    let run = first["id"].as_str().unwrap();
    let second = home
        .run(&["run", "retry", run, "--json"])
        .with_code(1)
        .json();
    assert_ne!(second["id"], first["id"]);
    assert_eq!(second["steps"][1]["outcome"], "failed");
    let wrong = home.run(&["run", "retry", run, "--from", "nowhere", "--json"]);
    assert_eq!(wrong.with_code(4).error()["code"], "ORC-4002");
}
