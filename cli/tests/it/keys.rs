use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Home, read};

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
    assert_eq!(done.error()["code"], "ORC-5001");
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
