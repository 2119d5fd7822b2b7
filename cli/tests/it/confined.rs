//! What an operator sees of confinement: before anything runs, of a plugin, and in the
//! audit log.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Done, Home, eventually, finish, read, signal};

const EVERY_LAYER: [&str; 5] = ["landlock", "seccomp", "processes", "network", "root"];

/// Programs that the greeter starts.
const STARTS: [&str; 2] = ["process:spawn=/bin/sh", "process:spawn=/usr/bin/cat"];

/// A home with a greeter at this trust level, that asks for what it starts.
fn greeter_at(level: &str) -> Home {
    let home = Home::new();
    home.greeter("greeter");
    install(&home, level, &STARTS, |script| script);
    home
}

/// Signs the greeter, after a change to its script, trusts it at this level, installs it
/// and grants it what it asks for.
fn install(home: &Home, level: &str, asks: &[&str], change: impl FnOnce(String) -> String) {
    let at = |name: &str| format!("{}/greeter/{name}", home.work().display());
    let manifest = read(at("plugin.yaml"));
    home.write(
        "greeter/plugin.yaml",
        &format!("{manifest}capabilities: {asks:?}\n"),
    );
    home.write("greeter/greeter.sh", &change(read(at("greeter.sh"))));
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&["plugin", "sign", "greeter", "--key", "release"])
        .ok();
    trust_at(home, level);
    home.run(&["plugin", "install", "./greeter"]).ok();
    let mut grant = vec!["plugin", "grant", "greeter"];
    grant.extend(asks);
    home.run(&grant).ok();
}

fn trust_at(home: &Home, level: &str) {
    let mut trust = vec!["trust", "add", "release", "--replace", "--names", "*"];
    trust.extend(["--level", level]);
    home.run(&trust).ok();
}

/// Runs the command where nobody can make a user namespace.
fn without_namespaces(home: &Home, args: &[&str]) -> Done {
    let direct = home.command(args);
    let mut command = Command::new("unshare");
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    command
        .args(["--user", "--map-root-user", "/bin/sh", "-c", forbid, "sh"])
        .arg(direct.get_program())
        .args(direct.get_args())
        .env_clear()
        .envs(direct.get_envs().filter_map(|(name, it)| Some((name, it?))))
        .current_dir(home.work())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(command.spawn().unwrap())
}

/// What the audit log has of kind `sandbox`.
fn sandbox_records(home: &Home) -> Vec<Value> {
    let records = home.audited(&[]).into_iter();
    records.filter(|it| it["kind"] == "sandbox").collect()
}

#[test]
fn the_doctor_says_what_this_host_can_enforce() {
    let home = Home::new();
    let host = home.run(&["plugin", "doctor", "--json"]).ok().json();
    let layers: Vec<_> = host["layers"].as_array().unwrap().iter().collect();
    let names: Vec<_> = layers
        .iter()
        .map(|it| it["layer"].as_str().unwrap())
        .collect();
    assert_eq!(names, EVERY_LAYER);
    assert!(layers.iter().all(|it| it["works"] == true), "{host}");
    assert_eq!(host["levels"][0]["gets"], json!(EVERY_LAYER));
    assert_eq!(host["levels"][1]["needs"], json!(["landlock", "seccomp"]));
    assert_eq!(host["levels"][2]["confined"], false);
    let text = home.run(&["plugin", "doctor"]).ok().stdout;
    assert!(text.contains("landlock   yes"), "{text}");
    let limits = host["limits"].as_array().unwrap();
    let keys: Vec<_> = limits
        .iter()
        .map(|it| it["limit"].as_str().unwrap())
        .collect();
    let all = [
        "max_memory_mb",
        "max_cpu_percent",
        "max_tasks",
        "max_open_files",
        "max_disk_mb",
    ];
    assert_eq!(keys, all);
    for limit in limits {
        let by = limit["by"].as_array().unwrap();
        // Where no control group does, it says why and what to change.
        let is_said = limit["reason"] != "" && limit["help"] != "";
        assert!(
            !by.is_empty() && (limit["reason"] == "" || is_said),
            "{limit}"
        );
    }
    assert!(text.contains("max_open_files   rlimit, monitor"), "{text}");

    let config = "[runtime.sandbox]\nlevel3 = \"confined\"\n";
    fs::write(home.root().join("config.toml"), config).unwrap();
    let host = home.run(&["plugin", "doctor", "--json"]).ok().json();
    assert_eq!(host["levels"][2]["gets"], json!(EVERY_LAYER));
}

#[test]
fn the_doctor_says_what_is_missing_and_what_to_change() {
    let home = Home::new();
    let host = without_namespaces(&home, &["plugin", "doctor", "--json"]);
    let host = host.with_code(1).json();
    let runs: Vec<_> = (0..3)
        .map(|it| host["levels"][it]["runs"].clone())
        .collect();
    assert_eq!(runs, [false, true, true]);
    let missing = &host["levels"][0]["missing"];
    assert_eq!(*missing, json!(["processes", "network", "root"]));
    assert!(
        host["layers"][2]["reason"]
            .as_str()
            .unwrap()
            .contains("failed")
    );
    let text = without_namespaces(&home, &["plugin", "doctor"]).with_code(1);
    assert!(text.stdout.contains("user.max_user_namespaces"), "{text:?}");
}

#[test]
fn a_host_that_cannot_confine_a_plugin_does_not_start_it() {
    let home = greeter_at("1");
    let pipeline = home.pipeline("greet");
    let run = ["run", "start", &pipeline, "--json"];
    let refused = without_namespaces(&home, &run).with_code(5).error();
    assert_eq!(refused["code"], "ORC-3196");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("trust level 1"), "{message}");
    assert!(message.contains("user and process namespaces"), "{message}");
    let help = refused["help"].as_str().unwrap();
    assert!(help.contains("user.max_user_namespaces"), "{help}");
    let info = ["plugin", "info", "greeter", "--json"];
    let info = without_namespaces(&home, &info).ok().json();
    assert_eq!(info["sandbox"]["state"], "refused");
    let records = sandbox_records(&home);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(
        (&records[0]["outcome"], &records[0]["code"]),
        (&json!("denied"), &json!("ORC-3196"))
    );

    // Level 2 needs less, and says what it does without.
    let trust = [
        "trust",
        "add",
        "release",
        "--replace",
        "--names",
        "*",
        "--level",
        "2",
    ];
    home.run(&trust).ok();
    without_namespaces(&home, &run).ok();
    let info = without_namespaces(&home, &["plugin", "info", "greeter"])
        .ok()
        .stdout;
    assert!(info.contains("confined by   landlock, seccomp\n"), "{info}");
    assert!(info.contains("without       root: "), "{info}");
}

#[test]
fn who_holds_a_plugin_to_its_grants_is_shown() {
    let home = greeter_at("1");
    let info = home.run(&["plugin", "info", "greeter"]).ok().stdout;
    let layers = EVERY_LAYER.join(", ");
    for line in [
        "granted       process:spawn=/usr/bin/cat (held by the kernel)\n".to_owned(),
        format!("confined by   {layers}\n"),
    ] {
        assert!(info.contains(&line), "{info}");
    }
    let info = home
        .run(&["plugin", "info", "greeter", "--json"])
        .ok()
        .json();
    assert_eq!(info["sandbox"]["state"], "confined");
    assert_eq!(info["sandbox"]["in_force"], json!(EVERY_LAYER));
    assert_eq!(info["enforced_by_kernel"], info["grants"]);
    let grants = home.run(&["plugin", "grants", "--json"]).ok().json();
    assert_eq!(
        grants[0]["held_by"],
        json!(
            STARTS
                .map(|it| (it, "kernel"))
                .into_iter()
                .collect::<BTreeMap<_, _>>()
        )
    );
    let table = home.run(&["plugin", "grants"]).ok().stdout;
    assert!(
        table.contains("HELD BY") && table.contains("kernel"),
        "{table}"
    );

    let trusted = greeter_at("3");
    let grants = trusted.run(&["plugin", "grants", "--json"]).ok().json();
    assert_eq!(
        grants[0]["held_by"],
        json!(
            STARTS
                .map(|it| (it, "nobody"))
                .into_iter()
                .collect::<BTreeMap<_, _>>()
        )
    );
    let info = trusted.run(&["plugin", "info", "greeter"]).ok().stdout;
    assert!(
        info.contains("confined by   nothing: it has the rights of"),
        "{info}"
    );
}

#[test]
fn every_start_says_in_the_audit_log_what_holds_it() {
    for (level, layers) in [("1", &EVERY_LAYER[..]), ("3", &[])] {
        let home = greeter_at(level);
        home.run(&["run", "start", &home.pipeline("greet")]).ok();
        let records = sandbox_records(&home);
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0]["plugin"], "greeter");
        assert_eq!(records[0]["outcome"], "ok");
        assert_eq!(records[0]["context"]["layers"], layers.join(" "));
    }
}

/// Processes that have `word` in their arguments.
fn with_argument(word: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|argument| argument == word.as_bytes())
    });
    found
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_killed_host_leaves_nothing_of_a_confined_plugin() {
    let home = Home::new();
    home.greeter("greeter");
    home.write("greeter/asset", "so that it has a tree");
    // A number of seconds that nobody else waits for.
    let seconds = format!("6{:07}", std::process::id());
    let sleeps = format!("(setsid sh -c 'sleep {seconds} & sleep {seconds}' &); sleep {seconds};");
    let [setsid, sleep] = ["setsid", "sleep"].map(|it| format!("process:spawn=/usr/bin/{it}"));
    let asks = ["process:spawn=/bin/sh", &setsid, &sleep];
    install(&home, "1", &asks, |script| {
        script.replace("sleep 20;", &sleeps)
    });

    let pipeline = home.pipeline("sleep");
    let host = home.command(&["run", "start", &pipeline]).spawn().unwrap();
    eventually("three that sleep", || with_argument(&seconds).len() >= 3);
    signal(host.id(), Signal::KILL);
    finish(host);
    eventually("the end of all of them", || {
        with_argument(&seconds).is_empty()
    });
    let run = home.root().join("run");
    let left = || fs::read_dir(&run).map_or(0, |entries| entries.count());
    eventually("the end of the tree", || left() == 0);
    let mounts = read("/proc/self/mounts");
    assert!(!mounts.contains(&run.display().to_string()), "{mounts}");
}
