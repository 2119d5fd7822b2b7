//! What the audit log has of commands that change something, that are refused or
//! killed, and what becomes of them where it is damaged.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, finish, read, signal},
    store_crash::copy,
    traced::{End, killed_before, moments},
};

fn last(home: &Home) -> Value {
    home.audited(&["-n", "1"]).remove(0)
}

/// Cuts the log, so that it no longer fits its checkpoints.
fn damage(home: &Home) {
    let log = home.root().join("audit/00000000000000000000.ndjson");
    let whole = read(&log);
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    fs::write(&log, lines[..3].concat()).unwrap();
}

fn set_aside(home: &Home) -> Vec<PathBuf> {
    let entries = home.root().read_dir().unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.display().to_string().contains("audit.damaged-"))
        .collect()
}

/// Taking away what somebody may do has to work at the worst of times.
#[test]
fn a_damaged_log_stops_no_revocation() {
    let home = Home::with_greeter();
    damage(&home);
    let add = ["trust", "add", "release", "--level", "3", "--names", "x"];
    let refused = home.run(&[&add[..], &["--replace", "--json"]].concat());
    assert_eq!(refused.with_code(6).error()["code"], "ORC-2109");
    let revoke = ["trust", "revoke", "release", "--reason", "stolen", "-q"];
    let done = home.run(&revoke).ok();
    let [aside] = set_aside(&home).try_into().unwrap();
    let name = aside.file_name().unwrap().to_str().unwrap();
    assert!(done.stderr.contains(name), "{done:?}");
    assert!(done.stderr.contains("ORC-2109"), "{done:?}");
    home.run(&["run", "start", &home.pipeline("greet")])
        .with_code(6);

    let found = home.audited(&[]);
    let what = |it: &Value| (it["kind"].clone(), it["outcome"].clone());
    let expected = [
        ("set_aside", "ok"),
        ("root_change", "begun"),
        ("root_change", "ok"),
        ("verify", "failed"),
    ];
    let found_kinds: Vec<_> = found.iter().map(what).collect();
    assert_eq!(
        found_kinds,
        expected.map(|(kind, outcome)| (json!(kind), json!(outcome)))
    );
    assert_eq!(found[0]["code"], "ORC-2109");
    assert!(found[0]["actor"].is_string(), "{found:?}");
    assert!(found[0]["resource"].as_str().unwrap().ends_with(name));
    home.run(&["audit", "verify"]).ok();
    assert_eq!(
        read(aside.join("00000000000000000000.ndjson"))
            .lines()
            .count(),
        3
    );
}

#[test]
fn a_damaged_log_is_set_aside_when_an_operator_says_so() {
    let home = Home::with_greeter();
    let whole = home.run(&["audit", "repair", "--json"]).ok().json();
    assert_eq!(whole["set_aside"], Value::Null);
    damage(&home);
    let done = home.run(&["audit", "repair", "--json"]).ok().json();
    let [aside] = set_aside(&home).try_into().unwrap();
    assert_eq!(done["set_aside"], json!(aside));
    assert_eq!(done["code"], "ORC-2109");
    assert_eq!(home.audited(&[])[0]["kind"], "set_aside");
    home.run(&["plugin", "revoke", "greeter"]).ok();
    home.run(&["audit", "verify"]).ok();
    let again = home.run(&["audit", "repair", "--json"]).ok().json();
    assert_eq!(again["set_aside"], Value::Null);
}

/// What a command is about to change is on disk before it changes anything.
#[test]
fn a_killed_command_leaves_what_it_was_about_to_do() {
    let home = Home::new();
    let ready = home.work().join("ready");
    let script = home.write(
        "ask.sh",
        &format!(
            "#!/bin/sh\necho $$ > {0}.new\nmv {0}.new {0}\nexec sleep 60 2>/dev/null\n",
            ready.display()
        ),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let generate = ["key", "generate", "mine", "--passphrase-command", &script];
    let child = home.command(&generate).spawn().unwrap();
    eventually("the question", || ready.exists());
    signal(child.id(), Signal::KILL);
    signal(read(&ready).trim().parse().unwrap(), Signal::KILL);
    finish(child);
    let found = home.audited(&[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["kind"], "key_change");
    assert_eq!(found[0]["outcome"], "begun");
    assert_eq!(found[0]["key"], "mine");
    // What came to its end says which beginning it belongs to.
    home.run(&["key", "generate", "other", "--no-passphrase"])
        .ok();
    let found = home.audited(&["--kind", "key_change"]);
    let outcomes: Vec<_> = found.iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["begun", "begun", "ok"]);
    assert_eq!(
        found[2]["context"]["begun"],
        found[1]["seq"].to_string().as_str()
    );
    home.run(&["audit", "verify"]).ok();
}

#[test]
fn what_is_refused_is_recorded_with_all_that_is_known_of_it() {
    let home = Home::with_greeter();
    let package = home.work().join("greeter").display().to_string();
    let before = home.audited(&[]).len();
    let verified = home.run(&["plugin", "verify", &package, "--json"]).ok();
    // What is good and changes nothing is not recorded.
    assert_eq!(home.audited(&[]).len(), before);
    let digest = &verified.json()["digest"];
    let key = home.run(&["trust", "list", "--json"]).ok().json()[0]["key_id"].clone();

    let script = home.work().join("greeter/greeter.sh");
    fs::write(&script, read(&script) + "# more\n").unwrap();
    for (command, kind) in [("verify", "verify"), ("install", "install")] {
        home.run(&["plugin", command, &package]).with_code(6);
        let refused = last(&home);
        assert_eq!(refused["kind"], kind, "{refused}");
        assert_eq!(refused["outcome"], "failed", "{refused}");
        assert_eq!(refused["plugin"], "greeter", "{refused}");
        assert_eq!(refused["version"], "0.1.0", "{refused}");
        assert_eq!(&refused["digest"], digest, "{refused}");
        assert!(
            refused["key"]
                .as_str()
                .unwrap()
                .contains(key.as_str().unwrap()),
            "{refused}"
        );
        // Nobody has proved any of that.
        assert_eq!(refused["context"]["claimed"], "true", "{refused}");
        assert!(refused["code"].is_string(), "{refused}");
    }
    home.run(&["plugin", "pack", &package]).with_code(6);
    assert_eq!(last(&home)["action"], "plugin pack");
    home.run(&["plugin", "sign", &package, "--key", "nobody"])
        .with_code(4);
    let refused = last(&home);
    assert_eq!(refused["kind"], "sign", "{refused}");
    assert_eq!(refused["outcome"], "failed", "{refused}");
}

#[test]
fn what_a_key_of_this_host_signs_is_recorded() {
    let home = Home::with_greeter();
    let signed = home.audited(&["--kind", "sign"]);
    assert_eq!(signed.len(), 2, "{signed:?}");
    assert_eq!(signed[1]["action"], "plugin sign");
    assert_eq!(signed[1]["plugin"], "greeter");
    assert_eq!(signed[1]["digest"].as_str().unwrap().len(), 64);
    let next = home.work().join("next.json").display().to_string();
    home.run(&["trust", "remove", "release", "--out", &next])
        .ok();
    home.run(&["trust", "sign", &next, "--own"]).ok();
    let signed = last(&home);
    assert_eq!(
        (&signed["kind"], &signed["outcome"]),
        (&json!("sign"), &json!("ok"))
    );
    assert_eq!(signed["action"], "trust sign");
    assert_eq!(signed["digest"].as_str().unwrap().len(), 64, "{signed}");
}

fn id_of(home: &Home, key: &str) -> String {
    let shown = home.run(&["key", "show", key, "--json"]).ok().json();
    shown["key_id"].as_str().unwrap().to_owned()
}

/// A name says nothing once the file that it named is another.
#[test]
fn a_change_of_trust_says_which_key_it_is_about() {
    let home = Home::new();
    for name in ["release", "next"] {
        home.run(&["key", "generate", name, "--no-passphrase"]).ok();
    }
    let (release, next) = (id_of(&home, "release"), id_of(&home, "next"));
    assert_eq!(last(&home)["key"], next);
    let file = home.root().join("keys/release.pub").display().to_string();
    let terms = ["--level", "3", "--names", "greeter,com.example.*"];
    let both = [format!("{release} {next}"), format!("{next} {release}")];
    let digest = |version: u64| {
        let root = home.root().join("trust/root.json").display().to_string();
        let shown = home.run(&["trust", "show", &root, "--json"]).ok().json();
        assert_eq!(shown["version"], version);
        shown["sha256"].clone()
    };
    let check = |versions: [u64; 2], keys: &[&str], names: Option<&str>| {
        let found = last(&home);
        assert_eq!(found["outcome"], "ok", "{found}");
        assert!(keys.iter().any(|key| found["key"] == *key), "{found}");
        let context = &found["context"];
        assert_eq!(context["root_before"], versions[0].to_string(), "{found}");
        assert_eq!(context["root_after"], versions[1].to_string(), "{found}");
        assert_eq!(found["digest"], digest(versions[1]), "{found}");
        assert_eq!(
            context.get("names"),
            names.map(|it| json!(it)).as_ref(),
            "{found}"
        );
        assert_eq!(context.get("level").is_some(), names.is_some(), "{found}");
        found
    };
    let names = Some("greeter, com.example.*");
    home.run(&[&["trust", "add", &file][..], &terms].concat())
        .ok();
    let added = check([0, 1], &[&release], names);
    assert!(
        added["detail"].as_str().unwrap().contains("+ root key"),
        "{added}"
    );
    assert_eq!(added["context"]["key_names"], "release", "{added}");
    // What was so before is about the same key.
    home.run(&[&["trust", "add", &file][..], &terms].concat())
        .ok();
    check([1, 1], &[&release], names);
    home.run(&["trust", "rotate", "release", "next"]).ok();
    check([1, 2], &[&both[0], &both[1]], names);
    home.run(&["trust", "revoke", "release", "--reason", "stolen"])
        .ok();
    let revoked = check([2, 3], &[&release], names);
    assert_eq!(revoked["context"]["reason"], "stolen", "{revoked}");
    assert!(
        revoked["detail"]
            .as_str()
            .unwrap()
            .contains("active → revoked")
    );
    home.run(&["trust", "remove", "release"]).ok();
    check([3, 4], &[&release], names);
    let next_root = home.work().join("next.json").display().to_string();
    home.run(&["trust", "remove", "next", "--out", &next_root])
        .ok();
    home.run(&["trust", "sign", &next_root, "--own"]).ok();
    home.run(&["trust", "update", &next_root]).ok();
    check([4, 5], &[&next], names);
    home.run(&["audit", "verify"]).ok();
}

#[test]
fn a_change_of_root_keys_and_a_refused_one_are_told() {
    let home = Home::new();
    home.run(&["key", "generate", "next", "--no-passphrase"])
        .ok();
    let next = id_of(&home, "next");
    home.run(&["trust", "init"]).ok();
    assert_eq!(last(&home)["context"]["root_after"], "1");
    home.run(&["trust", "add", "next", "--level", "3", "--names", "x"])
        .ok();
    home.run(&["trust", "rotate", "--root"]).ok();
    let rotated = last(&home);
    assert_eq!(rotated["context"]["root_after"], "3", "{rotated}");
    assert!(
        rotated["detail"].as_str().unwrap().contains("- root key"),
        "{rotated}"
    );
    // What was refused says which key it was about too.
    let other = ["trust", "add", "next", "--level", "1", "--names", "x"];
    home.run(&other).with_code(1);
    let refused = last(&home);
    assert_eq!(refused["outcome"], "failed", "{refused}");
    assert_eq!(refused["key"], next, "{refused}");
    assert_eq!(refused["context"]["root_after"], "3", "{refused}");
    assert!(
        refused["detail"].as_str().unwrap().contains("other terms"),
        "{refused}"
    );
    home.run(&["audit", "verify"]).ok();
}

#[test]
fn a_change_of_a_key_says_which_key_it_is_about() {
    let home = Home::new();
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    let release = id_of(&home, "release");
    home.run(&["key", "rotate", "release", "--no-passphrase"])
        .ok();
    let both = format!("{release} {}", id_of(&home, "release-2"));
    assert_eq!(last(&home)["key"], both);
    assert_eq!(last(&home)["context"]["key_names"], "release release-2");
    home.run(&["key", "revoke", "release", "--reason", "old"])
        .ok();
    assert_eq!(last(&home)["key"], release);
    let other = Home::new();
    let file = home.root().join("keys/release.pub").display().to_string();
    other
        .run(&["key", "import", &file, "--name", "theirs"])
        .ok();
    assert_eq!(last(&other)["key"], release);
    assert_eq!(last(&other)["context"]["key_names"], "theirs");
}

/// Whether somebody removed it or wrote behind it: what takes away goes on.
#[test]
fn a_line_that_stands_twice_stops_no_revocation() {
    let home = Home::with_greeter();
    let log = home.root().join("audit/00000000000000000000.ndjson");
    let whole = read(&log);
    fs::write(&log, format!("{whole}{}\n", whole.lines().last().unwrap())).unwrap();
    let refused = home.run(&["key", "generate", "other", "--no-passphrase", "--json"]);
    assert_eq!(refused.with_code(6).error()["code"], "ORC-2108");
    let done = home.run(&["plugin", "revoke", "greeter"]).ok();
    assert!(done.stderr.contains("ORC-2108"), "{done:?}");
    assert_eq!(set_aside(&home).len(), 1);
    home.run(&["audit", "verify"]).ok();
}

#[test]
fn what_is_gone_is_told_from_what_never_was() {
    let home = Home::new();
    for command in ["show", "verify"] {
        let done = home.run(&["audit", command, "--json"]).with_code(4);
        assert_eq!(done.error()["code"], "ORC-2104");
        assert!(
            done.error()["message"]
                .as_str()
                .unwrap()
                .contains("nothing was recorded yet")
        );
    }
    assert!(!home.root().join("audit").exists());
    let home = home.and_greeter();
    let audit = home.root().join("audit");
    let vkey = read(audit.join("key.vkey"));
    for name in ["tree", "00000000000000000000.ndjson", "key.vkey"] {
        let whole = fs::read(audit.join(name)).unwrap();
        fs::remove_file(audit.join(name)).unwrap();
        let refused = home
            .run(&["audit", "verify", "--json"])
            .with_code(6)
            .error();
        assert_eq!(refused["code"], "ORC-2119", "{name}: {refused}");
        fs::write(audit.join(name), whole).unwrap();
    }
    home.run(&["audit", "verify"]).ok();
    fs::remove_dir_all(&audit).unwrap();
    // Nothing here says that there ever was one; whoever has its key knows.
    home.run(&["audit", "verify"]).with_code(4);
    home.run(&["audit", "verify", "--key", vkey.trim()])
        .with_code(6);
    home.run(&["audit", "verify", "--from", "copy"])
        .with_code(6);
}

/// The damaged log is kept once, and nothing beside it is called damaged.
#[test]
fn a_repair_killed_anywhere_keeps_the_damaged_log_and_leaves_no_other() {
    let home = Home::with_greeter();
    damage(&home);
    let log = |folder: &Path| fs::read(folder.join("00000000000000000000.ndjson"));
    let (audit, kept) = (home.root().join("audit"), home.work().join("kept"));
    let damaged = log(&audit).unwrap();
    copy(&audit, &kept);
    let mut others = 0;
    for nth in moments() {
        let end = killed_before(&home.command(&["audit", "repair"]), nth);
        home.run(&["audit", "repair"]).ok();
        home.run(&["audit", "verify"]).ok();
        let folders = set_aside(&home);
        let is_it = |folder: &&PathBuf| log(folder).is_ok_and(|it| it == damaged);
        assert_eq!(folders.iter().filter(is_it).count(), 1, "{nth}");
        others += folders.len() - 1;
        if end == End::Exited(0) {
            break;
        }
        let next = home.root().join("audit.next");
        assert!(!next.exists(), "{nth}");
        for folder in folders.into_iter().chain([audit.clone()]) {
            fs::remove_dir_all(folder).unwrap();
        }
        copy(&kept, &audit);
    }
    // Between the two calls that exchange them, the new one has the other's name.
    assert!(others <= 1, "{others}");
}
