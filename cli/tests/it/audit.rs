//! The audit log as an operator meets it.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, read},
    http,
    serve::Service,
};

fn is_begun(record: &Value) -> bool {
    record["outcome"] == "begun"
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_an_operator_changes_is_recorded() {
    let home = Home::with_greeter();
    home.run(&["plugin", "revoke", "greeter"]).ok();
    home.run(&["trust", "remove", "release"]).ok();
    home.run(&["plugin", "remove", "nobody"]).with_code(4);
    home.run(&["trust", "list"]).ok();
    let all = home.audited(&[]);
    for (seq, record) in all.iter().enumerate() {
        assert_eq!(record["seq"], seq);
        assert!(
            record["actor"].as_str().unwrap().contains("uid"),
            "{record}"
        );
    }
    // Each is recorded before it is done, and again when it is known how it went.
    let (begun, found): (Vec<_>, Vec<_>) = all.into_iter().partition(is_begun);
    assert_eq!(begun.len(), found.len());
    let kinds: Vec<_> = found
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "key_change",
        "sign",
        "root_change",
        "install",
        "grant",
        "revoke",
        "root_change",
        "remove",
    ];
    assert_eq!(kinds, expected);
    let (install, grant, refused) = (&found[3], &found[4], &found[7]);
    assert_eq!(
        (&install["plugin"], &install["version"]),
        (&json!("greeter"), &json!("0.1.0"))
    );
    assert_eq!(install["digest"].as_str().unwrap().len(), 64, "{install}");
    assert_eq!(grant["capability"], "process:spawn=/bin/sh");
    assert_eq!(grant["plugin"], "greeter");
    assert_eq!(
        (&refused["outcome"], &refused["plugin"]),
        (&json!("failed"), &json!("nobody"))
    );
    assert!(
        refused["code"].as_str().unwrap().starts_with("ORC-"),
        "{refused}"
    );

    assert_eq!(home.audited(&["--kind", "grant"]).len(), 2);
    assert_eq!(home.audited(&["--denied"]).len(), 1);
    // What is signed and installed is a folder; whose it is shows later.
    assert_eq!(home.audited(&["--plugin", "greeter"]).len(), 6);
    assert_eq!(home.audited(&["-n", "2"])[0]["seq"], 14);
    assert_eq!(home.audited(&["--since", "1h"]).len(), 16);
    assert_eq!(home.audited(&["--since", "2999-01-01T00:00:00Z"]).len(), 0);
    home.run(&["audit", "show", "--since", "yesterdayish"])
        .with_code(2);
    let text = home.run(&["audit", "show", "--kind", "grant"]).ok().stdout;
    assert!(
        text.contains("greeter") && text.contains("process:spawn"),
        "{text}"
    );
}

#[test]
fn what_a_run_finds_of_its_plugins_is_recorded() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    home.run(&["run", "start", &file]).ok();
    let verified = home.audited(&["--kind", "verify"]);
    assert_eq!(verified.len(), 1, "{verified:?}");
    assert_eq!(
        (&verified[0]["plugin"], &verified[0]["outcome"]),
        (&json!("greeter"), &json!("ok"))
    );
    for field in ["key", "digest", "version", "resource"] {
        assert!(verified[0][field].is_string(), "{field}");
    }

    home.run(&["run", "start", &home.pipeline("denied")])
        .with_code(5);
    let denied = home.audited(&["--kind", "denial"]);
    assert_eq!(
        (&denied[0]["step"], &denied[0]["plugin"]),
        (&json!("say"), &json!("greeter"))
    );
    assert!(denied[0]["run"].is_string(), "{denied:?}");

    home.run(&["plugin", "revoke", "greeter"]).ok();
    home.run(&["run", "start", &file]).with_code(5);
    let denied = home.audited(&["--kind", "denial"]);
    assert_eq!(denied[1]["outcome"], "denied", "{denied:?}");
    assert!(
        denied[1]["code"].as_str().unwrap().starts_with("ORC-21"),
        "{denied:?}"
    );

    let script = home.root().join("plugins/greeter/0.1.0/greeter.sh");
    let path = script.canonicalize().unwrap();
    let mut mode = path.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&path, mode).unwrap();
    flip(&path, 40);
    home.run(&["run", "start", &file]).with_code(6);
    let failed = home.audited(&["--kind", "verify", "--denied"]);
    let detail = failed[0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("integrity check failed: "), "{detail}");
    home.run(&["audit", "verify"]).ok();
}

#[test]
fn changes_to_the_log_are_found() {
    let home = Home::with_greeter();
    let copy = home.work().join("copy");
    let copied = format!("audit.checkpoint_copy={}", copy.display());
    let with_copy = ["--set", &copied];
    let vkey = read(home.root().join("audit/key.vkey"));
    let vkey = vkey.trim();
    let revoke = [&["plugin", "revoke", "greeter"][..], &with_copy].concat();
    home.run(&revoke).ok();
    let from = copy.display().to_string();
    let verify = ["audit", "verify", "--from", &from, "--key", vkey, "--json"];
    let report = home.run(&verify).ok().json();
    assert_eq!(report["size"], 12);
    assert!(report["compared"].as_u64().unwrap() >= 1, "{report}");

    let log = home.root().join("audit/00000000000000000000.ndjson");
    let whole = fs::read(&log).unwrap();
    flip(&log, 100);
    let done = home.run(&verify).with_code(6);
    assert!(done.error()["help"].is_string());
    // Nothing is changed that cannot be recorded.
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    fs::write(&log, lines[..3].concat()).unwrap();
    assert_eq!(home.run(&verify).with_code(6).error()["code"], "ORC-2109");
    home.run(&["key", "generate", "other", "--no-passphrase"])
        .with_code(6);
    assert!(!home.root().join("keys/other.pub").exists());

    // Another log in its place fits in itself and not the copy.
    fs::remove_dir_all(home.root().join("audit")).unwrap();
    home.run(&["key", "generate", "other", "--no-passphrase"])
        .ok();
    home.run(&["audit", "verify"]).ok();
    home.run(&verify).with_code(6);
}

#[test]
fn a_record_is_proved_and_exported() {
    let home = Home::with_greeter();
    let proof = home.run(&["audit", "prove", "2"]).ok().stdout;
    assert!(
        proof.starts_with("c2sp.org/tlog-proof@v1\nindex 2\n"),
        "{proof}"
    );
    home.run(&["audit", "prove", "99"]).with_code(4);
    let dir = home.work().join("evidence");
    let path = dir.display().to_string();
    let export = [
        "audit",
        "export",
        "--first",
        "1",
        "--last",
        "3",
        "--output-dir",
        &path,
    ];
    home.run(&export).ok();
    assert_eq!(read(dir.join("records.ndjson")).lines().count(), 3);
    assert_eq!(read(dir.join("proofs/2.tlog-proof")), proof);
    assert!(proof.ends_with(&read(dir.join("checkpoint"))));
    assert_eq!(
        read(dir.join("key.vkey")),
        read(home.root().join("audit/key.vkey"))
    );
    home.run(&export).with_code(1);
    // What there is none of is no evidence.
    let other = home.work().join("other");
    let path = other.display().to_string();
    for (range, code) in [
        (&["--first", "9", "--last", "6"][..], 2),
        (&["--first", "999"], 4),
    ] {
        let export = ["audit", "export", "--output-dir", &path];
        home.run(&[&export[..], range].concat()).with_code(code);
        assert!(!other.exists());
    }
}

#[test]
fn a_log_that_is_off_is_not_made() {
    let home = Home::new();
    let off = [
        "key",
        "generate",
        "release",
        "--no-passphrase",
        "--set",
        "audit.enabled=false",
    ];
    home.run(&off).ok();
    assert!(!home.root().join("audit").exists());
    home.run(&["audit", "show"]).with_code(4);
    home.run(&["audit", "verify"]).with_code(4);
}

#[test]
fn a_service_and_commands_write_one_log() {
    let home = Home::with_greeter();
    let service = Service::start(&home, &[]);
    home.run(&["plugin", "revoke", "greeter"]).ok();
    let wrong = [("Authorization", "Bearer not-the-token")];
    let refused = http::send(&service.address, "GET", "/api/v1/runs", &wrong, b"");
    assert_eq!(refused.status, 401);
    eventually("the record", || {
        !home.audited(&["--kind", "token_refused"]).is_empty()
    });
    home.run(&["plugin", "grant", "greeter", "process:spawn=/bin/sh"])
        .ok();
    service.signal(Signal::TERM);
    service.wait().ok();
    let report = home.run(&["audit", "verify", "--json"]).ok().json();
    assert_eq!(report["size"], report["covered"]);
    let found = home.audited(&[]);
    let refused = found
        .iter()
        .find(|it| it["kind"] == "token_refused")
        .unwrap();
    assert_eq!(refused["outcome"], "denied");
    assert!(!refused.to_string().contains("not-the-token"), "{refused}");
    assert_eq!(refused["resource"], "/api/v1/runs");
    // Neither what is compiled in nor what runs once for each call has a process.
    let is_process = |it: &&Value| it["kind"] == "spawn" || it["kind"] == "exit";
    assert_eq!(found.iter().find(is_process), None);
}
