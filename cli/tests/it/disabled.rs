//! What disables a plugin: records in the home, odd things in their place, and how that
//! goes together with trust and grants that are taken back.

use std::{fs, path::PathBuf};

use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually},
    serve::Service,
};

fn record(home: &Home) -> PathBuf {
    home.root().join("disabled/greeter")
}

/// A home with something odd where the greeter would be written down as disabled.
fn home_with(put: impl FnOnce(&PathBuf)) -> Home {
    let home = Home::with_greeter();
    fs::create_dir(home.root().join("disabled")).unwrap();
    put(&record(&home));
    home
}

fn greeter(service: &Service) -> Value {
    let answer = service.api("GET", "/api/v1/plugins/greeter", None);
    answer.json()["plugins"][0].clone()
}

/// The plugin is disabled, everything else goes on, and every error names the path.
fn is_told(home: &Home, what: &str) {
    let path = record(home).display().to_string();
    let text = format!("`{path}` is {what}, which keeps plugin greeter disabled");
    let listed = home.run(&["plugin", "list", "--json"]).ok();
    assert!(listed.stderr.contains(&text), "{}", listed.stderr);
    for command in ["enable", "disable"] {
        let refused = home.run(&["plugin", command, "greeter", "--json"]);
        let error = refused.with_code(1).error();
        assert_eq!(error["code"], "ORC-4018", "{command}: {error}");
        assert_eq!(error["message"], *text, "{command}");
        assert!(error["help"].as_str().unwrap().contains("remove it"));
    }
    let service = Service::start(home, &[]);
    assert_eq!(greeter(&service)["state"], "disabled");
    let refused = service.api("POST", "/api/v1/plugins/greeter/enable", None);
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (409, &json!("ORC-4018"))
    );
    let log = {
        service.signal(rustix::process::Signal::TERM);
        service.wait().ok().stderr
    };
    assert!(log.contains("keeps plugin greeter disabled"), "{log}");
}

#[test]
fn a_directory_in_place_of_a_record_is_told_and_disables() {
    let home = home_with(|path| fs::create_dir(path).unwrap());
    is_told(&home, "a directory");
    fs::remove_dir(record(&home)).unwrap();
    home.run(&["plugin", "enable", "greeter"]).ok();
}

#[test]
fn a_pipe_in_place_of_a_record_is_told_and_nobody_waits_for_it() {
    let home = home_with(|path| mkfifoat(CWD, path, Mode::from(0o600)).unwrap());
    is_told(&home, "no file");
}

#[test]
fn a_link_in_place_of_a_record_is_told_wherever_it_leads() {
    let home = home_with(|path| std::os::unix::fs::symlink("/nowhere", path).unwrap());
    is_told(&home, "a link");
}

/// Nobody reads it: that it is there is what counts.
#[test]
fn a_record_that_cannot_be_read_is_one() {
    let home = home_with(|path| {
        fs::write(path, "\0not json").unwrap();
        let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        fs::set_permissions(path, nobody).unwrap();
    });
    let service = Service::start(&home, &[]);
    assert_eq!(greeter(&service)["state"], "disabled");
    home.run(&["plugin", "enable", "greeter"]).ok();
    assert_ne!(greeter(&service)["state"], "disabled");
}

#[test]
fn what_takes_the_place_of_all_records_is_an_error_with_its_path() {
    let home = Home::with_greeter();
    let path = home.root().join("disabled");
    fs::write(&path, "").unwrap();
    let done = home.run(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    let error = done.with_code(1).error();
    assert_eq!(error["code"], "ORC-4005", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&path.display().to_string()), "{message}");
}

/// One is the operator's word, and the other that of trust and grants: each is taken
/// back by itself.
#[test]
fn what_was_withdrawn_is_disabled_and_enabled_like_everything_else() {
    let home = Home::with_greeter();
    let service = Service::start(&home, &[]);
    let grant = ["plugin", "grant", "greeter", "process:spawn=/bin/sh"];
    home.run(&["plugin", "revoke", "greeter"]).ok();
    eventually("it is withdrawn", || {
        greeter(&service)["state"] == "unloaded"
    });

    let done = home.run(&["plugin", "disable", "greeter", "--json"]).ok();
    assert_eq!(
        done.json()["services"][0]["plugins"][0]["state"],
        "unloaded"
    );
    assert!(record(&home).is_file());
    let status = home.run(&["plugin", "status", "greeter"]).ok().stdout;
    assert!(
        status.contains("disabled      from when it is loaded again\n"),
        "{status}"
    );
    home.run(&grant).ok();
    home.run(&["plugin", "reload", "greeter"]).ok();
    assert_eq!(greeter(&service)["state"], "disabled");

    home.run(&["plugin", "revoke", "greeter"]).ok();
    eventually("it is withdrawn", || {
        greeter(&service)["state"] == "unloaded"
    });
    let enabled = home.run(&["plugin", "enable", "greeter"]).ok();
    let problem = "it takes no calls all the same: ";
    assert!(enabled.stderr.contains(problem), "{}", enabled.stderr);
    assert!(enabled.stderr.contains("(ORC-2120)"), "{}", enabled.stderr);
    assert!(!record(&home).exists());

    // What nobody disabled, enabling does not bring back.
    for command in ["enable", "restart"] {
        let refused = home.run(&["plugin", command, "greeter", "--json"]);
        let error = refused.with_code(5).error();
        assert_eq!(error["code"], "ORC-2120", "{command}: {error}");
        let help = error["help"].as_str().unwrap();
        assert!(help.contains("plugin reload greeter"), "{help}");
    }
    home.run(&grant).ok();
    home.run(&["plugin", "reload", "greeter"]).ok();
    assert_ne!(greeter(&service)["state"], "disabled");
}
