//! The lock file, as commands use it.

use std::fs;

use crate::{
    harness::{Home, read},
    install::{home_with_package, release, sign},
};

fn refusal(home: &Home, args: &[&str]) -> String {
    let mut args = args.to_vec();
    args.push("--json");
    let done = home.run(&args).with_code(6);
    let error = done.error();
    assert_eq!(error["code"], "ORC-2161");
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_locked_home_runs_and_nothing_else_does() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let start = ["run", "start", &file, "--locked"];
    let done = home.run(&["run", "start", &file, "--locked", "--json"]);
    assert_eq!(done.with_code(4).error()["code"], "ORC-2162");
    home.run(&["plugin", "lock"]).ok();
    home.run(&start).ok();
    let first = read(home.root().join("orchestrator.lock"));
    home.run(&["plugin", "lock"]).ok();
    assert_eq!(read(home.root().join("orchestrator.lock")), first);

    home.run(&["plugin", "grant", "greeter", "process:spawn=/bin/true"])
        .ok();
    assert!(refusal(&home, &start).contains("other capabilities"));
    home.run(&["plugin", "lock"]).ok();
    home.run(&start).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    assert!(refusal(&home, &start).contains("not installed"));
}

#[test]
fn only_what_is_written_down_is_installed() {
    let (home, package) = home_with_package();
    home.run(&["plugin", "install", &package]).ok();
    let elsewhere = home.work().join("kept.lock").display().to_string();
    home.run(&["plugin", "lock", "--lock-file", &elsewhere])
        .ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    let locked = [
        "plugin",
        "install",
        &package,
        "--locked",
        "--lock-file",
        &elsewhere,
    ];
    home.run(&locked).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    sign(&home, &package, "3");
    assert!(refusal(&home, &locked).contains("another release"));
    release(&home, &package, "0.2.0", "4");
    assert!(refusal(&home, &locked).contains("not in the lock file"));
    let listed = home.run(&["plugin", "list", "--installed", "--json"]).ok();
    assert_eq!(listed.json(), serde_json::json!([]));
}

#[test]
fn a_lock_file_that_cannot_be_read_is_no_empty_one() {
    let home = Home::with_greeter();
    home.run(&["plugin", "lock"]).ok();
    let path = home.root().join("orchestrator.lock");
    let text = read(&path);
    fs::write(&path, &text[..text.len() - 20]).unwrap();
    for args in [
        ["plugin", "lock", "--locked"].as_slice(),
        &["plugin", "gc"],
        &["plugin", "install", "--locked"],
    ] {
        let mut args = args.to_vec();
        args.push("--json");
        let done = home.run(&args).with_code(3);
        assert_eq!(done.error()["code"], "ORC-2160", "{args:?}");
    }
    home.run(&["plugin", "lock"]).ok();
    assert_eq!(read(&path), text);
}
