use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use orchestrator_testkit::{TestHome, TestPlugin};
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, read},
    http,
    serve::Service,
};

#[test]
fn a_package_goes_from_signing_to_running_and_away() {
    let home = Home::with_greeter();
    let listed = home.run(&["plugin", "list", "--json"]).ok().json();
    let greeter = of(&listed, "greeter");
    assert_eq!(greeter["version"], "0.1.0");
    assert_eq!(greeter["trust_level"], 3);
    assert_eq!(greeter["error"], Value::Null);

    let info = home.run(&["plugin", "info", "greeter"]).ok().stdout;
    assert!(
        info.contains("process:spawn=/bin/sh (relied upon, not enforced)"),
        "{info}"
    );

    home.run(&["plugin", "remove", "greeter", "0.1.0"]).ok();
    let gone = home
        .run(&["plugin", "info", "greeter", "--json"])
        .with_code(4);
    assert_eq!(gone.error()["code"], "ORC-5011");
    let again = home
        .run(&["plugin", "remove", "greeter", "--json"])
        .with_code(4);
    assert_eq!(again.error()["code"], "ORC-2154");
}

fn of<'v>(listed: &'v Value, id: &str) -> &'v Value {
    let found = listed.as_array().unwrap().iter().find(|it| it["id"] == id);
    found.unwrap_or_else(|| panic!("{id} in {listed}"))
}

#[test]
fn every_fault_of_a_manifest_is_told_at_once_with_its_place() {
    let home = Home::new();
    home.write(
        "p/plugin.yaml",
        "name: greeter\nversion: one\nkind: exe\ncolour: red\n",
    );
    let done = home
        .run(&["plugin", "validate", "p", "--json"])
        .with_code(3);
    let faults = done.error()["faults"].as_array().unwrap().clone();
    assert!(faults.len() >= 3, "{faults:?}");
    assert!(faults.iter().any(|fault| fault["line"] == 2), "{faults:?}");
    let plain = home.run(&["plugin", "validate", "p"]).with_code(3);
    assert!(plain.stderr.contains("ORC-1010"), "{}", plain.stderr);
    let nothing = home.run(&["plugin", "validate", "nowhere", "--json"]);
    assert_eq!(
        nothing.with_code(4).error()["faults"][0]["code"],
        "ORC-1001"
    );

    let package = home.greeter("greeter");
    let valid = home.run(&["plugin", "validate", &package, "--json"]).ok();
    assert_eq!(valid.json()["id"], "greeter");
    let schema = home.run(&["plugin", "validate", "--schema"]).ok().json();
    assert!(schema["properties"]["version"].is_object());
}

#[test]
fn every_manifest_of_the_examples_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples");
    let mut found = Vec::new();
    manifests(&examples, &mut found);
    assert!(found.len() >= 6, "{found:?}");
    let home = Home::new();
    for file in found {
        let file = file.display().to_string();
        let valid = home.run(&["plugin", "validate", &file, "--json"]).ok();
        assert!(valid.json()["id"].is_string(), "{file}");
    }
}

/// Every file below `dir` that is called as a manifest is.
fn manifests(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap();
        if entry.file_type().unwrap().is_dir() {
            manifests(&path, found);
        } else if orchestrator_manifest::FILE_NAMES.contains(&name)
            || name.ends_with("plugin-manifest.yaml")
        {
            found.push(path);
        }
    }
}

#[test]
fn one_plugin_is_one_object_with_all_that_is_known() {
    let home = Home::new();
    let phases = json!([{ "name": "go", "description": "Goes", "effect": "idempotent",
        "retryable": true, "max_retries": 2, "timeout": "90s" }]);
    let plugin = |version: &str| {
        TestPlugin::shell("walker", phases.clone(), "cat")
            .with("version", json!(version))
            .with("author", json!("Ada"))
            .with("license", json!("MIT"))
            .with("resources", json!({ "max_memory_mb": 64 }))
            .with("output_spec", json!({ "primary_output": "a.md" }))
    };
    let kit = TestHome::at(home.root());
    kit.install(&plugin("1.0.0")).install(&plugin("1.2.0"));

    let info = home
        .run(&["plugin", "info", "walker", "--json"])
        .ok()
        .json();
    assert_eq!(info["version"], "1.2.0", "{info}");
    assert_eq!(info["author"], "Ada");
    assert_eq!(info["phases"][0]["effect"], "idempotent");
    assert_eq!(info["phases"][0]["max_retries"], 2);
    assert_eq!(info["limits"]["memory_bytes"], 64 << 20);
    assert_eq!(info["other_versions"], json!(["1.0.0"]));
    let old = ["plugin", "info", "walker@1.0.0", "--json"];
    assert_eq!(home.run(&old).ok().json()["version"], "1.0.0");
    home.run(&["plugin", "info", "walker@2.0.0"]).with_code(4);
    let all = home.run(&["plugin", "info", "--json"]).ok().json();
    assert!(all.as_array().unwrap().len() >= 2, "{all}");

    let text = home.run(&["plugin", "info", "walker"]).ok().stdout;
    for line in [
        "author        Ada\n",
        "license       MIT\n",
        "phase         go (idempotent, within 1m 30s, at most 2 retries): Goes\n",
        "max memory    64.0 MiB (by ",
        "granted       process:spawn=/bin/sh (relied upon, not enforced)\n",
        "other version 1.0.0\n",
        "output_spec",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
}

#[test]
fn a_package_that_is_not_what_was_signed_is_status_6() {
    let home = Home::with_greeter();
    let package = home.work().join("greeter");
    let dir = package.display().to_string();
    let verify = ["plugin", "verify", &dir, "--json"];
    assert_eq!(home.run(&verify).ok().json()["name"], "greeter");

    let script = package.join("greeter.sh");
    let text = read(&script);
    fs::write(&script, text.replace("exit 2", "exit 3")).unwrap();
    assert_eq!(home.run(&verify).with_code(6).error()["code"], "ORC-2055");
    let install = ["plugin", "install", &dir, "--json"];
    assert_eq!(home.run(&install).with_code(6).error()["code"], "ORC-2055");

    fs::write(&script, text).unwrap();
    home.write("greeter/extra", "x");
    assert_eq!(home.run(&verify).with_code(6).error()["code"], "ORC-2053");
    fs::remove_file(package.join("extra")).unwrap();
    home.run(&verify).ok();

    home.run(&["trust", "remove", "release"]).ok();
    assert_eq!(home.run(&verify).with_code(6).error()["code"], "ORC-2041");
}

#[test]
fn a_plugin_without_its_grants_is_listed_with_the_reason() {
    let home = Home::with_greeter();
    home.run(&["plugin", "revoke", "greeter"]).ok();
    let listed = home.run(&["plugin", "list", "--json"]).ok().json();
    let error = &of(&listed, "greeter")["error"];
    assert_eq!(error["code"], "ORC-2120", "{error}");
    let pipeline = home.pipeline("greet");
    let run = home
        .run(&["run", "start", &pipeline, "--json"])
        .with_code(5);
    assert_eq!(run.error()["code"], "ORC-2120");

    let nothing = home.run(&["plugin", "revoke", "greeter", "--json"]);
    assert_eq!(nothing.with_code(4).error()["code"], "ORC-2124");
    let args = [
        "plugin",
        "grant",
        "greter",
        "process:spawn=/bin/sh",
        "--json",
    ];
    let unknown = home.run(&args).with_code(4);
    let message = unknown.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("did you mean `greeter`?"), "{message}");
}

#[test]
fn grants_add_up_and_are_listed() {
    let home = Home::with_greeter();
    let done = home
        .run(&["plugin", "grant", "greeter", "file:read=/srv"])
        .ok();
    assert!(
        done.stderr.contains("does not ask for file:read=/srv"),
        "{}",
        done.stderr
    );
    let grants = home.run(&["plugin", "grants", "--json"]).ok().json();
    let capabilities = grants[0]["capabilities"].as_array().unwrap();
    assert_eq!(capabilities.len(), 2, "{grants}");
    home.run(&["plugin", "revoke", "greeter", "file:read=/srv"])
        .ok();
    let grants = home
        .run(&["plugin", "grants", "greeter", "--json"])
        .ok()
        .json();
    assert_eq!(grants[0]["capabilities"].as_array().unwrap().len(), 1);
}

#[test]
fn keys_of_others_are_trusted_by_file_and_listed() {
    let home = Home::with_greeter();
    let other = Home::new();
    other
        .run(&["key", "generate", "partner", "--no-passphrase"])
        .ok();
    let file = other.root().join("keys/partner.pub").display().to_string();
    let args = [
        "trust",
        "add",
        &file,
        "--level",
        "1",
        "--names",
        "com.partner.*,other",
    ];
    home.run(&args).ok();
    let listed = home.run(&["trust", "list", "--json"]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(of_name(&listed, "partner")["level"], 1);
    let bad = home.run(&["trust", "add", &file, "--level", "4", "--names", "*"]);
    assert_eq!(bad.code, 2);
    let missing = home
        .run(&["trust", "remove", "nobody", "--json"])
        .with_code(4);
    assert_eq!(missing.error()["code"], "ORC-2086");
}

fn of_name<'v>(listed: &'v Value, name: &str) -> &'v Value {
    let mut found = listed.as_array().unwrap().iter();
    found.find(|it| it["name"] == name).unwrap()
}

#[test]
fn a_damaged_trust_root_trusts_nobody() {
    let home = Home::with_greeter();
    let root = home.root().join("trust/root.json");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&root, "{}").unwrap();
    let done = home.run(&["trust", "list", "--json"]).with_code(6);
    assert_eq!(done.error()["code"], "ORC-2081");
    let file = home.pipeline("greet");
    let start = ["run", "start", &file, "--json"];
    assert_eq!(home.run(&start).with_code(6).error()["code"], "ORC-3001");

    // What the error says to do.
    fs::rename(home.root().join("trust"), home.root().join("old")).unwrap();
    home.run(&["trust", "add", "release", "--level", "3", "--names", "*"])
        .ok();
    home.run(&start).ok();
}

#[test]
fn damaged_grants_grant_nothing() {
    let home = Home::with_greeter();
    fs::write(home.root().join("grants.toml"), "nonsense").unwrap();
    let file = home.pipeline("greet");
    let start = ["run", "start", &file, "--json"];
    assert_eq!(home.run(&start).with_code(3).error()["code"], "ORC-3002");

    fs::remove_file(home.root().join("grants.toml")).unwrap();
    home.run(&start).with_code(5);
    let grant = ["plugin", "grant", "greeter", "process:spawn=/bin/sh"];
    home.run(&grant).ok();
    home.run(&start).ok();
}

/// What is compiled in runs in every service.
#[test]
fn the_health_of_a_plugin_is_told_in_five_fields_to_the_holder_of_the_token() {
    let home = Home::with_greeter();
    let service = Service::start(&home, &["--set", "health.check.interval=20ms"]);
    let path = "/api/v1/plugins";
    let health = || {
        let plugins = service.api("GET", path, None).json()["plugins"].clone();
        let mut plugins = plugins.as_array().unwrap().iter();
        let compiled_in = plugins.find(|it| it["kind"] == "builtin").unwrap();
        compiled_in["health"].clone()
    };
    eventually("it is well", || health()["healthy"] == true);
    let health = health();
    let fields: Vec<_> = health.as_object().unwrap().keys().collect();
    let expected = [
        "consecutive_fails",
        "healthy",
        "last_check",
        "last_error",
        "metrics",
    ];
    assert_eq!(fields, expected);
    assert!(health["last_check"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        (&health["consecutive_fails"], &health["last_error"]),
        (&json!(0), &Value::Null)
    );
    assert!(health["metrics"]["checks"].as_u64().unwrap() > 0);
    let without = http::send(&service.address, "GET", path, &[], &[]);
    assert_eq!(without.status, 401);
}
