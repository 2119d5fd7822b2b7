//! The lock file, as commands use it.

use std::{env::consts::ARCH, fs};

use orchestrator_contract::RunId;

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

/// Folders below which the engine finds plugins as well, as a setting.
fn also(dir: &std::path::Path) -> String {
    format!("discovery.extra=[\"{}\"]", dir.display())
}

#[test]
fn what_the_engine_finds_elsewhere_is_locked_as_well() {
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    home.run(&["plugin", "lock"]).ok();
    let elsewhere = home.work().join("elsewhere");
    let copy = home.greeter("elsewhere/greeter");
    let extra = also(&elsewhere);
    let with = ["--locked", "--set", &extra];
    // The same version, signed for another release: it comes first.
    sign(&home, &copy, "9999999999998");
    let run = RunId::from_parts(1, 2).to_string();
    let commands: [&[&str]; 4] = [
        &["run", "start", &file],
        &["run", "resume"],
        &["run", "retry", &run],
        &["serve", "--listen", "127.0.0.1:0"],
    ];
    for command in commands {
        let message = refusal(&home, &[command, &with].concat());
        assert!(message.contains("another release"), "{message}");
    }
    // A further version is none that is written down.
    release(&home, &copy, "0.2.0", "9999999999999");
    let message = refusal(&home, &[commands[0], &with].concat());
    assert!(message.contains("0.2.0 is not in"), "{message}");
    // Neither is one that nobody signed.
    fs::remove_dir_all(elsewhere.join("greeter/META")).unwrap();
    let unsigned = format!("runtime.unsigned_paths=[\"{}\"]", elsewhere.display());
    let message = refusal(&home, &[commands[0], &with, &["--set", &unsigned]].concat());
    assert!(message.contains("not signed"), "{message}");
    // Nothing that cannot run is in the way.
    let not_signed = [commands[0], &with].concat();
    home.run(&not_signed).ok();
    fs::write(elsewhere.join("greeter/greeter.sh"), "").unwrap();
    home.run(&not_signed).ok();
}

fn sign_for(home: &Home, package: &str, serial: &str, platform: &str) {
    let args = [
        "plugin",
        "sign",
        package,
        "--key",
        "release",
        "--serial",
        serial,
        "--platform",
        platform,
    ];
    home.run(&args).ok();
}

/// One lock file for hosts of several platforms.
#[test]
fn releases_for_other_platforms_are_written_down_and_kept() {
    // Both run here: this host plays two.
    let [gnu, musl] = ["gnu", "musl"].map(|it| format!("{ARCH}-unknown-linux-{it}"));
    let (home, package) = home_with_package();
    sign_for(&home, &package, "5", &gnu);
    let other = home.greeter("other");
    home.write("other/built-for", "another C library");
    sign_for(&home, &other, "5", &musl);
    home.run(&["plugin", "install", &package]).ok();
    home.run(&["plugin", "lock"]).ok();
    let lock = home.root().join("orchestrator.lock");
    // It would be another host, which has had no release of this number.
    let anew = "--allow-downgrade";
    let locked = ["plugin", "install", &other, anew, "--locked", "--lock-file"];
    let elsewhere = home.work().join("kept.lock");
    let kept = elsewhere.display().to_string();
    let on_the_other = |lock: &std::path::Path| {
        fs::copy(lock, &elsewhere).unwrap();
        home.run(&["plugin", "remove", "greeter"]).ok();
    };
    on_the_other(&lock);
    assert!(refusal(&home, &[&locked[..], &[&kept]].concat()).contains("another release"));

    home.run(&["plugin", "install", &package]).ok();
    home.run(&["plugin", "lock", "--also", &other]).ok();
    let text = read(&lock);
    home.run(&["plugin", "lock"]).ok();
    assert_eq!(read(&lock), text, "what is there is kept");
    home.run(&["plugin", "lock", "--locked"]).ok();
    on_the_other(&lock);
    home.run(&[&locked[..], &[&kept]].concat()).ok();
    let all = ["plugin", "install", "--locked", "--lock-file", &kept];
    let done = home.run(&all).ok();
    assert!(done.stdout.contains("1 were there"), "{}", done.stdout);
    // There the same file is written again, but for what is installed.
    home.run(&["plugin", "lock", "--locked", "--lock-file", &kept])
        .ok();
    home.run(&["plugin", "lock", "--lock-file", &kept]).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    let first = [
        "plugin",
        "install",
        &package,
        anew,
        "--locked",
        "--lock-file",
        &kept,
    ];
    home.run(&first).ok();

    for (serial, platform, why) in [("6", &musl, "another serial"), ("5", &gnu, "other content")] {
        sign_for(&home, &other, serial, platform);
        let args = ["plugin", "lock", "--also", &other, "--json"];
        let error = home.run(&args).with_code(6).error();
        assert_eq!(error["code"], "ORC-2165");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    assert_eq!(read(&lock), text);
    // Nothing else gets in by it.
    sign_for(&home, &other, "5", &musl);
    home.write("other/built-for", "somebody else");
    sign_for(&home, &other, "5", &musl);
    home.run(&["plugin", "remove", "greeter"]).ok();
    fs::write(&elsewhere, &text).unwrap();
    let message = refusal(&home, &[&locked[..], &[&kept]].concat());
    assert!(message.contains("another release"), "{message}");
}

/// Nothing starts a program of another processor, so it does not get that far.
#[test]
fn a_release_for_another_platform_is_not_installed() {
    let (home, package) = home_with_package();
    sign_for(&home, &package, "5", "s390x-unknown-linux-gnu");
    home.run(&["plugin", "verify", &package]).ok();
    let done = home.run(&["plugin", "install", &package, "--json"]);
    let error = done.with_code(6).error();
    assert_eq!(error["code"], "ORC-2068");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("s390x-unknown-linux-gnu"), "{message}");
    // Nor loaded where it lies.
    home.run(&["plugin", "remove", "greeter"]);
    let extra = also(&home.work());
    let file = home.pipeline("greet");
    let shown = home.run(&["run", "start", &file, "--set", &extra, "--json"]);
    let shown = format!("{}{}", shown.stdout, shown.stderr);
    assert!(shown.contains("ORC-2068"), "{shown}");
}
