//! A disk that is full: what fails says so, and what needs no room works.
//!
//! Two real faults that need no rights: a limit on the size of files, which the
//! kernel holds every write to, and the journal's own limit, at which SQLite
//! says what it says of a full disk.

use std::{fs, process::Child};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    harness::{Done, Home, eventually, finish, pipeline, read},
    serve::Service,
};

/// Lets no file grow beyond 4 KiB, which a process that ignores the signal learns from
/// `write` and outlives.
const NO_ROOM: &str = "trap '' XFSZ; ulimit -f 8";

fn without_room(home: &Home, args: &[&str]) -> Done {
    let child: Child = home.command_after(NO_ROOM, args).spawn().unwrap();
    finish(child)
}

#[test]
fn what_needs_no_room_works_without() {
    let home = Home::with_greeter();
    home.run(&["run", "start", &home.pipeline("greet")]).ok();
    let listed = without_room(&home, &["plugin", "list", "--json"])
        .ok()
        .json();
    let mut plugins = listed.as_array().unwrap().iter();
    assert!(plugins.any(|plugin| plugin["id"] == "greeter"), "{listed}");
    let info = without_room(&home, &["plugin", "info", "greeter", "--json"]);
    assert_eq!(info.ok().json()["error"], serde_json::Value::Null);
    for args in [["key", "list"], ["trust", "list"], ["config", "show"]] {
        without_room(&home, &args).ok();
    }
}

#[test]
fn plugins_are_listed_where_there_is_no_journal() {
    let home = Home::with_greeter();
    fs::write(home.root().join("journal"), "in the way").unwrap();
    home.run(&["plugin", "list"]).ok();
    home.run(&["plugin", "info", "greeter"]).ok();
    let done = home.run(&["run", "list", "--json"]).with_code(1);
    let message = done.error()["message"].as_str().unwrap().to_owned();
    let path = home.root().join("journal").display().to_string();
    assert!(message.contains(&path), "{message}");
}

#[test]
fn what_needs_room_says_where_it_is_missing() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    home.run(&["run", "start", &file]).ok();
    let path = home.root().join("journal").display().to_string();
    for args in [
        ["run", "list", "--json"].as_slice(),
        &["run", "start", &file, "--json"],
    ] {
        let done = without_room(&home, args).with_code(1);
        let message = done.error()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&path), "{message}");
        assert!(message.contains("File too large"), "{message}");
    }
}

/// A service with little room for its journal, and a pipeline to fill it.
fn cramped() -> (Home, Service) {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("greet.yaml"), pipeline("greet")).unwrap();
    let cramped = ["--set", "journal.database_bytes_max=256KiB"];
    let service = Service::start(&home, &cramped);
    (home, service)
}

#[test]
fn a_service_whose_disk_is_full_is_not_ready() {
    let (home, service) = cramped();
    assert_eq!(service.get("/readyz").status, 200);
    let who = "x".repeat(20_000);
    let body = json!({ "pipeline": "greet", "input": { "who": who } });
    let mut refused = None;
    eventually("a full journal", || {
        let answer = service.api("POST", "/api/v1/runs", Some(&body));
        let is_full = answer.status != 202;
        refused = Some(answer);
        is_full
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.json());
    assert_eq!(refused.header("retry-after"), Some("1"));
    let kind = refused.header("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    assert_eq!(refused.json()["code"], "ORC-4101");

    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503);
    let reason = ready.json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("journal"), "{reason}");
    assert!(reason.contains("full"), "{reason}");
    assert_eq!(service.get("/livez").status, 200);
    service.signal(Signal::TERM);
    let done = service.wait();
    assert!(done.stderr.contains("journal"), "{}", done.stderr);
    assert!(read(home.root().join("api-token")).starts_with("orc_"));
}
