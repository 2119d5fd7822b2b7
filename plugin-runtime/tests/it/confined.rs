//! What plugins of each trust level can do: what was granted, and nothing else.

use std::{fs, path::Path, time::Duration};

use orchestrator_contract::{CallError, PluginState};
use orchestrator_plugin_runtime::{Level3, PluginStatus, Sandbox, confinement_of_host};
use orchestrator_signing::{TrustLevel, TrustStore};
use serde_json::{Value, json};

use crate::{
    node_plugin,
    support::{File, Home, call, eventually, handle, output, shell_script, status},
};

const EVERY_LAYER: [&str; 5] = ["landlock", "seccomp", "processes", "network", "root"];

/// Tries what its input names, and says whether that worked.
const TRIES: &str = r#"run) read -r it; it=${it#?}; it=${it%?}
    if eval "$it" > /dev/null 2>&1; then echo true; else echo false; fi;;"#;

/// A shell plugin that does what it is told, with these capabilities asked for and granted.
fn trier(home: &Home, id: &str, capabilities: &[&str]) {
    let script = shell_script(id, &["run"], TRIES);
    let file = File {
        path: "main.sh",
        content: &script,
    };
    home.package(id, json!({ "capabilities": capabilities }), &[file]);
}

async fn tries(home: &Home, id: &str, attempts: &[(String, bool)]) -> PluginStatus {
    let runtime = home.start().await;
    for (attempt, works) in attempts {
        let done = output(&handle(&runtime, id), "run", json!(attempt)).await;
        assert_eq!(done, json!(works), "{attempt}");
    }
    status(&runtime, id)
}

/// What a plugin may read and write, and what lies beside it.
struct Scene {
    readable: String,
    writable: String,
    secret: String,
}

impl Scene {
    fn new(home: &Home) -> Self {
        let at = |name: &str| {
            let path = home.path(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), format!("{name}\n")).unwrap();
            path.display().to_string()
        };
        Self {
            readable: at("readable"),
            writable: at("writable"),
            secret: at("readable-not"),
        }
    }
}

#[tokio::test]
async fn a_plugin_does_what_was_granted_and_nothing_else_at_levels_one_and_two() {
    for level in [TrustLevel::Untrusted, TrustLevel::Partner] {
        let home = Home::trusting(level);
        let Scene {
            readable,
            writable,
            secret,
        } = Scene::new(&home);
        let grants = [
            format!("file:read={readable}"),
            format!("file:write={writable}"),
            "process:spawn=/usr/bin/cat".to_owned(),
        ];
        let asked: Vec<_> = grants.iter().map(String::as_str).collect();
        trier(&home, "trier", &asked);
        let attempts = [
            (
                format!("read x < {readable}/file; test $x = readable"),
                true,
            ),
            (format!("/usr/bin/cat {readable}/file"), true),
            (format!("echo x > {writable}/new"), true),
            (format!("echo x > {readable}/new"), false),
            (format!("read x < {secret}/file"), false),
            (
                format!("/usr/bin/cat {readable}/../readable-not/file"),
                false,
            ),
            ("/usr/bin/ls /".to_owned(), false),
            ("read x < /etc/passwd".to_owned(), false),
            (format!("kill -0 {}", std::process::id()), false),
            (
                format!("read x < /proc/{}/status", std::process::id()),
                false,
            ),
        ];
        let seen = tries(&home, "trier", &attempts).await;
        let sandbox = seen.sandbox.unwrap();
        assert_eq!(sandbox.state, Sandbox::Confined);
        assert_eq!(sandbox.in_force, EVERY_LAYER, "{:?}", sandbox.absent);
        let mut grants = grants.to_vec();
        grants.push("process:spawn=/bin/sh".to_owned());
        grants.sort();
        let mut held = seen.enforced_by_kernel;
        held.sort();
        assert_eq!((held, seen.not_enforced), (grants, Vec::new()));
        assert!(home.path("writable/new").exists());
    }
}

#[tokio::test]
async fn what_nobody_granted_is_not_there() {
    let home = Home::trusting(TrustLevel::Untrusted);
    trier(&home, "bare", &[]);
    let attempts = [
        ("read x < /proc/self/status", true),
        ("/bin/sh -c :", true),
        ("/usr/bin/cat /dev/null", false),
        ("echo x > /tmp/x", false),
        ("echo x > /var/tmp/x", false),
        ("cd /home || cd /root || cd /srv", false),
    ]
    .map(|(attempt, works)| (attempt.to_owned(), works));
    tries(&home, "bare", &attempts).await;
}

#[tokio::test]
async fn a_folder_that_may_be_spawned_from_is_every_program_in_it() {
    let home = Home::trusting(TrustLevel::Untrusted);
    trier(
        &home,
        "trier",
        &["process:spawn=/usr/bin", "file:read=/usr/sbin"],
    );
    let attempts = [
        ("/usr/bin/id", true),
        ("/usr/bin/env true", true),
        ("test -r /usr/sbin/chroot", true),
        ("/usr/sbin/chroot --version", false),
    ]
    .map(|(attempt, works)| (attempt.to_owned(), works));
    tries(&home, "trier", &attempts).await;
}

/// Assets have paths, which the private root must have too.
#[tokio::test]
async fn a_package_with_further_files_reads_them() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let branch = "run) read -r x < $ORCHESTRATOR_PLUGIN_DIR/data/word; echo \"\\\"$x\\\"\";;";
    let script = shell_script("assets", &["run"], branch);
    let files = [
        File {
            path: "main.sh",
            content: &script,
        },
        File {
            path: "data/word",
            content: "asset\n",
        },
    ];
    home.package("assets", json!({}), &files);
    let runtime = home.start().await;
    let word = output(&handle(&runtime, "assets"), "run", json!({})).await;
    assert_eq!(word, json!("asset"));
}

#[tokio::test]
async fn a_plugin_of_level_three_has_the_host_s_rights_unless_the_operator_confines_it() {
    let mut home = Home::new();
    let scene = Scene::new(&home);
    trier(&home, "trier", &[]);
    let reads = |works| [(format!("read x < {}/file", scene.secret), works)];
    let seen = tries(&home, "trier", &reads(true)).await;
    assert_eq!(seen.sandbox.unwrap().state, Sandbox::Unconfined);
    assert_eq!(seen.not_enforced, seen.grants);
    assert!(seen.enforced_by_kernel.is_empty());

    home.settings.sandbox.level3 = Level3::Confined;
    let seen = tries(&home, "trier", &reads(false)).await;
    assert_eq!(seen.sandbox.unwrap().in_force, EVERY_LAYER);
    assert_eq!(seen.enforced_by_kernel, seen.grants);
}

#[tokio::test]
async fn the_network_is_what_was_granted_of_it() {
    const PART: &str = "network:access=api.example.com:443";
    const WHOLE: &str = "network:access=*:*";
    for level in [
        TrustLevel::Untrusted,
        TrustLevel::Partner,
        TrustLevel::Internal,
    ] {
        let mut home = Home::trusting(level);
        home.settings.sandbox.level3 = Level3::Confined;
        for (id, capabilities) in [("none", &[][..]), ("part", &[PART]), ("whole", &[WHOLE])] {
            trier(&home, id, capabilities);
        }
        let seen = tries(&home, "none", &[("test -z $https_proxy".to_owned(), true)]).await;
        assert_eq!(seen.sandbox.unwrap().in_force, EVERY_LAYER);

        let finds_the_proxy = "test $https_proxy = http://127.0.0.1:3128".to_owned();
        let seen = tries(&home, "part", &[(finds_the_proxy, true)]).await;
        assert_eq!(seen.sandbox.unwrap().in_force, EVERY_LAYER);
        assert_eq!(
            (seen.enforced_by_kernel, seen.not_enforced),
            (seen.grants, Vec::new())
        );

        let seen = tries(&home, "whole", &[("test -z $https_proxy".to_owned(), true)]).await;
        let sandbox = seen.sandbox.unwrap();
        assert_eq!(
            sandbox.in_force,
            ["landlock", "seccomp", "processes", "root"]
        );
        assert_eq!(sandbox.absent[0].reason, "the network was granted");
    }
}

#[tokio::test]
async fn a_granted_path_that_is_not_there_is_told_when_the_plugin_is_loaded() {
    let home = Home::trusting(TrustLevel::Untrusted);
    for (id, path, code) in [
        ("gone", "/nowhere/at/all", "ORC-3198"),
        ("everything", "/", "ORC-3197"),
        ("others", "/proc/1", "ORC-3197"),
    ] {
        let capability = format!("file:read={path}");
        trier(&home, id, &[&capability]);
        let runtime = home.start().await;
        let problem = status(&runtime, id).error.unwrap();
        assert_eq!(problem.code, code, "{problem}");
        let stage = "confining a plugin of trust level 1: ";
        assert!(problem.message.starts_with(stage), "{problem}");
        assert!(problem.message.contains(path) && !problem.help.is_empty());
    }
}

#[tokio::test]
async fn of_the_host_s_environment_a_plugin_has_what_was_granted() {
    for level in [TrustLevel::Untrusted, TrustLevel::Internal] {
        let home = Home::trusting(level);
        trier(&home, "env", &["env:read=CARGO_MANIFEST_DIR"]);
        let own = env!("CARGO_MANIFEST_DIR");
        let attempts = [
            (format!("test $CARGO_MANIFEST_DIR = {own}"), true),
            ("test $CARGO_PKG_NAME".to_owned(), false),
        ];
        let seen = tries(&home, "env", &attempts).await;
        let is_enforced = seen.not_enforced.is_empty();
        assert_eq!(is_enforced, level == TrustLevel::Untrusted);
    }
}

fn node(home: &Home, id: &str) {
    let program = std::env::current_exe().unwrap();
    let spawn = format!("process:spawn={}", program.display());
    node_plugin::install(home, id, "good", json!({ "capabilities": [spawn] }));
}

#[tokio::test]
async fn a_confined_node_answers_is_restarted_and_leaves_nothing() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let id = home.id("node");
    node(&home, &id);
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    assert_eq!(output(&plugin, "echo", json!([1])).await, json!([1]));
    // As process 1 of its namespace.
    assert_eq!(output(&plugin, "pid", Value::Null).await, json!(1));
    let crash = call(&plugin, "crash", Value::Null).await.unwrap_err();
    assert!(matches!(crash, CallError::Crash { .. }), "{crash:?}");
    eventually("it is not started again", || {
        status(&runtime, &id).state == PluginState::Running && status(&runtime, &id).restarts == 1
    })
    .await;
    assert_eq!(output(&plugin, "echo", json!([2])).await, json!([2]));
    runtime.shutdown(Duration::from_secs(10)).await.unwrap();
    home.no_process_left(&id).await;
}

/// Of what is not confined the manifest alone bounds tasks.
#[tokio::test]
async fn a_fork_bomb_is_bounded_where_the_manifest_bounds_nothing() {
    for level in [TrustLevel::Untrusted, TrustLevel::Internal] {
        let mut home = Home::trusting(level);
        home.settings.sandbox.tasks_max = 8;
        home.settings.monitor.interval = Duration::from_millis(50);
        let id = home.id("bomb");
        let bomb = "n=0; while [ $n -lt 100 ]; do sleep 1 & n=$((n+1)); done; wait";
        let script = shell_script(&id, &["run"], &format!("run) {bomb}; echo 1;;"));
        let file = File {
            path: "main.sh",
            content: &script,
        };
        let manifest = json!({ "capabilities": ["process:spawn=/usr/bin/sleep"] });
        home.package(&id, manifest, &[file]);
        let runtime = home.start().await;
        let ended = call(&handle(&runtime, &id), "run", Value::Null).await;
        match level {
            TrustLevel::Internal => drop(ended.unwrap()),
            _ => {
                let error = ended.unwrap_err();
                let is_of_tasks = matches!(&error, CallError::ResourceLimit { resource, .. } if resource == "tasks");
                assert!(is_of_tasks, "{error:?}");
            }
        }
        home.no_process_left(&id).await;
    }
}

/// As process 1 of its namespace a program ignores signals that ask, unless it handles
/// them; what it started does not.
#[tokio::test]
async fn a_cancelled_call_is_asked_where_it_listens_and_ended_where_not() {
    let home = Home::trusting(TrustLevel::Untrusted);
    let writable = Scene::new(&home).writable;
    let id = home.id("cancelled");
    // Whoever has its input is known to the call: one that is given up before is killed.
    let branches = format!(
        "deaf) echo 0 > {writable}/deaf; sleep 60; echo 1 > {writable}/after;;\n\
         listens) read -r input; trap 'echo 1 > {writable}/heard; exit' TERM\n\
         sleep 60 & echo 0 > {writable}/listens; wait;;"
    );
    let script = shell_script(&id, &["deaf", "listens"], &branches);
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let manifest = json!({
        "phases": [{ "name": "deaf" }, { "name": "listens" }],
        "capabilities": [format!("file:write={writable}"), "process:spawn=/usr/bin/sleep"],
    });
    home.package(&id, manifest, &[file]);
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for phase in ["deaf", "listens"] {
        let called = call(&plugin, phase, Value::Null);
        let begun = eventually(phase, || home.path("writable").join(phase).exists());
        tokio::select! {
            ended = called => panic!("{ended:?}"),
            () = begun => {}
        }
        home.no_process_left(&id).await;
    }
    assert!(home.path("writable/heard").exists());
    assert!(!home.path("writable/after").exists(), "it went on");
}

fn trust_at(home: &Home, level: TrustLevel) {
    let mut trust = TrustStore::open(&home.path("trust")).unwrap();
    let edited = trust.edit(|next| {
        let mut terms = next.delegations()[0].clone();
        terms.trust_level = level;
        next.replace(terms)
    });
    edited.unwrap();
}

/// More confinement than a process has it cannot get; one that has enough goes on.
#[tokio::test]
async fn less_trust_leaves_what_is_confined_enough() {
    let home = Home::trusting(TrustLevel::Partner);
    trier(&home, "trier", &[]);
    let runtime = home.start().await;
    let plugin = handle(&runtime, "trier");
    let works = || output(&plugin, "run", json!("true"));
    assert_eq!(works().await, json!(true));
    trust_at(&home, TrustLevel::Untrusted);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(works().await, json!(true));
}

#[tokio::test]
async fn this_host_can_run_every_level() {
    let settings = Home::new().settings.sandbox;
    let host = tokio::task::spawn_blocking(move || confinement_of_host(&settings));
    let host = host.await.unwrap();
    assert!(host.layers.iter().all(|layer| layer.works), "{host:?}");
    assert!(host.levels.iter().all(|level| level.runs), "{host:?}");
    assert!(Path::new("/proc/self/ns/user").exists());
}
