//! `plugin enable`, `disable`, `restart`, `status` and `logs`, with and without a
//! running service.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
};

use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, pipeline, read, signal},
    serve::Service,
};

fn home() -> Home {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for phase in ["greet", "fail", "sleep"] {
        fs::write(dir.join(format!("{phase}.yaml")), pipeline(phase)).unwrap();
    }
    home
}

/// A home with a plugin that has one process for all calls.
fn home_with_node() -> Home {
    let home = Home::new();
    let phases = ["work", "once", "flaky", "echo", "wait"].map(|name| json!({ "name": name }));
    let node = TestPlugin::program("node", Kind::Node, &scripted_plugin(), json!(phases));
    TestHome::at(home.root()).install(&node);
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for phase in ["work", "wait"] {
        let text = format!(
            "version: 1\nname: {phase}\ninput: {{ gate: {{ type: string, default: '' }}, ms: {{ type: integer, default: 0 }} }}\n\
             steps: [{{ id: s, plugin: node, phase: {phase}, input: {{ gate: '${{{{ input.gate }}}}', ms: '${{{{ input.ms }}}}' }} }}]\n"
        );
        fs::write(dir.join(format!("{phase}.yaml")), text).unwrap();
    }
    home
}

/// Runs a pipeline in the service to its end; returns its report.
fn run(service: &Service, body: &Value) -> Value {
    let answer = service.api("POST", "/api/v1/runs", Some(body));
    assert_eq!(answer.status, 202, "{}", answer.json());
    ended(service, answer.json()["id"].as_str().unwrap())
}

fn ended(service: &Service, id: &str) -> Value {
    let report = || {
        service
            .api("GET", &format!("/api/v1/runs/{id}"), None)
            .json()
    };
    eventually("the run ends", || !report()["outcome"].is_null());
    report()
}

fn plugin(service: &Service, id: &str) -> Value {
    let answer = service.api("GET", &format!("/api/v1/plugins/{id}"), None);
    answer.json()["plugins"][0].clone()
}

/// Kind, outcome and actor of what was recorded of an action.
fn recorded(home: &Home, action: &str) -> Vec<[String; 3]> {
    let records = home.audited(&[]).into_iter();
    let of_it = records.filter(|record| record["action"] == action);
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    of_it
        .map(|it| ["kind", "outcome", "actor"].map(|key| text(&it, key)))
        .collect()
}

#[test]
fn a_plugin_is_disabled_and_enabled_without_a_service() {
    let home = home();
    let done = home.run(&["plugin", "disable", "greeter", "--json"]).ok();
    assert_eq!(done.json()["services"], json!([]));
    let file = home.root().join("disabled/greeter");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // Twice is as good as once.
    home.run(&["plugin", "disable", "greeter"]).ok();

    let failed = home.run(&["run", "start", "greet", "--json"]).with_code(1);
    let error = &failed.json()["steps"][0]["error"];
    assert_eq!(error["kind"], "disabled", "{}", failed.stdout);
    let listed = home.run(&["plugin", "info", "greeter", "--json"]).ok();
    assert_eq!(listed.json()["state"], "disabled");

    home.run(&["plugin", "enable", "greeter"]).ok();
    assert!(!file.exists());
    home.run(&["run", "start", "greet"]).ok();

    let unknown = home
        .run(&["plugin", "disable", "greter", "--json"])
        .with_code(4);
    assert_eq!(unknown.error()["code"], "ORC-5011");
    assert_eq!(home.run(&["plugin", "enable", "greter"]).code, 4);
    for action in ["plugin disable", "plugin enable"] {
        let records = recorded(&home, action);
        let [kind, outcome, actor] = &records[0];
        assert_eq!((&**kind, &**outcome), ("config_change", "begun"));
        assert!(actor.contains("uid"), "{actor}");
        assert_eq!(records[1][1], "ok", "{records:?}");
    }
}

#[test]
fn a_service_obeys_at_once_and_after_its_next_start() {
    let home = home();
    let service = Service::start(&home, &[]);
    let greet = json!({ "pipeline": "greet" });
    assert_eq!(run(&service, &greet)["outcome"], "success");
    let told = home
        .run(&["plugin", "disable", "greeter", "--json"])
        .ok()
        .json();
    assert_eq!(told["services"][0]["address"], service.address);
    assert_eq!(told["services"][0]["plugins"][0]["state"], "disabled");
    let refused = run(&service, &greet);
    assert_eq!(
        refused["steps"][0]["error"]["kind"], "disabled",
        "{refused}"
    );
    service.signal(Signal::TERM);
    service.wait().ok();

    let service = Service::start(&home, &[]);
    assert_eq!(plugin(&service, "greeter")["state"], "disabled");
    assert_eq!(run(&service, &greet)["outcome"], "failed");
    let enabled = service.api("POST", "/api/v1/plugins/greeter/enable", None);
    assert_eq!(enabled.status, 200, "{}", enabled.json());
    assert_eq!(run(&service, &greet)["outcome"], "success");
    assert!(!home.root().join("disabled/greeter").exists());
    let unknown = service.api("POST", "/api/v1/plugins/nobody/disable", None);
    assert_eq!(
        (unknown.status, &unknown.json()["code"]),
        (404, &json!("ORC-5011"))
    );

    // By the command, and by the service on its behalf.
    let records = recorded(&home, "plugin disable");
    let actors: Vec<_> = records.iter().map(|it| &it[2]).collect();
    assert_eq!(records.len(), 4, "{records:?}");
    assert!(
        actors.iter().any(|it| it.contains("API token")),
        "{actors:?}"
    );
    // What runs no longer is not asked.
    service.signal(Signal::KILL);
    service.wait();
    let alone = home.run(&["plugin", "disable", "greeter", "--json"]).ok();
    assert_eq!(alone.json()["services"], json!([]));
}

#[test]
fn what_the_configuration_disables_no_command_enables() {
    let home = home();
    fs::write(
        home.root().join("config.toml"),
        "[plugins.greeter]\ndisabled = true\n",
    )
    .unwrap();
    let refused = home
        .run(&["plugin", "enable", "greeter", "--json"])
        .with_code(1);
    assert_eq!(refused.error()["code"], "ORC-4017");
    let service = Service::start(&home, &[]);
    let refused = service.api("POST", "/api/v1/plugins/greeter/enable", None);
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (409, &json!("ORC-4017"))
    );
}

#[test]
fn a_restart_lets_the_call_end_and_gives_a_new_process() {
    let home = home_with_node();
    let service = Service::start(&home, &[]);
    assert_eq!(
        run(&service, &json!({ "pipeline": "work" }))["outcome"],
        "success"
    );
    let before = plugin(&service, "node");
    assert_eq!(before["state"], "running");
    let gate = home.work().join("gate");
    let body = json!({ "pipeline": "wait", "input": { "gate": gate } });
    let waiting = service.api("POST", "/api/v1/runs", Some(&body)).json();
    eventually("the call has begun", || {
        plugin(&service, "node")["calls"] == 1
    });
    let restart = home.command(&["plugin", "restart", "node", "--grace", "20s", "--json"]);
    let restarting = { restart }.spawn().unwrap();
    eventually("it has begun", || {
        plugin(&service, "node")["state"] == "starting"
    });
    fs::write(&gate, "").unwrap();
    let done = crate::harness::finish(restarting).ok().json();
    assert_eq!(
        ended(&service, waiting["id"].as_str().unwrap())["outcome"],
        "success"
    );
    let after = &done["services"][0]["plugins"][0];
    assert_eq!(after["state"], "running");
    assert_ne!(after["pid"], before["pid"]);

    let too_long = home.run(&["plugin", "restart", "node", "--grace", "10m", "--json"]);
    assert_eq!(too_long.with_code(3).error()["code"], "ORC-5045");
    let records = recorded(&home, "plugin restart");
    assert!(
        records.iter().any(|it| it[1] == "ok") && records.len() >= 4,
        "{records:?}"
    );
}

#[test]
fn the_status_tells_how_a_plugin_fares_and_how_it_came_to_that() {
    let home = home_with_node();
    let none = home
        .run(&["plugin", "status", "node", "--json"])
        .with_code(7);
    assert_eq!(none.error()["code"], "ORC-5043");
    let service = Service::start(&home, &[]);
    run(&service, &json!({ "pipeline": "work" }));
    let first = plugin(&service, "node")["pid"].as_u64().unwrap();
    signal(u32::try_from(first).unwrap(), Signal::KILL);
    eventually("it runs again", || {
        let now = plugin(&service, "node");
        now["state"] == "running" && now["pid"].as_u64().is_some_and(|pid| pid != first)
    });
    let status = home
        .run(&["plugin", "status", "node", "--json"])
        .ok()
        .json();
    let node = &status["services"][0]["plugins"][0];
    assert_eq!(
        (&node["restarts"], &node["health"]["consecutive_fails"]),
        (&json!(1), &json!(0))
    );
    assert!(
        node["started_at"].is_i64() && node["last_seen"].is_i64(),
        "{node}"
    );
    let problem = node["last_problem"]["message"].as_str().unwrap();
    assert!(problem.contains("signal 9"), "{problem}");
    let history = node["history"].as_array().unwrap();
    let stages: Vec<_> = history
        .iter()
        .map(|it| it["state"].as_str().unwrap())
        .collect();
    let expected = [
        "discovered",
        "verified",
        "loaded",
        "initialized",
        "starting",
        "running",
        "starting",
        "running",
    ];
    assert_eq!(stages, expected);
    assert!(history.is_sorted_by_key(|it| it["at_ms"].as_i64().unwrap()));

    let text = home.run(&["plugin", "status", "node"]).ok().stdout;
    for wanted in [
        "state         running",
        "restarts      1",
        "last problem",
        "confined by",
        "history",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let all = home.run(&["plugin", "status"]).ok().stdout;
    assert!(all.contains("template") && all.contains("node"), "{all}");
    assert_eq!(home.run(&["plugin", "status", "nod"]).code, 4);
    assert!(read(home.root().join("api-token")).len() > 10 && !text.contains("orc_"));
}

#[test]
fn the_log_of_a_plugin_is_shown_and_followed() {
    let home = home();
    let service = Service::start(&home, &[]);
    run(&service, &json!({ "pipeline": "fail" }));
    let shown = home.run(&["plugin", "logs", "greeter"]).ok().stdout;
    let line = shown
        .lines()
        .find(|line| line.contains("it broke"))
        .unwrap();
    let (at, rest) = line.split_once(' ').unwrap();
    assert!(at.ends_with('Z') && at.len() == 20, "{line}");
    assert!(rest.starts_with("ERROR [greeter] it broke"), "{line}");
    assert!(
        shown.contains("INFO  [greeter] version 0.1.0 is running"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "{shown:?}");

    let follow = ["plugin", "logs", "greeter", "-f", "--tail", "0", "--json"];
    let mut child = home.command(&follow).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Until it listens there is nothing to hear; so it is told again and again.
    let heard = std::thread::spawn(move || lines.next().unwrap().unwrap());
    eventually("a line is heard", || {
        run(&service, &json!({ "pipeline": "fail" }));
        heard.is_finished()
    });
    let line: Value = serde_json::from_str(&heard.join().unwrap()).unwrap();
    assert_eq!(
        (&line["plugin"], &line["stream"]),
        (&json!("greeter"), &json!("stderr"))
    );
    assert!(
        line["seq"].as_u64().unwrap() > 1 && line["run_id"].is_string(),
        "{line}"
    );
    // The end of the service is the end of the stream.
    service.signal(Signal::TERM);
    service.wait().ok();
    crate::harness::finish(child).ok();
    let none = home
        .run(&["plugin", "logs", "greeter", "--json"])
        .with_code(7);
    assert_eq!(none.error()["code"], "ORC-5043");
}

/// Visible where an operator looks, and over when the operator says so.
#[test]
fn a_crash_loop_is_seen_and_ended() {
    let home = Home::new();
    let gate = home.work().join("mended");
    let (gate_text, program) = (gate.display(), scripted_plugin());
    let script = format!(
        ":;; esac; [ -e '{gate_text}' ] && exec '{}'; exit 3; case x in x)",
        program.display()
    );
    let phases = ["work", "once", "flaky", "echo", "wait"].map(|name| json!({ "name": name }));
    let node = TestPlugin::shell("node", json!(phases), &script).with("kind", json!("node"));
    TestHome::at(home.root()).install(&node);
    home.write(
        "../home/pipelines/work.yaml",
        "version: 1\nname: work\nsteps: [{ id: s, plugin: node, phase: work, input: {} }]\n",
    );
    let quick = ["--set", "runtime.restart.first=1ms"];
    let service = Service::start(&home, &quick);
    let metric = |wanted: &str| {
        let text = String::from_utf8(service.get("/metrics").body).unwrap();
        text.lines().any(|line| line == wanted)
    };
    let work = json!({ "pipeline": "work" });
    assert_eq!(run(&service, &work)["outcome"], "failed");
    let crash_loop = r#"orchestrator_plugin_state{plugin="node",state="crash_loop"} 1"#;
    eventually("it is a crash loop", || metric(crash_loop));
    assert!(metric(r#"orchestrator_plugin_healthy{plugin="node"} 0"#));
    assert!(metric(
        r#"orchestrator_plugin_restarts_total{plugin="node"} 5"#
    ));
    let node = plugin(&service, "node");
    assert_eq!(node["error"]["code"], "ORC-3043", "{node}");
    assert_eq!(node["health"]["healthy"], false);

    let again = home
        .run(&["plugin", "restart", "node", "--json"])
        .with_code(1);
    assert_eq!(again.error()["code"], "ORC-3044");
    fs::write(&gate, "").unwrap();
    home.run(&["plugin", "restart", "node"]).ok();
    assert!(!metric(crash_loop));
    assert_eq!(run(&service, &work)["outcome"], "success");
}

/// It stands still, is started again for that, and serves.
#[test]
fn a_process_that_falls_silent_is_started_again_where_that_is_wanted() {
    let home = home_with_node();
    let settings = [
        "health.action=restart",
        "health.check.interval=50ms",
        "health.check.timeout=300ms",
    ];
    let settings = settings.map(|it| ["--set", it]).concat();
    let service = Service::start(&home, &settings);
    let work = json!({ "pipeline": "work" });
    run(&service, &work);
    let is_well = || plugin(&service, "node")["health"]["healthy"] == true;
    eventually("it is well", is_well);
    let first = plugin(&service, "node")["pid"].as_u64().unwrap();
    signal(u32::try_from(first).unwrap(), Signal::STOP);
    eventually("there is another process", || {
        let node = plugin(&service, "node");
        node["state"] == "running" && node["pid"].as_u64().is_some_and(|pid| pid != first)
    });
    eventually("it is well again", is_well);
    assert_eq!(run(&service, &work)["outcome"], "success");
    let lines = home.run(&["plugin", "logs", "node"]).ok().stdout;
    assert!(
        lines.contains("is not well: timeout after 300ms"),
        "{lines}"
    );
}
