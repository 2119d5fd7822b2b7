//! What an operator sees of a plugin that uses more than it may.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, pipeline, read},
    serve::Service,
};

/// A home with a greeter of level 1 whose `fail` takes memory without end.
fn greedy() -> Home {
    let home = Home::new();
    home.greeter("greeter");
    let at = |name: &str| format!("{}/greeter/{name}", home.work().display());
    let manifest = read(at("plugin.yaml"));
    let more = "resources: { max_memory_mb: 24, max_disk_mb: 3 }\n";
    home.write("greeter/plugin.yaml", &format!("{manifest}{more}"));
    let script = read(at("greeter.sh"));
    let takes = "case \"$1 $2\" in \"execute fail\") x=aaaaaaaa; while :; do x=$x$x; done;; esac";
    let script = match script.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => format!("{first}\n{takes}\n{rest}"),
        _ => format!("{takes}\n{script}"),
    };
    home.write("greeter/greeter.sh", &script);
    for command in [
        "key generate release --no-passphrase",
        "plugin sign greeter --key release",
        "trust add release --level 1 --names *",
        "plugin install ./greeter",
        "plugin grant greeter process:spawn=/bin/sh",
    ] {
        let words: Vec<_> = command.split(' ').collect();
        home.run(&words).ok();
    }
    home
}

#[test]
fn a_violation_of_a_limit_is_an_error_and_a_record_of_the_audit_log() {
    let home = greedy();
    let info = home
        .run(&["plugin", "info", "greeter", "--json"])
        .ok()
        .json();
    let held = info["limits_held"].as_array().unwrap();
    let resources: Vec<_> = held
        .iter()
        .map(|it| it["resource"].as_str().unwrap())
        .collect();
    assert_eq!(resources, ["memory", "tasks", "files", "disk"]);
    let is_grouped = held[0]["by"][0].as_str().unwrap().starts_with("cgroup");
    let text = home.run(&["plugin", "info", "greeter"]).ok().stdout;
    assert!(
        text.contains("max disk      3.0 MiB (by tmpfs, rlimit)\n"),
        "{text}"
    );

    let failed = home.run(&["run", "start", &home.pipeline("fail"), "--json"]);
    assert_ne!(failed.code, 0);
    if !is_grouped {
        return;
    }
    assert!(failed.stdout.contains("resource_limit"), "{failed:?}");
    assert!(failed.stdout.contains("ORC-3064"), "{failed:?}");
    let records = home.audited(&[]);
    let record = records.iter().find(|it| it["rule"] == "limit").unwrap();
    assert_eq!(record["plugin"], "greeter", "{record}");
    assert_eq!(
        (&record["kind"], &record["outcome"]),
        (&json!("denial"), &json!("denied"))
    );
    assert_eq!(
        (&record["resource"], &record["action"]),
        (&json!("memory"), &json!("kill"))
    );
    let at: u64 = record["context"]["timestamp_ms"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .unwrap();
    assert!(at > 1_700_000_000_000, "{record}");
}

/// One limit of the one plugin of the one service.
fn limit<'a>(told: &'a Value, resource: &str) -> &'a Value {
    let plugin = &told["services"][0]["plugins"][0];
    assert_eq!(plugin["id"], "greeter", "{told}");
    let mut limits = plugin["limits"].as_array().unwrap().iter();
    limits.find(|it| it["resource"] == resource).unwrap()
}

#[test]
fn what_a_plugin_of_a_running_service_may_use_is_shown_and_changed() {
    let home = greedy();
    let none = home
        .run(&["plugin", "limits", "greeter", "--json"])
        .with_code(7);
    assert_eq!(none.error()["code"], "ORC-5043");
    let service = Service::start(&home, &[]);
    let shown = home.run(&["plugin", "limits", "greeter", "--json"]).ok();
    let shown = shown.json();
    let memory = limit(&shown, "memory");
    assert_eq!(
        [&memory["limit"], &memory["from"], &memory["policy"]],
        [&json!(24 << 20), &json!("manifest"), &json!("kill")]
    );
    assert_eq!(memory["policy_from"], "runtime.monitor.policy.level1");
    let tasks = limit(&shown, "tasks");
    assert_eq!(tasks["from"], "runtime.sandbox.tasks_max");

    let change = "plugin limits greeter --memory-mb 64 --disk-mb 5 --violation warn --json";
    let words: Vec<_> = change.split(' ').collect();
    let changed = home.run(&words).ok().json();
    let memory = limit(&changed, "memory");
    assert_eq!(
        [&memory["limit"], &memory["from"], &memory["policy"]],
        [&json!(64 << 20), &json!("operator"), &json!("warn")]
    );
    assert_eq!(limit(&changed, "disk")["waits_for"], "reload");
    let text = home.run(&["plugin", "limits", "greeter"]).ok().stdout;
    assert!(
        text.starts_with("greeter 0.1.0, for more: warn (operator)\n"),
        "{text}"
    );
    let lines: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(lines.contains(&vec!["cpu", "none"]), "{text}");
    let disk = vec![
        "disk", "5.0", "MiB", "tmpfs,", "rlimit", "operator", "reload",
    ];
    assert!(lines.contains(&disk), "{text}");
    home.run(&["plugin", "reload", "greeter"]).ok();
    let reloaded = home.run(&["plugin", "limits", "greeter", "--json"]).ok();
    let reloaded = reloaded.json();
    assert_eq!(limit(&reloaded, "disk")["waits_for"], Value::Null);
    assert_eq!(limit(&reloaded, "memory")["limit"], 64 << 20);

    // Those who only looked are not among those who changed something.
    drop(service);
    let records = home.audited(&[]).into_iter();
    let records: Vec<_> = records
        .filter(|it| it["action"] == "plugin limits")
        .map(|it| [it["outcome"].clone(), it["context"]["memory_mb"].clone()])
        .collect();
    let (begun, ok) = ([json!("begun"), json!("64")], [json!("ok"), json!("64")]);
    assert_eq!(records, [begun.clone(), begun, ok.clone(), ok]);
}

#[test]
fn limits_that_nobody_may_have_are_refused_by_command_and_service() {
    let home = greedy();
    let service = Service::start(&home, &[]);
    let more = [
        "plugin",
        "limits",
        "greeter",
        "--memory-mb",
        "4096",
        "--json",
    ];
    let more = home.run(&more).with_code(3).error();
    assert_eq!(more["code"], "ORC-3080", "{more}");
    assert!(
        more["help"]
            .as_str()
            .unwrap()
            .contains("runtime.sandbox.memory_max")
    );
    let unknown = home
        .run(&["plugin", "limits", "greter", "--json"])
        .with_code(4);
    assert_eq!(unknown.error()["code"], "ORC-5011");

    let path = "/api/v1/plugins/greeter/limits";
    let before = service.api("GET", path, None).json();
    for (body, status, code) in [
        (json!({ "memory_mb": 4096 }), 422, "ORC-3080"),
        (json!({ "memory": 1 }), 422, "ORC-5075"),
        (json!({ "tasks": -1 }), 422, "ORC-5075"),
        (json!({ "violation": "shout" }), 422, "ORC-5075"),
    ] {
        let answer = service.api("PUT", path, Some(&body));
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &json!(code))
        );
    }
    assert_eq!(service.api("GET", path, None).json(), before);
    let set = service.api("PUT", path, Some(&json!({ "tasks": 5 })));
    assert_eq!(set.status, 200, "{}", set.json());
    let limits = &set.json()["plugins"][0]["limits"];
    let limits = limits.as_array().unwrap();
    assert!(
        limits
            .iter()
            .any(|it| it["resource"] == "tasks" && it["limit"] == 5 && it["from"] == "operator")
    );
    let nobody = service.api("PUT", "/api/v1/plugins/nobody/limits", Some(&json!({})));
    assert_eq!(nobody.status, 404);
}

/// The first refusal is recorded, and then how many there were.
#[test]
fn a_plugin_that_is_refused_in_a_loop_does_not_fill_the_audit_log() {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("denied.yaml"), pipeline("denied")).unwrap();
    let service = Service::start(&home, &[]);
    for _ in 0..12 {
        let body = json!({ "pipeline": "denied" });
        let started = service.api("POST", "/api/v1/runs", Some(&body)).json();
        let run = format!("/api/v1/runs/{}", started["id"].as_str().unwrap());
        crate::harness::eventually("the run ends", || {
            !service.api("GET", &run, None).json()["outcome"].is_null()
        });
    }
    service.signal(Signal::TERM);
    service.wait().ok();
    let records = home.audited(&[]).into_iter();
    let denials: Vec<_> = records.filter(|it| it["kind"] == "denial").collect();
    let repeated = |at: usize| denials[at]["context"]["repeated"].clone();
    assert_eq!(denials.len(), 2, "{denials:?}");
    assert_eq!((repeated(0), repeated(1)), (Value::Null, json!("11")));
}
