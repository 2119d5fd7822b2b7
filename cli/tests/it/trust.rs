//! Whom a home trusts, and on which terms.

use std::fs;

use serde_json::{Value, json};

use crate::harness::Home;

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
