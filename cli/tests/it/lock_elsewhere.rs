//! One lock file on several hosts, each with a trust root of its own or one that
//! they share.

use std::fs;

use crate::{
    file_server::{Answer, FileServer},
    harness::{Home, read},
    install::{archive, home_with_package},
};

fn trust(home: &Home, args: &[&str]) {
    home.run(&[&["trust"], args].concat()).ok();
}

/// Makes the root of a home rise by this many versions.
fn raise(home: &Home, times: u32) {
    for time in 1..=times {
        let names = format!("*,more-{time}");
        let terms = ["--level", "3", "--names", &names, "--replace"];
        trust(home, &[&["add", "release"], &terms[..]].concat());
    }
}

/// A home with the package of a web server installed and written down, another
/// home, and the server.
fn two_homes() -> (Home, Home, FileServer) {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let url = server.put("/greeter", Answer::File(archive(&package)));
    home.run(&["plugin", "install", &url]).ok();
    (home, Home::new(), server)
}

/// Writes the lock file of one home where another looks for it.
fn hand_over(from: &Home, to: &Home) {
    from.run(&["plugin", "lock"]).ok();
    let name = "orchestrator.lock";
    fs::copy(from.root().join(name), to.root().join(name)).unwrap();
}

#[test]
fn hosts_with_roots_of_their_own_install_the_same() {
    let (home, other, server) = two_homes();
    raise(&home, 1);
    hand_over(&home, &other);
    let public = other.write("release.pub", &read(home.root().join("keys/release.pub")));
    trust(&other, &["add", &public, "--level", "3", "--names", "*"]);
    server.asked();
    let done = other.run(&["plugin", "install", "--locked"]).ok();
    assert!(done.stdout.contains("1 installed"), "{}", done.stdout);
    assert!(
        done.stderr.contains("another trust root"),
        "{}",
        done.stderr
    );
    assert_eq!(server.asked().len(), 1);
    other.run(&["plugin", "lock", "--locked"]).ok();
}

#[test]
fn a_host_that_is_behind_on_the_same_root_is_refused_before_it_asks() {
    let (home, other, server) = two_homes();
    let root = home.root().join("trust/root.json").display().to_string();
    trust(&other, &["init", "--from", &root]);
    raise(&home, 2);
    hand_over(&home, &other);
    server.asked();
    let file = other.root().join("orchestrator.lock");
    let url = read(&file);
    let url = url.split("source = \"").nth(1).unwrap();
    let url = url.split('"').next().unwrap();
    for args in [
        &["plugin", "install", "--locked", "--json"][..],
        &["plugin", "install", url, "--locked", "--json"],
    ] {
        let error = other.run(args).with_code(6).error();
        assert_eq!(error["code"], "ORC-2161");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("older than"), "{message}");
        assert!(server.asked().is_empty());
    }
    let next = home.root().join("trust/root.json").display().to_string();
    // A root that skips a version does not follow; a host that begins anew has it.
    assert_ne!(other.run(&["trust", "update", &next]).code, 0);
    let third = Home::new();
    trust(&third, &["init", "--from", &next]);
    hand_over(&home, &third);
    third.run(&["plugin", "install", "--locked"]).ok();
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_path_cannot_command_the_terminal() {
    let home = Home::with_greeter();
    let path = home.work().join("a\u{1b}[2Jb.lock").display().to_string();
    let done = home.run(&["plugin", "lock", "--lock-file", &path]).ok();
    assert!(!done.stdout.contains('\u{1b}'), "{:?}", done.stdout);
    assert!(done.stdout.contains(", 1 plugin\n"), "{:?}", done.stdout);
}
