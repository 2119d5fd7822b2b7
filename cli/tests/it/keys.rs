use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::mpsc, time::SystemTime};

use crate::harness::{Home, read};

/// How often a command is killed.
const KILLS: u32 = 120;

#[test]
fn a_key_without_a_passphrase_is_made_with_a_warning() {
    let home = Home::new();
    let done = home
        .run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    assert!(done.stderr.starts_with("warning: "), "{}", done.stderr);
    let secret = home.root().join("keys/release.key");
    let mode = secret.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let public = read(home.root().join("keys/release.pub"));
    assert!(public.starts_with("orchestrator-key-v1 "), "{public}");

    let listed = home.run(&["key", "list", "--json"]).ok().json();
    assert_eq!(listed[0]["name"], "release");
    assert_eq!(listed[0]["has_secret"], true);
}

#[test]
fn a_key_is_never_overwritten() {
    let home = Home::new();
    let args = ["key", "generate", "release", "--no-passphrase", "--json"];
    home.run(&args).ok();
    let before = read(home.root().join("keys/release.key"));
    let done = home.run(&args).with_code(1);
    let error = done.error();
    assert_eq!(error["code"], "ORC-5041");
    assert!(!error["help"].as_str().unwrap().contains("room"), "{error}");
    assert_eq!(read(home.root().join("keys/release.key")), before);
}

#[test]
fn a_name_that_is_a_path_is_refused() {
    let home = Home::new();
    for name in ["../escape", "a/b", "", "a b"] {
        let done = home.run(&["key", "generate", name, "--no-passphrase", "--json"]);
        assert_eq!(done.code, 2, "{name:?}: {}", done.stderr);
    }
    assert!(!home.root().join("keys").exists());
    assert!(!home.work().join("escape.key").exists());
}

#[test]
fn nobody_is_asked_for_a_passphrase_where_nobody_is() {
    let home = Home::new();
    let done = home
        .run(&["key", "generate", "release", "--json"])
        .with_code(2);
    assert_eq!(done.error()["code"], "ORC-5004");
    assert!(!home.root().join("keys/release.key").exists());
}

#[test]
fn a_passphrase_comes_by_descriptor_or_by_command() {
    let home = Home::new();
    let package = home.greeter("greeter");
    let generate = ["key", "generate", "release", "--passphrase-fd", "0"];
    home.run_with_stdin(&generate, "open sesame\n").ok();
    assert!(!read(home.root().join("keys/release.key")).contains("sesame"));

    let sign = ["plugin", "sign", &package, "--key", "release", "--json"];
    let wrong = [&sign[..], &["--passphrase-command", "echo open"]].concat();
    let done = home.run(&wrong).with_code(5);
    assert_eq!(done.error()["code"], "ORC-2013");
    let right = [&sign[..], &["--passphrase-command", "echo open sesame"]].concat();
    assert_eq!(home.run(&right).ok().json()["name"], "greeter");
    let nobody = home.run(&sign).with_code(2);
    assert_eq!(nobody.error()["code"], "ORC-5004");
}

/// Kills `key generate` at moments spread over the time it takes.
#[test]
fn killed_at_any_moment_it_leaves_a_whole_key_or_nothing() {
    let home = Home::new();
    let began = SystemTime::now();
    home.run(&["key", "generate", "whole", "--no-passphrase"])
        .ok();
    let usual = began.elapsed().unwrap();
    let keys = home.root().join("keys");
    fs::write(keys.join(".staged-abcdef"), "left by an earlier version").unwrap();

    let (_never, clock) = mpsc::channel::<()>();
    for attempt in 0..KILLS {
        let name = format!("k{attempt}");
        let args = ["key", "generate", &name, "--no-passphrase"];
        let mut child = home.command(&args).spawn().unwrap();
        clock.recv_timeout(usual * attempt / KILLS).ok();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let listed = home.run(&["key", "list", "--json"]).ok().json();
    let whole = listed.as_array().unwrap();
    assert!(
        whole.iter().all(|key| key["has_secret"] == true),
        "{listed}"
    );
    let mut expected: Vec<_> = whole
        .iter()
        .flat_map(|key| {
            ["key", "pub"].map(|end| format!("{}.{end}", key["name"].as_str().unwrap()))
        })
        .collect();
    expected.sort();
    assert_eq!(names(&keys), expected, "every key has both of its files");
    for key in whole {
        let public = read(keys.join(format!("{}.pub", key["name"].as_str().unwrap())));
        assert_eq!(public.trim_end(), key["public"].as_str().unwrap());
    }
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn one_bad_file_does_not_hide_the_other_keys() {
    let home = Home::new();
    for name in ["first", "second"] {
        home.run(&["key", "generate", name, "--no-passphrase"]).ok();
    }
    let keys = home.root().join("keys");
    fs::write(keys.join("bad.pub"), "garbage\n").unwrap();
    fs::write(keys.join("half.key"), "format = \"orch").unwrap();
    fs::copy(keys.join("first.pub"), keys.join("second.pub")).unwrap();

    let listed = home.run(&["key", "list", "--json"]).ok().json();
    let found: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (key["name"].as_str().unwrap(), key["error"]["code"].as_str()))
        .collect();
    let expected = [
        ("bad", Some("ORC-2004")),
        ("first", None),
        ("half", Some("ORC-2011")),
        ("second", Some("ORC-2016")),
    ];
    assert_eq!(found, expected, "{listed}");
    let text = home.run(&["key", "list"]).ok().stdout;
    let bad = keys.join("bad.pub").display().to_string();
    assert!(
        text.contains(&format!("ORC-2004: key file `{bad}`")),
        "{text}"
    );

    let one = home.run(&["key", "list", "first", "--json"]).ok().json();
    assert_eq!(one.as_array().unwrap().len(), 1, "{one}");
    let named = home.run(&["key", "list", "bad", "--json"]).with_code(3);
    let error = named.error();
    assert_eq!(error["code"], "ORC-2004");
    assert_eq!(
        error["message"],
        format!("key file `{bad}` holds no usable key")
    );
    let nobody = home.run(&["key", "list", "nobody", "--json"]).with_code(4);
    assert_eq!(nobody.error()["code"], "ORC-2010");
}

#[test]
fn a_key_without_its_public_file_is_whole_again() {
    let home = Home::new();
    let generate = ["key", "generate", "release", "--passphrase-fd", "0"];
    home.run_with_stdin(&generate, "open sesame\n").ok();
    let public = home.root().join("keys/release.pub");
    let before = read(&public);
    fs::remove_file(&public).unwrap();

    let trust = ["trust", "add", "release", "--level", "3", "--names", "x"];
    home.run(&trust).ok();
    assert!(!public.exists(), "only the listing writes it");
    let listed = home.run(&["key", "list", "--json"]).ok();
    assert!(
        listed
            .stderr
            .contains("release.pub was missing and has been written again"),
        "{}",
        listed.stderr
    );
    assert_eq!(read(&public), before);
    assert_eq!(home.run(&["key", "list", "--json"]).ok().stderr, "");
}
