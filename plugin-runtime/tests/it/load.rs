//! What is loaded and what is refused, each with its reason.

use std::{fs, time::Duration};

use miette::Diagnostic as _;
use orchestrator_contract::PluginState;
use orchestrator_plugin_runtime::{ResolveError, Runtime};
use orchestrator_signing::{KeyStatus, NextRoot, TrustStore};
use semver::Version;
use serde_json::json;

use crate::support::{File, Home, call, handle, output, shell_script, status};

const SCRIPT: File<'_> = File {
    path: "main.sh",
    content: "echo 1",
};

fn code_of(runtime: &Runtime, id: &str) -> (PluginState, String, String) {
    let seen = status(runtime, id);
    let problem = seen.error.unwrap();
    let refused = runtime.resolve(id, &"*".parse().unwrap()).unwrap_err();
    assert_eq!(
        refused.code().unwrap().to_string(),
        problem.code,
        "resolving says why"
    );
    (seen.state, problem.code, problem.message)
}

/// Packages that fail at one step each.
fn broken_packages(home: &Home) {
    let schema = json!({ "type": "object", "required": ["url"] });
    for (id, manifest) in [
        ("new", json!({ "min_host_version": "9.0.0" })),
        ("feature", json!({ "required_features": ["telepathy"] })),
        ("lonely", json!({ "dependencies": { "nobody": "^1" } })),
        ("range", json!({ "dependencies": { "good": "^2" } })),
        ("ring-a", json!({ "dependencies": { "ring-b": "*" } })),
        ("ring-b", json!({ "dependencies": { "ring-a": "*" } })),
        ("wasm", json!({ "kind": "wasm", "interpreter": null })),
        ("disk", json!({ "resources": { "max_disk_mb": 5 } })),
        (
            "no-interpreter",
            json!({ "interpreter": "/nonexistent/sh" }),
        ),
        ("config", json!({ "config_schema": schema })),
        (
            "needs-tampered",
            json!({ "dependencies": { "tampered": "*" } }),
        ),
    ] {
        home.package(id, manifest, &[SCRIPT]);
    }
    let tampered = home.package("tampered", json!({}), &[SCRIPT]);
    fs::write(tampered.join("main.sh"), "echo 2").unwrap();
    let ungranted = home.unsigned_package("ungranted", json!({}), &[SCRIPT]);
    home.sign(&ungranted);
    home.unsigned_package("unsigned", json!({}), &[SCRIPT]);
}

#[rustfmt::skip]
const REFUSALS: [(&str, &str, &str); 12] = [
    ("new", "ORC-3010", "version incompatible: it needs Orchestrator 9.0.0 or later, this is 1.2.3"),
    ("feature", "ORC-3015", "version incompatible: it needs the feature `telepathy`"),
    ("lonely", "ORC-3011", "dependency check failed: it depends on nobody"),
    ("range", "ORC-3012", "dependency check failed: it depends on good ^2, and there is 1.0.0"),
    ("ring-a", "ORC-3013", "dependency check failed: dependency cycle detected: ring-a -> ring-b -> ring-a"),
    ("ring-b", "ORC-3013", "dependency check failed: dependency cycle detected: ring-b -> ring-a -> ring-b"),
    ("wasm", "ORC-3016", "loading implementation: this build does not run kind wasm"),
    ("disk", "ORC-3019", "applying resource limits: `max_disk_mb` = 5"),
    ("config", "ORC-3021", "its configuration does not fit its schema"),
    ("unsigned", "ORC-2040", "no signature found"),
    ("ungranted", "ORC-2120", "process:spawn=/bin/sh"),
    ("needs-tampered", "ORC-3014", "dependency check failed: it depends on tampered, which is not usable"),
];

#[tokio::test]
async fn every_step_of_loading_can_refuse_and_the_others_go_on() {
    let home = Home::new();
    home.shell("good", &["run"], "run) echo 1;;");
    broken_packages(&home);
    let runtime = home.start().await;
    for (id, code, message) in REFUSALS {
        let (state, seen, text) = code_of(&runtime, id);
        assert_eq!((state, &*seen), (PluginState::Error, code), "{id}: {text}");
        assert!(text.contains(message), "{id}: {text}");
        assert!(
            !status(&runtime, id).error.unwrap().help.is_empty(),
            "{id} has no help"
        );
    }
    let (_, tampered, text) = code_of(&runtime, "tampered");
    assert!(tampered.starts_with("ORC-20"), "{tampered}");
    let location = status(&runtime, "tampered").location.unwrap();
    let place = format!(" (plugin tampered 1.0.0 in {})", location.display());
    assert!(text.starts_with("`main.sh` "), "{text}");
    assert!(text.ends_with(&place), "{text}");
    let (_, _, interpreter) = code_of(&runtime, "no-interpreter");
    assert!(
        interpreter.starts_with("loading implementation: "),
        "{interpreter}"
    );
    assert_eq!(
        output(&handle(&runtime, "good"), "run", json!({})).await,
        json!(1)
    );
    let good = status(&runtime, "good");
    assert_eq!((good.trust_level, good.unsigned), (Some(3), false));
    assert_eq!(good.grants, ["process:spawn=/bin/sh"]);
    assert_eq!(good.not_enforced, ["process:spawn=/bin/sh"]);
    let states: Vec<_> = good.history.iter().map(|change| change.state).collect();
    use PluginState::{Discovered, Initialized, Loaded, Running, Starting, Verified};
    assert_eq!(
        states,
        [Discovered, Verified, Loaded, Initialized, Starting, Running]
    );
}

#[tokio::test]
async fn unsigned_packages_run_only_below_the_listed_directories_and_are_marked() {
    let mut home = Home::new();
    let script = shell_script("draft", &["run"], "run) echo 1;;");
    let file = File {
        path: "draft.sh",
        content: &script,
    };
    // Without interpreter: the script is executable and says itself what runs it.
    home.unsigned_package(
        "draft",
        json!({ "interpreter": null, "entry_point": "draft.sh" }),
        &[file],
    );
    assert_eq!(code_of(&home.start().await, "draft").1, "ORC-2040");
    home.settings.unsigned_paths = vec![home.path("plugins")];
    let runtime = home.start().await;
    let seen = status(&runtime, "draft");
    assert!(seen.unsigned);
    assert_eq!((seen.state, seen.key_id), (PluginState::Loaded, None));
}

#[tokio::test]
async fn versions_live_side_by_side_and_the_highest_match_decides() {
    let home = Home::new();
    for version in ["1.0.0", "1.5.0", "2.0.0", "3.0.0-beta.1"] {
        let script = shell_script(
            "multi",
            &["run"],
            "run) echo \"\\\"$ORCHESTRATOR_VERSION\\\"\";;",
        )
        .replace("1.0.0", version);
        let file = File {
            path: "main.sh",
            content: &script,
        };
        home.package("multi", json!({ "version": version }), &[file]);
    }
    fs::write(home.path("plugins/multi/2.0.0/main.sh"), "echo evil").unwrap();
    let runtime = home.start().await;
    let resolve = |range: &str| runtime.resolve("multi", &range.parse().unwrap());
    let version = |range: &str| resolve(range).unwrap().version().to_string();
    assert_eq!(version("^1.0"), "1.5.0");
    assert_eq!(version("=1.0.0"), "1.0.0");
    assert_eq!(version(">=3.0.0-beta"), "3.0.0-beta.1");
    let answer = output(&resolve("~1.5").unwrap(), "run", json!({})).await;
    assert_eq!(answer, json!("1.5.0"));
    // A broken release does not bring an older one back.
    assert!(matches!(resolve("*"), Err(ResolveError::Unusable(_))));
    let none = resolve("^7").unwrap_err();
    assert_eq!(
        none.to_string(),
        "no version of plugin multi matches ^7; there is 1.0.0, 1.5.0, 2.0.0, 3.0.0-beta.1"
    );
}

/// Whoever can write `./plugins` of some directory could otherwise stop every
/// pipeline that is run there.
#[tokio::test]
async fn a_development_copy_that_is_not_verified_leaves_an_installed_plugin_usable() {
    let mut home = Home::new();
    let newer = json!({ "version": "9.0.0" });
    let lower = home.unsigned_package("tool", json!({ "version": "0.1.0" }), &[SCRIPT]);
    let claimed = home.unsigned_package("tool", newer.clone(), &[SCRIPT]);
    let good = home.package("older", newer, &[SCRIPT]);
    home.development = Some(home.path("here"));
    for (package, name) in [
        (claimed, "here/tool"),
        (lower, "here/lower"),
        (good, "here/older"),
    ] {
        fs::create_dir_all(home.path("here")).unwrap();
        fs::rename(package, home.path(name)).unwrap();
    }
    home.shell("tool", &["run"], "run) echo 1;;");
    home.shell("older", &["run"], "run) echo 1;;");
    let runtime = home.start().await;
    let resolve = |id: &str, range: &str| runtime.resolve(id, &range.parse().unwrap());
    assert_eq!(
        output(&handle(&runtime, "tool"), "run", json!({})).await,
        json!(1)
    );
    runtime.disable("tool").unwrap();
    runtime.enable("tool").unwrap();
    assert!(handle(&runtime, "tool").is_available());
    let claimed = resolve("tool", "^9").unwrap_err();
    assert_eq!(claimed.code().unwrap().to_string(), "ORC-2040");
    // A verified one is taken when it is asked for, not because it is newer.
    assert_eq!(
        resolve("older", "*").unwrap().version().to_string(),
        "1.0.0"
    );
    assert_eq!(
        resolve("older", "^9").unwrap().version().to_string(),
        "9.0.0"
    );

    let installed = home.path("plugins/older/1.0.0/main.sh");
    let mut program = fs::read(&installed).unwrap();
    program[0] ^= 1;
    fs::write(installed, program).unwrap();
    let runtime = home.start().await;
    let tampered = runtime.resolve("older", &"*".parse().unwrap()).unwrap_err();
    assert_eq!(tampered.code().unwrap().to_string(), "ORC-2055");
}

#[tokio::test]
async fn an_unknown_name_proposes_the_nearest_and_an_unreadable_manifest_is_no_unknown_name() {
    let home = Home::new();
    home.shell("git-history", &["run"], "run) echo 1;;");
    let broken = home.package("broken", json!({}), &[SCRIPT]);
    fs::write(broken.join("plugin.json"), "{ \"id\": 7 }").unwrap();
    let runtime = home.start().await;
    let any = "*".parse().unwrap();
    let unknown = runtime.resolve("git-histori", &any).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "no plugin is called `git-histori`; did you mean `git-history`?"
    );
    assert_eq!(unknown.code().unwrap().to_string(), "ORC-3050");
    let far = runtime.resolve("zzz", &any).unwrap_err();
    assert_eq!(far.to_string(), "no plugin is called `zzz`");
    let broken = runtime.resolve("broken", &any).unwrap_err();
    assert_eq!(broken.code().unwrap().to_string(), "ORC-1000");
    assert_eq!(runtime.faults().len(), 1);
}

#[tokio::test]
async fn a_copy_that_comes_later_is_shown_as_shadowed() {
    let home = Home::new();
    let first = home.shell("twin", &["run"], "run) echo 1;;");
    let copy = home.path("plugins/z-twin");
    fs::create_dir_all(&copy).unwrap();
    for name in ["plugin.json", "main.sh"] {
        fs::copy(first.join(name), copy.join(name)).unwrap();
    }
    let runtime = home.start().await;
    let seen = status(&runtime, "twin");
    assert_eq!((seen.location, seen.shadowed), (Some(first), vec![copy]));
}

#[tokio::test]
async fn a_damaged_trust_store_loads_nothing() {
    let home = Home::new();
    fs::write(home.path("trust/root.json"), "{}").unwrap();
    let error = home.start_with(Vec::new()).await.unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), "ORC-3001");
    let home = Home::new();
    fs::write(home.path("grants.toml"), "nonsense").unwrap();
    let error = home.start_with(Vec::new()).await.unwrap_err();
    assert_eq!(error.code().unwrap().to_string(), "ORC-3002");
}

/// What was verified runs, not what lies on disk by then.
#[tokio::test]
async fn a_program_that_is_changed_after_loading_does_not_run() {
    let home = Home::new();
    let dir = home.shell("swap", &["run"], "run) echo '\"verified\"';;");
    let runtime = home.start().await;
    fs::write(dir.join("main.sh"), "echo '\"evil\"'").unwrap();
    let answer = call(&handle(&runtime, "swap"), "run", json!({}))
        .await
        .unwrap();
    assert_eq!(answer.output.bytes, "\"verified\"\n");
    runtime.shutdown(Duration::from_secs(1)).await.unwrap();
}

/// Installed or not: what a host has loaded, it has had.
#[tokio::test]
async fn what_was_loaded_from_any_folder_outlives_its_key_and_makes_older_a_step_back() {
    let home = Home::new();
    let dir = home.shell("tool", &["run"], "run) echo 1;;");
    home.sign_as_release(&dir, 7);
    drop(home.start().await);
    let mut trust = TrustStore::open(&home.path("trust")).unwrap();
    trust
        .edit(|next| next.set_status("tests", KeyStatus::Retired, None))
        .unwrap();
    let runtime = home.start().await;
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    drop(runtime);

    // An old release, where it is found first.
    trust
        .edit(|next| next.set_status("tests", KeyStatus::Active, None))
        .unwrap();
    let file = File {
        path: "main.sh",
        content: &shell_script("tool", &["run"], "run) echo 2;;"),
    };
    let old = home.package("tool", json!({ "version": "0.9.0" }), &[file]);
    home.sign_as_release(&old, 6);
    let runtime = home.start().await;
    let refused = runtime
        .plugins()
        .into_iter()
        .find(|it| it.version == Version::new(0, 9, 0));
    let problem = refused.unwrap().error.unwrap();
    assert_eq!(problem.code, "ORC-2101", "{problem}");
    output(&handle(&runtime, "tool"), "run", json!({})).await;
}

/// What is had goes on; what is new comes as it could be installed, or not at all.
#[tokio::test]
async fn an_expired_root_and_a_number_twice_let_nothing_new_in() {
    let home = Home::new();
    let dir = home.shell("tool", &["run"], "run) echo 1;;");
    home.sign_as_release(&dir, 7);
    let script = shell_script("tool", &["run"], "run) echo 2;;");
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let next = home.package("tool", json!({ "version": "9.0.0" }), &[file]);
    home.sign_as_release(&next, 7);
    let code_of = |runtime: &Runtime, version: &Version| {
        let mut all = runtime.plugins().into_iter();
        let found = all.find(|it| it.id == "tool" && it.version == *version);
        found.unwrap().error.map(|problem| problem.code)
    };
    let version = Version::new(9, 0, 0);
    let runtime = home.start().await;
    let refused = runtime.plugins().into_iter().filter_map(|it| it.error);
    let codes: Vec<_> = refused.map(|problem| problem.code).collect();
    assert_eq!(codes, ["ORC-2159"], "one of the two that came together");
    drop(runtime);

    home.sign_as_release(&next, 8);
    let expire = |end: Option<&str>| {
        let mut trust = TrustStore::open(&home.path("trust")).unwrap();
        let set = |next: &mut NextRoot| {
            next.set_expires(end.map(|it| it.parse().unwrap()));
            Ok(())
        };
        trust.edit(set).unwrap();
    };
    expire(Some("2020-01-01T00:00:00Z"));
    let runtime = home.start().await;
    assert_eq!(code_of(&runtime, &version).as_deref(), Some("ORC-2094"));
    output(&handle(&runtime, "tool"), "run", json!({})).await;
    drop(runtime);

    expire(None);
    let runtime = home.start().await;
    assert_eq!(code_of(&runtime, &version), None);
}

#[tokio::test]
async fn an_older_release_that_is_found_before_a_newer_one_is_told_of() {
    let mut home = Home::new();
    let script = shell_script("tool", &["run"], "run) echo 2;;");
    let file = || File {
        path: "main.sh",
        content: &script,
    };
    let old = home.package("tool", json!({ "version": "0.9.0" }), &[file()]);
    home.sign_as_release(&old, 6);
    let new = home.package("tool", json!({}), &[file()]);
    home.sign_as_release(&new, 7);
    let warned = |runtime: &Runtime| {
        let plugins = runtime.plugins().into_iter();
        let warned = plugins.filter(|it| it.warnings.join("").contains("older than release 7"));
        warned.map(|it| it.version.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(warned(&home.start().await), [] as [&str; 0], "side by side");
    home.development = Some(home.path("later"));
    fs::rename(home.path("plugins/tool/1.0.0"), home.path("later")).unwrap();
    assert_eq!(warned(&home.start().await), ["0.9.0"]);
}
