//! What every command promises about its output.

use std::{ffi::OsStr, io::Read as _, os::unix::ffi::OsStrExt as _, process::Stdio};

use serde_json::Value;

use crate::{
    harness::{Home, finish},
    serve::Service,
};

/// Commands that read and change nothing.
const READING: [&[&str]; 10] = [
    &["run", "list"],
    &["plugin", "list"],
    &["plugin", "grants"],
    &["key", "list"],
    &["trust", "list"],
    &["config", "show"],
    &["config", "show", "--origin"],
    &["version"],
    &["help", "exit-codes"],
    &["completion", "bash"],
];

#[test]
fn json_is_one_document_on_an_empty_and_on_a_full_home() {
    for home in [Home::new(), Home::with_greeter()] {
        for args in READING {
            let args = [args, &["--json"]].concat();
            home.run(&args).ok().json();
        }
    }
}

#[test]
fn nothing_is_coloured_where_colours_are_not_wanted() {
    let home = Home::with_greeter();
    for args in READING {
        let args = [args, &["--no-color"]].concat();
        let done = home.run(&args).ok();
        assert!(!done.stdout.contains('\u{1b}'), "{args:?}");
        assert!(!done.stderr.contains('\u{1b}'), "{args:?}");
        let mut command = home.command(&args);
        command.env("NO_COLOR", "1").env("TERM", "xterm-256color");
        let done = finish(command.spawn().unwrap()).ok();
        assert!(!done.stdout.contains('\u{1b}'), "{args:?}");
    }
}

/// `| head` closes the pipe while more is to come.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    for args in [
        &["completion", "bash"][..],
        &["config", "show"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = home.command(args).stdout(writer).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}: {said}");
        assert_eq!(said, "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let home = Home::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = home.command(&["config", "show"]);
    let done = finish(command.stdout(Stdio::from(full)).spawn().unwrap());
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("ORC-5000"), "{}", done.stderr);
}

/// Paths are bytes, and JSON is text.
#[test]
fn a_home_may_have_a_name_that_is_no_text() {
    let home = Home::named(OsStr::from_bytes(b"h\xffme")).and_greeter();
    for args in READING {
        let args = [args, &["--json"]].concat();
        home.run(&args).ok().json();
    }
    let file = home.pipeline("greet");
    let run = home.run(&["run", "start", &file, "--json"]).ok().json();
    assert_eq!(run["outcome"], "success");
    let info = home.run(&["plugin", "info", "greeter", "--json"]);
    let location = info.ok().json()["location"].clone();
    assert!(
        location.as_str().unwrap().contains('\u{fffd}'),
        "{location}"
    );
    let service = Service::start(&home, &[]);
    let plugins = service.api("GET", "/api/v1/plugins", None).json();
    let ids: Vec<&Value> = plugins["plugins"].as_array().unwrap().iter().collect();
    assert!(ids.iter().any(|plugin| plugin["id"] == "greeter"));
}
