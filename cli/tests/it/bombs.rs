//! Signed plugins that take all they get, run by the command itself: as the user of the
//! tests, and where that is root as an ordinary user too, who may make control groups or
//! not. Each run ends in bounded time for the reason that is documented, the next one works,
//! and nothing is left.

mod pen;
mod range;

use std::{fs, path::PathBuf};

use orchestrator_testkit::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};

use self::range::{Bomber, Ground, Range, pipeline};
use crate::{
    harness::{PATIENCE, eventually, finish},
    serve::Service,
    users::{User, users},
};

const OF_THE_TESTS: Ground = Ground {
    user: User::OfTheTests,
    has_groups: false,
    has_namespaces: true,
};
const ORDINARY: Ground = Ground {
    user: User::Ordinary,
    has_groups: false,
    has_namespaces: true,
};
const WITH_GROUPS: Ground = Ground {
    user: User::Ordinary,
    has_groups: true,
    has_namespaces: true,
};

/// Each of these as both users who may run a host.
macro_rules! as_both_users {
    ($($name:ident)*) => { $(mod $name {
        #[test]
        fn as_the_user_of_the_tests() {
            super::on(super::OF_THE_TESTS, super::$name);
        }

        #[test]
        fn as_an_ordinary_user() {
            super::on(super::ORDINARY, super::$name);
        }
    })* };
}

as_both_users! { forks threads memory files descriptors floods processor sessions services without_namespaces }

/// Each of these as an ordinary user who may make control groups: what they hold.
macro_rules! with_control_groups {
    ($($name:ident)*) => { mod with_control_groups { $(
        #[test]
        fn $name() {
            super::on(super::WITH_GROUPS, super::$name);
        }
    )* } };
}

with_control_groups! { forks threads memory descriptors }

fn on(ground: Ground, test: fn(Ground)) {
    if users().contains(&ground.user) {
        test(ground);
    }
}

/// Lets a program make processes.
const SPAWNS: &[&str] = &["process:spawn=/usr/bin/true"];

const EXEC: Bomber = Bomber {
    kind: "exec",
    level: "1",
    resources: "",
    asks: &[],
    timeout: "40s",
};
const NODE: Bomber = Bomber {
    kind: "node",
    ..EXEC
};
const PARTNER: Bomber = Bomber { level: "2", ..EXEC };

fn forks(ground: Ground) {
    for bomber in [EXEC.with("max_tasks: 10"), NODE, PARTNER] {
        let range = Range::new(ground, bomber.asking(SPAWNS));
        let end = range.explode("forks", &[]);
        end.is_for("resource_limit", "tasks");
    }
    let range = Range::new(ground, EXEC);
    assert_eq!(range.explode("forks", &[]).answer.unwrap(), "refused");
}

fn threads(ground: Ground) {
    for bomber in [EXEC, NODE.with("max_tasks: 10")] {
        let range = Range::new(ground, bomber);
        let end = range.explode("threads", &[]);
        end.is_for("resource_limit", "tasks");
    }
}

/// Whether a control group holds the plugin to its memory.
fn is_grouped(range: &Range) -> bool {
    let info = ["plugin", "info", "bomber", "--json"];
    let mut command = range.fenced(&info);
    let info = finish(command.spawn().unwrap()).ok().json();
    let by = info["limits_held"][0]["by"][0].as_str();
    by.unwrap().starts_with("cgroup")
}

fn memory(ground: Ground) {
    let limit = "max_memory_mb: 64";
    let every = ["memory", "shared-memory", "memory-files"];
    for (bomber, bombs) in [
        (EXEC.with(limit), &every[..]),
        (NODE.with(limit), &every[..1]),
        (PARTNER.with(limit), &every[..1]),
        (EXEC, &every[..1]),
    ] {
        let range = Range::new(ground, bomber);
        let by_kernel = is_grouped(&range);
        for bomb in bombs {
            let end = range.explode(bomb, &[]);
            // Where no group counts them, none is made.
            if *bomb == "memory-files" && !by_kernel {
                assert_eq!(end.answer.unwrap(), "refused");
                continue;
            }
            end.is_for("resource_limit", "memory");
            let has_code = end.step["error"].to_string().contains("ORC-3064");
            assert_eq!(has_code, by_kernel, "{bomb}: {end:?}");
        }
    }
}

fn files(ground: Ground) {
    for bomber in [EXEC, NODE, PARTNER] {
        let range = Range::new(ground, bomber.with("max_disk_mb: 16"));
        let end = range.explode("files", &[]);
        let kib = end.number();
        assert!((15_000..=16_384).contains(&kib), "{kib}: {end:?}");
        let shown = range.command(&["audit", "show", "--json"]).stdout;
        let mut records = shown.lines().map(serde_json::from_str::<Value>);
        let told = records.any(|record| {
            let record = record.unwrap();
            (&record["rule"], &record["resource"]) == (&"limit".into(), &"disk".into())
                && record["action"] == "throttle"
        });
        assert!(told, "{shown}");
    }
    // Without room of its own, there is none.
    let range = Range::new(ground, EXEC);
    assert_eq!(range.explode("files", &[]).number(), 0);
}

fn descriptors(ground: Ground) {
    let few = "max_open_files: 64";
    for (bomber, most) in [
        (EXEC, 1024),
        (EXEC.with(few).asking(SPAWNS), 64),
        (NODE.with(few).asking(SPAWNS), 64),
        (PARTNER, 1024),
    ] {
        let range = Range::new(ground, bomber);
        let got = range.explode("descriptors", &[]).number();
        assert!(got > 40 && got < most, "{got}");
        if !bomber.asks.is_empty() {
            let end = range.explode("descriptors-of-many", &[]);
            end.is_for("resource_limit", "files");
        }
    }
}

fn floods(ground: Ground) {
    for bomber in [EXEC, NODE, PARTNER] {
        let range = Range::new(ground, bomber);
        for (bomb, mebibytes, noted) in [("line", 256, "…"), ("lines", 32, "suppressed")] {
            let end = range.explode(bomb, &[]);
            assert_eq!(end.number(), mebibytes, "{end:?}");
            let log = &end.done.stderr;
            assert!(log.len() < 4 << 20, "{bomb}: {} bytes", log.len());
            assert!(log.contains(noted), "{bomb}: {log}");
            assert!(!log.contains('\u{1b}'), "{bomb}: {log}");
        }
        if bomber.kind == "exec" {
            let end = range.explode("output", &[]);
            end.is_for("resource_limit", "output");
        }
    }
}

fn processor(ground: Ground) {
    let often = ["--set", "runtime.monitor.cpu_seconds_over=2"];
    for bomber in [EXEC, NODE] {
        let range = Range::new(ground, bomber.with("max_cpu_percent: 20"));
        let end = range.explode("burn", &often);
        end.is_for("resource_limit", "cpu");
    }
    // Without a limit it may, as long as the phase may take.
    for bomber in [EXEC, NODE, PARTNER] {
        let range = Range::new(ground, bomber.within("2s"));
        let end = range.explode("burn-deaf", &[]);
        end.is_for("timeout", "timeout");
        assert_eq!(end.done.code, 8, "{end:?}");
    }
}

/// Level 2 where a host has the two filters and nothing else: its tree is found and ended
/// all the same, and it has no room for files that would have an end.
fn without_namespaces(ground: Ground) {
    let has_namespaces = false;
    let ground = Ground {
        has_namespaces,
        ..ground
    };
    let limits = "max_tasks: 10, max_memory_mb: 64";
    for kind in ["exec", "node"] {
        let bomber = Bomber { kind, ..PARTNER };
        let range = Range::new(ground, bomber.with(limits).asking(SPAWNS));
        // Only the monitor counts tasks, and open files may be too many by then too.
        for (bomb, resource) in [("forks", "used"), ("memory", "memory")] {
            range.explode(bomb, &[]).is_for("resource_limit", resource);
        }
    }
    let range = Range::new(ground, PARTNER.with("max_disk_mb: 16"));
    let end = range.run("bomber", "files", &[]);
    assert!(end.done.stderr.contains("ORC-3019"), "{end:?}");
    range.is_clean("files");
}

/// What a plugin may keep with the host has an end.
fn sessions(ground: Ground) {
    let range = Range::new(ground, NODE);
    let keys = range.explode("session", &[]).number();
    assert!((16..=32).contains(&keys), "{keys} keys of 32 KiB");
}

/// What the service is asked for, and how that ends.
const SERVED: [(&str, &str, &str); 5] = [
    ("forks", "failed", "resource_limit"),
    ("memory", "failed", "resource_limit"),
    ("lines", "success", ""),
    ("descriptors-of-many", "failed", "resource_limit"),
    ("burn-deaf", "cancelled", ""),
];

/// A host that goes on has as much as before.
fn services(ground: Ground) {
    for bomber in [EXEC, NODE] {
        let limits = "max_tasks: 10, max_memory_mb: 64, max_open_files: 64";
        let range = Range::new(ground, bomber.with(limits).asking(SPAWNS));
        let name = |plugin: &str, phase: &str| format!("{plugin}-{phase}");
        let bombs = SERVED.map(|(bomb, ..)| ("bomber", bomb));
        fs::create_dir_all(range.home.root().join("pipelines")).unwrap();
        let good = ["behaved", "bomber"].map(|it| (it, "good"));
        for (plugin, phase) in bombs.into_iter().chain(good) {
            let file = format!("pipelines/{}.yaml", name(plugin, phase));
            let text = pipeline(plugin, phase);
            fs::write(range.home.root().join(file), text).unwrap();
        }
        let mut serve = vec!["serve", "--listen", "127.0.0.1:0", "--json"];
        serve.extend(["--set", "runtime.restart.first=100ms"]);
        let service = Service::of(&range.home, range.fenced(&serve).spawn().unwrap());
        let succeeds = |name: &str| served(&service, name)["outcome"] == "success";
        let is_well = |name: &str, after: &str| assert!(succeeds(name), "after {after}");
        is_well("behaved-good", "the start");
        is_well("bomber-good", "the start");
        let open = || descriptors_of(service.pid());
        let before = open();
        for (bomb, outcome, kind) in SERVED {
            let end = served(&service, &name("bomber", bomb));
            assert_eq!(end["outcome"], outcome, "{bomb}: {end}");
            let seen = end["error"]["kind"].as_str().unwrap_or_default();
            assert_eq!(seen, kind, "{bomb}: {end}");
            is_well("behaved-good", bomb);
            // A node is started again, which takes a moment.
            eventually("the next start", || succeeds("bomber-good"));
        }
        let kib = service.resident_kb();
        assert!(kib < 300 << 10, "{kib} KiB");
        let mut more = Vec::new();
        wait_until(PATIENCE / 4, || {
            more = open();
            more.retain(|it| !before.contains(it));
            open().len() <= before.len() + 2
        });
        assert!(open().len() <= before.len() + 2, "{more:?}");
        service.signal(Signal::TERM);
        service.wait().ok();
        range.is_clean("the service");
    }
}

/// What the process has open.
fn descriptors_of(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = entries.filter_map(|it| fs::read_link(it.path()).ok());
    links.collect()
}

/// How a run of this pipeline ends, which is cancelled where it would not end by itself.
fn served(service: &Service, pipeline: &str) -> Value {
    let body = json!({ "pipeline": pipeline });
    let started = service.api("POST", "/api/v1/runs", Some(&body)).json();
    let url = started["url"]
        .as_str()
        .unwrap_or_else(|| panic!("{started}"));
    let run = || service.api("GET", url, None).json();
    if pipeline.contains("burn") {
        let runs = || run()["steps"][0]["attempts"] == 1;
        eventually("it burns", runs);
        let cancel = format!("{url}/cancel");
        service.api("POST", &cancel, None);
    }
    eventually(pipeline, || !run()["outcome"].is_null());
    run()
}
