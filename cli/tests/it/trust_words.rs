//! What the commands about trust say, and with which status, when something is
//! not as they need it.

use std::fs;

use crate::{
    harness::{Done, Home, finish, read},
    install::{home_with_package, sign},
};

/// What a refusal says, on standard error.
#[track_caller]
fn said(done: Done, status: i32, code: &str) -> String {
    let error = done.with_code(status).error();
    assert_eq!(error["code"], code, "{error}");
    format!("{} {}", error["message"], error["help"])
}

/// A home with two keys and a proposal of both as root keys.
fn proposed() -> (Home, String) {
    let home = Home::new();
    for name in ["a", "b"] {
        home.run(&["key", "generate", name, "--no-passphrase"]).ok();
    }
    let file = home.work().join("root.1.json").display().to_string();
    let keys = ["--root-key", "a", "--root-key", "b", "--threshold", "2"];
    home.run(&[&["trust", "propose", "--out", &file], &keys[..]].concat())
        .ok();
    (home, file)
}

#[test]
fn a_file_that_no_root_can_be_is_no_fault_of_the_command_line() {
    let (home, file) = proposed();
    let text = read(&file);
    for threshold in ["0", "3"] {
        let bad = format!("\"threshold\": {threshold}");
        let bad = home.write("bad.json", &text.replace("\"threshold\": 2", &bad));
        for command in [
            &["trust", "update", &bad, "--json"][..],
            &["trust", "show", &bad, "--json"],
            &["trust", "init", "--from", &bad, "--json"],
        ] {
            said(home.run(command), 3, "ORC-2098");
        }
    }
    let propose = ["trust", "propose", "--out", &file, "--threshold", "3"];
    said(
        home.run(&[&propose[..], &["--json"]].concat()),
        2,
        "ORC-2098",
    );
}

#[test]
fn the_first_root_is_adopted_and_the_next_followed() {
    let (home, file) = proposed();
    let terms = ["--level", "2", "--names", "x", "--out"];
    let add = [&["trust", "add", "a"], &terms[..], &[&file]].concat();
    let done = home.run(&add).ok();
    assert!(done.stderr.contains("trust init --from"), "{}", done.stderr);
    assert!(!done.stderr.contains("trust update"), "{}", done.stderr);
    home.run(&["trust", "init"]).ok();
    let next = home.work().join("root.2.json").display().to_string();
    let add = [&["trust", "add", "a"], &terms[..], &[&next]].concat();
    let done = home.run(&add).ok();
    assert!(done.stderr.contains("trust update"), "{}", done.stderr);
}

#[test]
fn what_is_meant_and_cannot_be_is_said_of_itself() {
    let home = Home::new();
    home.run(&["key", "generate", "k", "--no-passphrase"]).ok();
    let add = ["trust", "add", "k", "--level", "2", "--names", "x"];
    home.run(&add).ok();

    // No digest is no key.
    let args = ["trust", "revoke", "sha256:0000", "--reason", "r"];
    let done = home.run(&args).with_code(2);
    assert!(done.stderr.contains("hex digits"), "{}", done.stderr);
    assert!(!done.stderr.contains("trusted key"), "{}", done.stderr);

    // A reason that cannot be written down has nothing to do with proposals.
    for reason in ["a\u{1b}[2J", "two\nlines", &"long".repeat(200)] {
        let args = ["trust", "revoke", "k", "--reason", reason];
        let done = home.run(&args).with_code(2);
        assert!(done.stderr.contains("--reason"), "{}", done.stderr);
        assert!(!done.stderr.contains("propose"), "{}", done.stderr);
        assert!(!done.stderr.contains('\u{1b}'), "{}", done.stderr);
    }

    // A device is no key file, public or secret.
    let add = ["trust", "add", "/dev/zero", "--level", "2", "--names", "x"];
    let message = said(home.run(&[&add[..], &["--json"]].concat()), 3, "ORC-2012");
    assert!(!message.contains("secret"), "{message}");

    // A revoked key is not trusted, whatever its terms.
    home.run(&["trust", "revoke", "k", "--reason", "stolen"])
        .ok();
    let add = [
        "trust",
        "add",
        "k",
        "--level",
        "3",
        "--names",
        "x",
        "--replace",
    ];
    let done = home.run(&add).ok();
    assert!(done.stdout.contains("k stays revoked"), "{}", done.stdout);
    assert!(!done.stdout.contains("is trusted"), "{}", done.stdout);
}

#[test]
fn a_pipe_that_nobody_writes_to_is_no_root_file() {
    let (home, _) = proposed();
    let pipe = home.work().join("pipe").display().to_string();
    rustix::fs::mkfifoat(rustix::fs::CWD, &*pipe, rustix::fs::Mode::RWXU).unwrap();
    for command in [
        &["trust", "update", &pipe, "--json"][..],
        &["trust", "show", &pipe, "--json"],
        &["trust", "init", "--from", &pipe, "--json"],
        &["key", "rotate", "a", "--check", &pipe, "--json"],
    ] {
        let message = said(home.run(command), 1, "ORC-5001");
        assert!(message.contains("not a file"), "{message}");
    }
}

#[test]
fn a_listing_says_how_many_keys_have_to_sign() {
    let (home, package) = home_with_package();
    home.run(&["key", "generate", "second", "--no-passphrase"])
        .ok();
    for key in ["release", "second"] {
        let terms = ["--level", "3", "--names", "*", "--threshold", "2"];
        home.run(&[&["trust", "add", key], &terms[..], &["--replace"]].concat())
            .ok();
    }
    let listed = home.run(&["trust", "list"]).ok().stdout;
    let head = listed.lines().next().unwrap();
    assert!(head.contains("NEEDS"), "{listed}");
    assert!(listed.lines().nth(1).unwrap().contains(" 2 "), "{listed}");
    let add = ["plugin", "sign", &package, "--key", "second"];
    home.run(&[&add[..], &["--add"]].concat()).ok();
    let verified = home.run(&["plugin", "verify", &package]).ok().stdout;
    assert!(verified.contains("release, second"), "{verified}");

    // The digest that `--allow` takes.
    let json = home.run(&["plugin", "verify", &package, "--json"]);
    let json = json.ok().json();
    let digest = json["digest"].as_str().unwrap();
    assert!(verified.contains(digest), "{verified}");
    assert_eq!(json["signed_by"], serde_json::json!(["release", "second"]));
}

#[test]
fn what_nobody_could_sign_is_not_valid() {
    let home = Home::new();
    let package = home.greeter("greeter");
    home.run(&["plugin", "validate", &package]).ok();
    home.write("greeter/n\u{e4}me", "");
    for command in ["validate", "digest"] {
        let done = home.run(&["plugin", command, &package, "--json"]);
        let error = done.with_code(3).error();
        assert_eq!(error["code"], "ORC-2070", "{error}");
    }
}

/// Nor by a higher version, which pipelines would get.
#[test]
fn no_package_takes_the_place_of_what_is_compiled_in() {
    let (home, package) = home_with_package();
    let manifest = home.work().join("greeter/plugin.yaml");
    let text = read(&manifest).replace("name: greeter", "name: template");
    fs::write(&manifest, text.replace("0.1.0", "9.0.0")).unwrap();
    sign(&home, &package, "2");
    home.run(&["plugin", "install", &package]).ok();
    let info = |name: &str| home.run(&["plugin", "info", name, "--json"]).ok().json();
    let package = info("template@9.0.0");
    assert_eq!(package["error"]["code"], "ORC-3025", "{package}");
    let used = info("template");
    assert_eq!(used["kind"], "builtin", "{used}");
    assert_eq!(used["other_problems"][0]["version"], "9.0.0", "{used}");
}

/// Whoever comes second waits for its turn.
#[test]
fn changes_of_trust_and_grants_at_once_all_happen() {
    let home = Home::with_greeter();
    let keys: Vec<_> = (0..6).map(|number| format!("k{number}")).collect();
    for key in &keys {
        home.run(&["key", "generate", key, "--no-passphrase"]).ok();
    }
    let mut children = Vec::new();
    for key in &keys {
        let add = ["trust", "add", key, "--level", "1", "--names", "x"];
        let path = format!("process:spawn=/bin/{key}");
        let grant = ["plugin", "grant", "greeter", &path];
        children.push(home.command(&add).spawn().unwrap());
        children.push(home.command(&grant).spawn().unwrap());
    }
    for child in children {
        finish(child).ok();
    }
    let listed = home.run(&["trust", "list", "--json"]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), keys.len() + 1);
    let grants = read(home.root().join("grants.toml"));
    for key in &keys {
        assert!(grants.contains(&format!("/bin/{key}")), "{grants}");
    }
}

/// The file grows no further, and that is said.
#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_end_without_a_word() {
    let (home, package) = home_with_package();
    let out = home.work().join("out.opkg").display().to_string();
    fs::write(home.work().join("greeter/noise"), noise()).unwrap();
    sign(&home, &package, "1");
    let pack = ["plugin", "pack", &package, "--out", &out, "--json"];
    // In blocks of 512 bytes.
    let child = home.command_after("ulimit -f 256", &pack).spawn().unwrap();
    let done = finish(child);
    assert_ne!(done.code, -1, "killed: {done:?}");
    assert!(!done.error()["help"].as_str().unwrap().is_empty());
}

/// What cannot be compressed.
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..65_536).flat_map(next).collect()
}
