//! Plugins that nobody signed, from writing them to running them.

use std::fs;

use crate::harness::{Home, read};

const GRANT: [&str; 5] = [
    "plugin",
    "grant",
    "greeter",
    "process:spawn=/bin/sh",
    "--json",
];

/// A home that runs unsigned plugins from `plugins` in its working directory,
/// where the `greeter` lies.
fn developing() -> Home {
    let home = Home::new();
    home.greeter("plugins/greeter");
    let folder = home.work().join("plugins").display().to_string();
    let config = format!("[runtime]\nunsigned_paths = [{folder:?}]\n");
    fs::write(home.root().join("config.toml"), config).unwrap();
    home
}

/// The code of what keeps the greeter from running.
fn fault(home: &Home) -> Option<String> {
    let info = home.run(&["plugin", "info", "greeter", "--json"]).ok();
    info.json()["error"]["code"].as_str().map(ToOwned::to_owned)
}

#[test]
fn an_unsigned_plugin_is_granted_by_name_and_runs() {
    let home = developing();
    let pipeline = home.pipeline("greet");
    let run = ["run", "start", &pipeline, "--json"];
    assert_eq!(home.run(&run).with_code(5).error()["code"], "ORC-2120");

    let granted = home.run(&GRANT).ok();
    assert_eq!(granted.json()[0]["publisher"], "unsigned");
    assert!(
        granted.stderr.contains("warning: greeter is unsigned"),
        "{}",
        granted.stderr
    );
    home.run(&run).ok();
    let info = home.run(&["plugin", "info", "greeter"]).ok().stdout;
    assert!(info.contains("signed by     nobody"), "{info}");
    assert!(
        info.contains("granted       process:spawn=/bin/sh"),
        "{info}"
    );

    home.run(&["plugin", "revoke", "greeter"]).ok();
    assert_eq!(fault(&home).as_deref(), Some("ORC-2120"));
    let mut by_directory = GRANT;
    by_directory[2] = "./plugins/greeter";
    home.run(&by_directory).ok();
    assert_eq!(fault(&home), None);
}

#[test]
fn an_unsigned_plugin_that_asks_for_more_is_granted_anew() {
    let home = developing();
    home.run(&GRANT).ok();
    let manifest = home.work().join("plugins/greeter/plugin.yaml");
    let more = format!("{}capabilities: [system:info]\n", read(&manifest));
    fs::write(&manifest, more).unwrap();
    assert_eq!(fault(&home).as_deref(), Some("ORC-2121"));
    home.run(&["plugin", "grant", "greeter", "system:info"])
        .ok();
    assert_eq!(fault(&home), None);
}

#[test]
fn a_signed_plugin_of_the_same_name_inherits_nothing() {
    let home = developing();
    home.run(&GRANT).ok();
    let package = home.greeter("release/greeter");
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&["plugin", "sign", &package, "--key", "release"])
        .ok();
    home.run(&["trust", "add", "release", "--level", "3", "--names", "*"])
        .ok();
    home.run(&["plugin", "install", &package]).ok();
    assert_eq!(fault(&home).as_deref(), Some("ORC-2122"));
    let pipeline = home.pipeline("greet");
    let run = ["run", "start", &pipeline, "--json"];
    assert_eq!(home.run(&run).with_code(5).error()["code"], "ORC-2122");

    // The installed one is meant by its name, and the other keeps what it had.
    let both = home.run(&GRANT).ok().json();
    assert_eq!(both.as_array().unwrap().len(), 2, "{both}");
    home.run(&run).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    assert_eq!(fault(&home), None);
}

#[test]
fn outside_the_listed_folders_nothing_unsigned_is_granted() {
    let home = developing();
    home.greeter("elsewhere/greeter");
    let mut elsewhere = GRANT;
    elsewhere[2] = "./elsewhere/greeter";
    let refused = home.run(&elsewhere).with_code(6);
    assert_eq!(refused.error()["code"], "ORC-2040");
    fs::remove_file(home.root().join("config.toml")).unwrap();
    assert_eq!(home.run(&GRANT).with_code(6).error()["code"], "ORC-2040");
    assert!(!home.root().join("grants.toml").exists());
}
