//! `plugin reload` while the service has work.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use orchestrator_testkit::{Kind, TestHome, TestPlugin, scripted_plugin};
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually},
    serve::Service,
};

const RELOADS: usize = 5;
const CLIENTS: usize = 4;

const PIPELINE: &str = "\
version: 1
name: tally
steps:
  - { id: tally, plugin: tally, phase: tally }
outputs:
  tally.json: { from: \"${{ steps.tally.output }}\", primary: true }
";

fn install(home: &Home, version: &str, program: &Path) {
    let phases = json!([{ "name": "tally" }]);
    let plugin = TestPlugin::program("tally", Kind::Node, program, phases);
    TestHome::at(home.root()).install(&plugin.with("version", json!(version)));
}

/// The count of a run of its own, over everything.
fn tally(home: &Home, service: &Service) -> u64 {
    let body = json!({ "pipeline": "tally" });
    let answer = service.api("POST", "/api/v1/runs", Some(&body));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    home.run(&["run", "watch", &id]).ok();
    let output = service.api(
        "GET",
        &format!("/api/v1/runs/{id}/outputs/tally.json"),
        None,
    );
    output.json()["n"].as_u64().unwrap()
}

/// Reloads the plugin again and again while runs are started; how many those were.
fn reload_under_load(home: &Home, service: &Service) -> u64 {
    let (begun, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let body = json!({ "pipeline": "tally" });
                while !over.load(Ordering::Relaxed) {
                    let answer = service.api("POST", "/api/v1/runs", Some(&body));
                    match answer.status {
                        202 => begun.fetch_add(1, Ordering::Relaxed),
                        // There are many in flight.
                        503 => continue,
                        status => panic!("{status}: {}", answer.json()),
                    };
                }
            });
        }
        for n in 1..=RELOADS {
            let before = begun.load(Ordering::Relaxed);
            eventually("runs go on", || begun.load(Ordering::Relaxed) > before + 20);
            let version = format!("1.0.{n}");
            install(home, &version, &scripted_plugin());
            let done = home.run(&["plugin", "reload", "tally", "--json"]).ok();
            let done = &done.json()["services"][0]["reloaded"];
            assert_eq!(done["version"], version);
            assert_eq!(done["state"]["kept"], true, "{done}");
        }
        over.store(true, Ordering::Relaxed);
    });
    begun.into_inner()
}

/// What metrics and audit log say of it.
fn told(home: &Home, service: &Service) {
    let metrics = String::from_utf8(service.get("/metrics").body).unwrap();
    let counted = |outcome: &str, count: usize| {
        let line = format!(
            "orchestrator_plugin_reloads_total{{plugin=\"tally\",outcome=\"{outcome}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line}");
    };
    counted("switched", RELOADS);
    counted("failed", 1);
    let of_reload: Vec<Value> = home
        .audited(&[])
        .into_iter()
        .filter(|record| record["action"] == "plugin reload")
        .collect();
    let count = |outcome: &str| {
        of_reload
            .iter()
            .filter(|it| it["outcome"] == outcome)
            .count()
    };
    assert!(
        count("ok") >= RELOADS && count("failed") >= 1,
        "{of_reload:?}"
    );
}

#[test]
fn a_release_takes_over_under_load_and_one_that_cannot_start_does_not() {
    let home = Home::new();
    install(&home, "1.0.0", &scripted_plugin());
    let pipelines = home.root().join("pipelines");
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("tally.yaml"), PIPELINE).unwrap();
    let alone = home.run(&["plugin", "reload", "tally", "--json"]);
    assert_ne!(alone.code, 0, "no service runs");
    // As long as it takes on a machine with other work.
    let patient = ["runtime.reload.settle=20s", "runtime.reload.hold_max=25s"];
    let service = Service::start(&home, &["--set", patient[0], "--set", patient[1]]);

    let runs = reload_under_load(&home, &service);
    let of = |status: &str| {
        let listed = home.run(&["run", "list", "--status", status, "--json"]);
        listed.ok().json().as_array().unwrap().len()
    };
    eventually("every run has ended", || of("running") == 0);
    assert_eq!(of("failed"), 0);
    assert_eq!(tally(&home, &service), runs + 1);

    install(&home, "1.1.0", Path::new("/bin/false"));
    let refused = home.run(&["plugin", "reload", "tally", "--json"]);
    assert_eq!(refused.with_code(1).error()["code"], "ORC-3054");
    assert_eq!(tally(&home, &service), runs + 2);

    told(&home, &service);

    // Going back is a reload too.
    home.run(&["plugin", "rollback", "tally"]).ok();
    let text = home.run(&["plugin", "reload", "tally"]).ok().stdout;
    assert!(
        text.contains("tally 1.0.5 serves anew on 127.0.0.1:"),
        "{text}"
    );
    assert!(text.contains("its state was kept (8 bytes)"), "{text}");
    let unknown = home.run(&["plugin", "reload", "tallly", "--json"]);
    assert_eq!(unknown.with_code(4).error()["code"], "ORC-3050");
}
