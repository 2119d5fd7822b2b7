//! `trust check` looks ahead.

use std::fs;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use crate::harness::{Done, Home};

fn key(home: &Home, name: &str) {
    home.run(&["key", "generate", name, "--no-passphrase"]).ok();
}

fn trust(home: &Home, args: &[&str]) -> Done {
    home.run(&[&["trust"], args, &["--json"]].concat())
}

/// What the findings are of, in their order.
pub(crate) fn kinds(check: &Value) -> Vec<String> {
    let findings = check["findings"].as_array().unwrap().iter();
    findings
        .map(|it| it["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_will_go_wrong_is_told_before_it_does() {
    let home = Home::new();
    let nothing = trust(&home, &["check", "--strict"]).ok().json();
    assert_eq!(nothing["findings"], json!([]));
    let home = Home::with_greeter();
    let check = trust(&home, &["check"]).ok().json();
    assert_eq!(
        kinds(&check),
        ["weak_threshold"],
        "one key for every name at level 3"
    );
    let add = [
        "add",
        "release",
        "--level",
        "3",
        "--names",
        "greeter",
        "--replace",
    ];
    trust(&home, &add).ok();
    trust(&home, &["check", "--strict"]).ok();

    key(&home, "idle");
    let idle = [
        "add",
        "idle",
        "--level",
        "2",
        "--names",
        "x",
        "--threshold",
        "3",
    ];
    trust(&home, &idle).ok();
    let check = trust(&home, &["check"]).with_code(6).json();
    assert_eq!(kinds(&check), ["threshold_unreachable", "key_unused"]);
    trust(&home, &["remove", "idle"]).ok();

    let files = ["root.next.json"];
    for (expires, expected, status) in [
        (Timestamp::now() + (5 * 24).hours(), "root_expires_soon", 0),
        (Timestamp::now() - 1.hour(), "root_expired", 6),
    ] {
        let end = expires.to_string();
        trust(&home, &["propose", "--expires", &end, "--out", files[0]]).ok();
        trust(&home, &["sign", files[0], "--own"]).ok();
        trust(&home, &["update", files[0]]).ok();
        fs::remove_file(home.work().join(files[0])).unwrap();
        let check = trust(&home, &["check"]).with_code(status).json();
        assert_eq!(kinds(&check), [expected]);
    }
    // What is installed runs, and nothing new is installed.
    let pipeline = home.pipeline("greet");
    home.run(&["run", "start", &pipeline]).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    let package = home.work().join("greeter").display().to_string();
    let refusal = home.run(&["plugin", "install", &package, "--json"]);
    assert_eq!(refusal.with_code(6).error()["code"], "ORC-2094");
}

/// Thresholds are of names: keys for other names help nobody, and a key that needs
/// fewer makes them worth nothing.
#[test]
fn thresholds_are_looked_at_name_by_name() {
    let home = Home::new();
    trust(&home, &["init"]).ok();
    for (name, names, threshold) in [
        ("one", "com.acme.*", "2"),
        ("two", "org.x", "2"),
        ("three", "com.acme.ocr", "1"),
    ] {
        key(&home, name);
        let terms = ["--level", "3", "--names", names, "--threshold", threshold];
        trust(&home, &[&["add", name], &terms[..]].concat()).ok();
    }
    let check = trust(&home, &["check"]).with_code(6).json();
    let told: Vec<_> = kinds(&check)
        .into_iter()
        .filter(|kind| kind != "key_unused")
        .collect();
    let expected = [
        "threshold_unreachable",
        "threshold_undercut",
        "threshold_unreachable",
    ];
    assert_eq!(told, expected, "{check}");
    let message = check["findings"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("one have to sign com.acme.*, and there are 1"),
        "{message}"
    );

    trust(&home, &["remove", "three"]).ok();
    let both = [
        "--level",
        "3",
        "--names",
        "com.*",
        "--threshold",
        "2",
        "--replace",
    ];
    trust(&home, &[&["add", "two"], &both[..]].concat()).ok();
    let check = trust(&home, &["check"]).with_code(6).json();
    let message = check["findings"].as_array().unwrap().iter();
    let unreachable: Vec<_> = message
        .filter(|it| it["kind"] == "threshold_unreachable")
        .collect();
    assert_eq!(unreachable.len(), 1, "com.acme.* has two by now: {check}");
    assert!(!kinds(&check).contains(&"threshold_undercut".to_owned()));
}
