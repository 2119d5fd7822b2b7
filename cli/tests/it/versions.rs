//! What an operator's word is about where there are several versions, or services.

use std::{fs, path::Path};

use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, read},
    serve::Service,
};

/// A home with these versions of a plugin that keeps state.
fn home_with(versions: &[&str]) -> Home {
    let home = Home::new();
    for version in versions {
        let phases = json!([{ "name": "tally" }]);
        let plugin = TestPlugin::program("tally", Kind::Node, &scripted_plugin(), phases);
        TestHome::at(home.root()).install(&plugin.with("version", json!(version)));
    }
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for (name, plugin) in [("latest", "tally"), ("first", "tally@=1.0.0")] {
        let text = format!(
            "version: 1\nname: {name}\nsteps: [{{ id: s, plugin: '{plugin}', phase: tally }}]\n"
        );
        fs::write(dir.join(format!("{name}.yaml")), text).unwrap();
    }
    home
}

fn run(service: &Service, name: &str) {
    let body = json!({ "pipeline": name });
    let answer = service.api("POST", "/api/v1/runs", Some(&body)).json();
    let path = format!("/api/v1/runs/{}", answer["id"].as_str().unwrap());
    let report = || service.api("GET", &path, None).json();
    eventually("the run ends", || !report()["outcome"].is_null());
    assert_eq!(report()["outcome"], "success", "{}", report());
}

/// State and process of each version, ascending.
fn versions(service: &Service) -> Vec<(String, Option<u64>)> {
    let answer = service.api("GET", "/api/v1/plugins/tally", None).json();
    let plugins = answer["plugins"].as_array().unwrap().iter();
    let each = plugins.map(|it| {
        let state = it["state"].as_str().unwrap();
        (state.to_owned(), it["pid"].as_u64())
    });
    each.collect()
}

#[test]
fn a_restart_starts_what_serves_and_nothing_that_nobody_has_called() {
    let home = home_with(&["1.0.0", "1.1.0"]);
    let service = Service::start(&home, &[]);
    run(&service, "latest");
    let before = versions(&service);
    home.run(&["plugin", "restart", "tally"]).ok();
    let after = versions(&service);
    assert_eq!(after[0], ("loaded".to_owned(), None), "{after:?}");
    assert_eq!(after[1].0, "running");
    assert_ne!(after[1].1, before[1].1);

    // A version that somebody asked for serves too.
    run(&service, "first");
    let before = versions(&service);
    home.run(&["plugin", "restart", "tally"]).ok();
    for (before, after) in before.iter().zip(versions(&service)) {
        assert_eq!(after.0, "running");
        assert_ne!(after.1, before.1);
    }
}

#[test]
fn one_version_is_removed_by_its_name_with_the_version() {
    let home = home_with(&["1.0.0", "1.1.0"]);
    let installed = |version: &str| home.root().join("plugins/tally").join(version).exists();
    for wrong in [&["tally@1.0"][..], &["tally@1.0.0", "1.1.0"], &["tally@"]] {
        let args = [&["plugin", "remove"], wrong].concat();
        assert_eq!(home.run(&args).code, 2, "{wrong:?}");
    }
    let both = ["plugin", "remove", "tally@1.0.0", "1.1.0", "--json"];
    assert_eq!(home.run(&both).error()["code"], "ORC-5069");
    let unknown = home.run(&["plugin", "remove", "tally@3.0.0", "--json"]);
    let error = unknown.with_code(4).error();
    assert_eq!(error["code"], "ORC-2154");
    assert!(error["message"].as_str().unwrap().contains("tally 3.0.0"));

    let done = home
        .run(&["plugin", "remove", "tally@1.0.0", "--json"])
        .ok();
    assert_eq!(
        done.json(),
        json!({ "removed": "tally", "version": "1.0.0" })
    );
    assert!(!installed("1.0.0") && installed("1.1.0"));
    let recorded = home.audited(&["--kind", "remove"]);
    let last = recorded.last().unwrap();
    assert_eq!(
        (&last["plugin"], &last["version"]),
        (&json!("tally"), &json!("1.0.0"))
    );
    home.run(&["plugin", "remove", "tally@1.1.0", "1.1.0"]).ok();
    assert!(!home.root().join("plugins/tally").exists());
}

/// Writes and signs a greeter of this version, a release with a number of its own.
fn package(home: &Home, version: &str, serial: &str) -> String {
    let package = home.greeter(version);
    for file in ["plugin.yaml", "greeter.sh"] {
        let path = Path::new(&package).join(file);
        let text = read(&path).replace("0.1.0", version);
        fs::write(path, text).unwrap();
    }
    let sign = ["plugin", "sign", &package, "--key", "release"];
    home.run(&[&sign[..], &["--serial", serial]].concat()).ok();
    package
}

#[test]
fn who_installs_beside_a_service_is_told_how_that_comes_to_use_it() {
    let home = Home::with_greeter();
    let releases = [
        ("0.2.0", "9000000000001"),
        ("0.3.0", "9000000000002"),
        ("0.4.0", "9000000000003"),
    ];
    let [next, third, fourth] = releases.map(|(version, serial)| package(&home, version, serial));
    let hint = "`orchestrator plugin reload greeter`";
    let alone = home.run(&["plugin", "install", &next]).ok();
    assert!(!alone.stderr.contains(hint), "{}", alone.stderr);

    let service = Service::start(&home, &[]);
    let told = home.run(&["plugin", "install", &third]).ok();
    assert!(told.stderr.contains(hint), "{}", told.stderr);
    assert!(told.stderr.contains(&service.address), "{}", told.stderr);
    let again = home.run(&["plugin", "install", &third]).ok();
    assert!(!again.stderr.contains(hint), "{}", again.stderr);
    let json = home.run(&["plugin", "install", &fourth, "--json"]).ok();
    assert!(!json.stderr.contains(hint), "{}", json.stderr);
    assert_eq!(json.json()["version"], "0.4.0");
    let back = home.run(&["plugin", "rollback", "greeter"]).ok();
    assert!(back.stderr.contains(hint), "{}", back.stderr);
}

#[test]
fn one_service_knows_and_several_know() {
    let home = Home::with_greeter();
    let first = Service::start(&home, &[]);
    let told = home.run(&["plugin", "disable", "greeter"]).ok().stdout;
    let one = format!(
        "greeter is disabled; the service on {} knows\n",
        first.address
    );
    assert_eq!(told, one);
    let second = Service::start(&home, &[]);
    let told = home.run(&["plugin", "enable", "greeter"]).ok().stdout;
    let mut both = [first.address.clone(), second.address.clone()];
    both.sort_by_key(|it| it.parse::<std::net::SocketAddr>().unwrap());
    let [a, b] = both;
    let several = format!("greeter is enabled; the services on {a} and {b} know\n");
    assert_eq!(told, several);
}

/// There is no other one to load, and the one there is can be started again.
#[test]
fn what_is_compiled_in_is_restarted_and_not_reloaded() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    let done = home.run(&["plugin", "restart", "template", "--json"]).ok();
    let state = &done.json()["services"][0]["plugins"][0]["state"];
    assert_eq!(state, "running");
    let refused = home.run(&["plugin", "reload", "template", "--json"]);
    let error = refused.with_code(1).error();
    assert_eq!(error["code"], "ORC-3053");
    let help = error["help"].as_str().unwrap();
    assert!(
        help.contains("`orchestrator plugin restart template`"),
        "{help}"
    );
    drop(service);
}

/// Each error says what helps: the service goes by the token that it found at its start.
#[test]
fn a_token_that_was_broken_or_replaced_is_mended_by_a_new_start() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    let token = home.root().join("api-token");
    let refused = |code: &str| {
        let done = home.run(&["plugin", "status", "--json"]).with_code(5);
        let error: Value = done.error();
        assert_eq!(error["code"], code, "{error}");
        let text = error.to_string();
        assert!(text.contains("orchestrator serve"), "{text}");
        assert!(text.contains(&token.display().to_string()), "{text}");
    };
    fs::write(&token, "nonsense").unwrap();
    refused("ORC-5009");
    fs::remove_file(&token).unwrap();
    refused("ORC-5068");
    service.signal(Signal::TERM);
    service.wait().ok();
    let _service = Service::start(&home, &[]);
    home.run(&["plugin", "status", "--json"]).ok();
}
