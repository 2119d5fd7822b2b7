//! What an operator sees of a plugin that uses more than it may.

use serde_json::json;

use crate::harness::{Home, read};

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
}
