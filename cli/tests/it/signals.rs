//! How commands and the service take the signals that ask them to end.

use std::{fs::File, io::Read as _, net::TcpStream, process::Child};

use rustix::{
    fs::{Mode, OFlags},
    process::Signal,
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
};

use crate::{
    harness::{Home, eventually, finish, signal},
    serve::Service,
};

/// The id of the one run there is, once there is one.
fn the_run(home: &Home) -> String {
    let mut id = None;
    eventually("a run", || {
        let listed = home.run(&["run", "list", "--json"]).ok().json();
        id = listed[0]["id"].as_str().map(str::to_owned);
        id.is_some()
    });
    id.unwrap()
}

fn outcome(home: &Home, run: &str) -> serde_json::Value {
    home.run(&["run", "show", run, "--json"]).ok().json()["outcome"].clone()
}

fn sleeping(home: &Home, before: &str) -> (Child, String) {
    let file = home.pipeline("sleep");
    let mut command = home.command_after(before, &["run", "start", &file]);
    let child = command.spawn().unwrap();
    let run = the_run(home);
    (child, run)
}

#[test]
fn a_run_is_cancelled_by_whatever_signal_asks_its_command_to_end() {
    for which in [Signal::INT, Signal::TERM, Signal::HUP] {
        let home = Home::with_greeter();
        let (child, run) = sleeping(&home, "true");
        signal(child.id(), which);
        finish(child).with_code(130);
        assert_eq!(outcome(&home, &run), "cancelled", "{which:?}");
    }
}

/// A terminal that is closed tells its processes, and so does their shell.
#[test]
fn a_second_hangup_does_not_leave_the_run() {
    let home = Home::with_greeter();
    let (mut child, run) = sleeping(&home, "true");
    while child.try_wait().unwrap().is_none() {
        signal(child.id(), Signal::HUP);
    }
    finish(child).with_code(130);
    assert_eq!(outcome(&home, &run), "cancelled");
}

/// What moves on a terminal must not get in the way when the terminal goes.
#[test]
fn a_run_whose_terminal_goes_is_cancelled_and_not_torn_apart() {
    let home = Home::with_greeter();
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    let file = home.pipeline("sleep");
    let child = home
        .command(&["run", "start", &file])
        .env("TERM", "xterm")
        .stderr(theirs)
        .spawn()
        .unwrap();
    let run = the_run(&home);
    let mut drawn = String::new();
    let mut terminal = File::from(ours);
    while !drawn.contains("say") {
        let mut bytes = [0; 4_096];
        let length = terminal.read(&mut bytes).unwrap();
        drawn += &String::from_utf8_lossy(&bytes[..length]);
    }
    drop(terminal);
    signal(child.id(), Signal::HUP);
    finish(child).with_code(130);
    assert_eq!(outcome(&home, &run), "cancelled");
}

#[test]
fn who_started_a_command_may_have_it_outlive_the_terminal() {
    let home = Home::with_greeter();
    let (child, run) = sleeping(&home, "trap '' HUP");
    signal(child.id(), Signal::HUP);
    // Long enough for a signal that counts to be acted on.
    let shown = || home.run(&["run", "show", &run, "--history"]).ok().stdout;
    for _ in 0..5 {
        assert!(!shown().contains("cancelled"), "{}", shown());
    }
    signal(child.id(), Signal::TERM);
    finish(child).with_code(130);
}

#[test]
fn a_service_outlives_its_terminal() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    service.signal(Signal::HUP);
    // It answers because it is there, and would not if it drained.
    for _ in 0..5 {
        assert_eq!(service.get("/readyz").status, 200);
    }
    let address = service.address.clone();
    service.signal(Signal::TERM);
    let done = service.wait().ok();
    assert!(done.stderr.contains("SIGHUP"), "{}", done.stderr);
    eventually("the port is free", || TcpStream::connect(&address).is_err());
}
