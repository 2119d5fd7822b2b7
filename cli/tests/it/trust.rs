//! Whom a home trusts, and on which terms.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{harness::Home, serve::Service};

/// A home that trusts its key `release` at level 3 for two names.
fn trusting() -> Home {
    let home = Home::new();
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&[
        "trust",
        "add",
        "release",
        "--level",
        "3",
        "--names",
        "greeter,stats",
    ])
    .ok();
    home
}

fn terms(home: &Home) -> Value {
    home.run(&["trust", "list", "--json"]).ok().json()[0].clone()
}

#[test]
fn the_terms_of_a_trusted_key_change_on_purpose_alone() {
    let home = trusting();
    let before = terms(&home);
    let other = [
        "trust", "add", "release", "--level", "1", "--names", "other", "--json",
    ];
    let refused = home.run(&other).with_code(1);
    let error = refused.error();
    assert_eq!(error["code"], "ORC-2090");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.ends_with("level 3 (internal) → 1 (untrusted); names greeter, stats → other"),
        "{message}"
    );
    assert!(error["help"].as_str().unwrap().contains("--replace"));
    assert_eq!(terms(&home), before);

    let replaced = home.run(&[&other[..], &["--replace"]].concat()).ok().json();
    let changes = json!([
        "level 3 (internal) → 1 (untrusted)",
        "names greeter, stats → other"
    ]);
    assert_eq!(replaced["changes"], changes);
    assert_eq!(terms(&home)["level"], 1);
    assert_eq!(terms(&home)["names"], json!(["other"]));
    let same = home.run(&other).ok().json();
    assert_eq!(same["changes"], json!([]), "nothing to do is no error");
}

#[test]
fn what_replacing_changes_is_said() {
    let home = trusting();
    let more = [
        "trust",
        "add",
        "release",
        "--level",
        "3",
        "--names",
        "greeter,stats,docs",
    ];
    let done = home.run(&[&more[..], &["--replace"]].concat()).ok();
    assert_eq!(
        done.stderr,
        "changed: names greeter, stats → greeter, stats, docs\n"
    );
    assert_eq!(
        done.stdout,
        "release is trusted at level 3 (internal) for greeter, stats, docs\n"
    );
}

#[test]
fn grants_of_an_earlier_version_are_named_not_ignored() {
    let home = Home::with_greeter();
    let (now, old) = (
        home.root().join("grants.toml"),
        home.root().join("grants.json"),
    );
    fs::rename(&now, &old).unwrap();
    let pipeline = home.pipeline("greet");
    for args in [
        &["plugin", "grants", "--json"][..],
        &[
            "plugin",
            "grant",
            "greeter",
            "process:spawn=/bin/sh",
            "--json",
        ],
        &["plugin", "list", "--json"],
        &["run", "start", &pipeline, "--json"],
    ] {
        let refused = home.run(args).with_code(3);
        let named = old.display().to_string();
        assert!(refused.stderr.contains(&named), "{}", refused.stderr);
    }
    fs::remove_file(&old).unwrap();
    assert_eq!(
        home.run(&["plugin", "grants", "--json"]).ok().json(),
        json!([])
    );
}

/// A threshold that nobody speaks of is not lowered.
#[test]
fn a_threshold_stays_when_other_terms_change() {
    let home = trusting();
    let replace = |names: &str, more: &[&str]| {
        let add = ["trust", "add", "release", "--level", "3", "--names", names];
        home.run(&[&add[..], &["--replace"], more].concat()).ok();
        terms(&home)["threshold"].clone()
    };
    assert_eq!(replace("greeter", &["--threshold", "2"]), 2);
    assert_eq!(replace("greeter,stats", &[]), 2);
    assert_eq!(replace("greeter", &["--threshold", "1"]), 1);
}

/// No command that is called revoke makes anything load.
#[test]
fn what_is_revoked_stays_so() {
    let home = Home::with_greeter();
    let info = home.run(&["plugin", "info", "greeter", "--json"]).ok();
    let digest = info.json()["digest"].as_str().unwrap().to_owned();
    let release = format!("sha256:{digest}");
    let revoke = |what: &str, more: &[&str]| {
        let args = ["trust", "revoke", what, "--reason", "it steals", "--json"];
        home.run(&[&args[..], more].concat())
    };
    let pipeline = home.pipeline("greet");
    let refused = |code: &str| {
        let run = home.run(&["run", "start", &pipeline, "--json"]);
        assert_eq!(run.with_code(6).error()["code"], code);
    };
    let both = revoke(&release, &["--allow", &digest]).with_code(6);
    assert_eq!(both.error()["code"], "ORC-2103");
    home.run(&["run", "start", &pipeline]).ok();

    revoke(&release, &[]).ok();
    refused("ORC-2048");
    let allowed = revoke("release", &["--allow", &digest]).with_code(6);
    let error = allowed.error();
    assert_eq!(error["code"], "ORC-2103");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("is revoked: it steals, and stays"),
        "{error}"
    );
    assert_eq!(terms(&home)["status"], "active", "all or nothing");

    revoke("release", &[]).ok();
    let retired = revoke("release", &["--retire"]).with_code(6);
    assert_eq!(retired.error()["code"], "ORC-2103");
    assert_eq!(terms(&home)["status"], "revoked");
}

/// What is not there keeps nothing else from being taken back.
#[test]
fn everything_that_is_named_is_taken_back() {
    let home = Home::with_greeter();
    let (missing, granted) = ("file:read=/nowhere", "process:spawn=/bin/sh");
    let revoke = ["plugin", "revoke", "greeter", missing, granted, "--json"];
    let error = home.run(&revoke).with_code(4).error();
    assert_eq!(error["code"], "ORC-2124");
    let left = home.run(&["plugin", "grants", "--json"]).ok().json();
    assert_eq!(left[0]["capabilities"], json!([]), "{left}");
}

/// With the folder goes what was revoked. Whoever begins anew is told.
#[test]
fn a_home_whose_trust_was_removed_says_what_it_no_longer_knows() {
    let warning = "this home had a trust root before, version 2,";
    let add = ["trust", "add", "release", "--level", "3", "--names", "*"];
    for begin in [&["trust", "init"][..], &add] {
        let home = trusting();
        let digest = format!("sha256:{}", "0".repeat(64));
        home.run(&["trust", "revoke", &digest, "--reason", "it steals"])
            .ok();
        fs::remove_dir_all(home.root().join("trust")).unwrap();
        let begun = home.run(begin).ok();
        assert!(begun.stderr.contains(warning), "{}", begun.stderr);
        assert!(begun.stderr.contains("put the folder back"));
        let next = home.run(&[&add[..], &["--replace"]].concat()).ok();
        assert!(!next.stderr.contains(warning), "{}", next.stderr);
    }
    let new = Home::new();
    let first = new.run(&["trust", "init"]).ok();
    assert!(!first.stderr.contains("before"), "{}", first.stderr);
}

#[test]
fn a_service_says_what_it_means_that_nothing_confines_a_plugin() {
    for (level3, told) in [("unconfined", 1), ("confined", 0)] {
        let home = Home::with_greeter();
        let setting = format!("runtime.sandbox.level3={level3}");
        let service = Service::start(&home, &["--set", &setting]);
        service.signal(Signal::TERM);
        let stderr = service.wait().ok().stderr;
        for statement in [
            "trust only sources that you know",
            "read the source before you trust it",
            "a plugin has the same permissions as this host",
            "run this host with as few as it needs",
        ] {
            assert_eq!(stderr.matches(statement).count(), told, "{stderr}");
        }
    }
}
