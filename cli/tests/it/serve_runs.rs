use std::{
    fs,
    io::BufRead as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use orchestrator_contract::{ContentType, NoEvents, Payload, RunId};
use orchestrator_engine::{
    config::Config,
    journal::{Creation, Journal as _, NewRecord, NewRun, RecordBody, SqliteJournal},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Home, eventually, pipeline},
    http::{self, SseEvent},
    serve::Service,
};

fn home_with(phases: &[&str]) -> Home {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    for phase in phases {
        fs::write(dir.join(format!("{phase}.yaml")), pipeline(phase)).unwrap();
    }
    home
}

fn start(service: &Service, body: &Value) -> String {
    let answer = service.api("POST", "/api/v1/runs", Some(body));
    assert_eq!(answer.status, 202, "{}", answer.json());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/api/v1/runs/{id}")
    );
    id
}

fn outcome(service: &Service, id: &str) -> Value {
    service
        .api("GET", &format!("/api/v1/runs/{id}"), None)
        .json()["outcome"]
        .clone()
}

/// Reads a run's events to their end.
fn events(service: &Service, id: &str, last: Option<u64>) -> Vec<SseEvent> {
    let bearer = format!("Bearer {}", service.token);
    let last = last.map(|last| last.to_string());
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(last.as_deref().map(|last| ("Last-Event-ID", last)));
    let path = format!("/api/v1/runs/{id}/events");
    let (head, mut reader) = http::open(&service.address, "GET", &path, &headers, b"");
    assert_eq!(head.status, 200);
    assert!(
        head.header("content-type")
            .unwrap()
            .starts_with("text/event-stream")
    );
    std::iter::from_fn(|| http::next_event(&mut reader)).collect()
}

#[test]
fn a_run_goes_from_request_to_output() {
    let home = home_with(&["greet"]);
    let service = Service::start(&home, &[]);
    let id = start(
        &service,
        &json!({ "pipeline": "greet", "input": { "who": "Ada" } }),
    );
    eventually("the end of the run", || outcome(&service, &id) == "success");
    let path = format!("/api/v1/runs/{id}/outputs/GREETING.json");
    let output = service.api("GET", &path, None);
    assert_eq!(output.json(), json!({ "hello": "Ada" }));
    assert_eq!(output.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(service.api("GET", &format!("{path}x"), None).status, 404);

    let listed = service
        .api("GET", "/api/v1/runs?status=success&limit=1", None)
        .json();
    assert_eq!(listed["runs"][0]["id"], id);
    let metrics = String::from_utf8(service.get("/metrics").body).unwrap();
    for line in [
        r#"orchestrator_runs_total{pipeline="greet",outcome="success"} 1"#,
        r#"orchestrator_plugin_phase_executions_total{plugin="greeter",phase="greet"} 1"#,
        r#"orchestrator_http_requests_total{route="/api/v1/runs",method="POST",status="202"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let cancelled = service.api("POST", &format!("/api/v1/runs/{id}/cancel"), None);
    assert_eq!(cancelled.status, 409, "{}", cancelled.json());
    let plugins = service.api("GET", "/api/v1/plugins", None).json();
    assert!(
        plugins["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["id"] == "greeter")
    );
}

#[test]
fn a_pipeline_may_come_with_the_request_and_a_request_twice() {
    let home = home_with(&[]);
    let service = Service::start(&home, &[]);
    let definition = json!({
        "version": 1,
        "name": "inline",
        "steps": [{ "id": "say", "plugin": "greeter", "phase": "greet", "input": { "a": 1 } }],
        "outputs": { "OUT.json": { "from": "${{ steps.say.output }}" } },
    });
    let body = json!({ "pipeline": definition, "idempotency_key": "once" });
    let id = start(&service, &body);
    let again = service.api("POST", "/api/v1/runs", Some(&body));
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["id"], id);
    assert_eq!(again.json()["created"], false);

    let bearer = format!("Bearer {}", service.token);
    let with_key = |key: &str, body: &Value| {
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        let body = body.to_string();
        http::send(
            &service.address,
            "POST",
            "/api/v1/runs",
            &headers,
            body.as_bytes(),
        )
    };
    let bare = json!({ "pipeline": body["pipeline"] });
    assert_eq!(with_key("once", &bare).json()["id"], id);
    let other = json!({ "pipeline": body["pipeline"], "input": { "a": 2 } });
    let refused = with_key("once", &other);
    assert_eq!(refused.status, 409, "{}", refused.json());
    assert_eq!(refused.json()["code"], "ORC-4116");
    assert_eq!(with_key("other", &body).status, 422, "two keys that differ");
    assert_eq!(with_key("", &bare).status, 422);
}

#[test]
fn a_request_says_how_critical_its_run_is() {
    let home = home_with(&["greet"]);
    let service = Service::start(&home, &[]);
    let body = |criticality| json!({ "pipeline": "greet", "criticality": criticality });
    for criticality in ["sheddable", "critical_plus"] {
        let id = start(&service, &body(criticality));
        let history = home.run(&["run", "show", &id, "--history", "--json"]);
        assert_eq!(history.ok().json()[0]["criticality"], criticality);
    }
    let odd = service.api("POST", "/api/v1/runs", Some(&body("urgent")));
    assert_eq!(odd.status, 422);
}

/// Requests are answered meanwhile, and nobody has to start the service again.
#[test]
fn runs_that_find_no_place_are_resumed_when_others_have_ended() {
    let home = home_with(&["sleep"]);
    let service = Service::start(&home, &[]);
    let body = json!({ "pipeline": "sleep" });
    let ids = [start(&service, &body), start(&service, &body)];
    service.signal(Signal::KILL);
    service.wait();

    let service = Service::start(&home, &["--set", "run.in_flight_max=1"]);
    let resumed = |id: &str| {
        let report = service.api("GET", &format!("/api/v1/runs/{id}"), None);
        report.json()["resumed"] == 1
    };
    eventually("the first", || ids.iter().any(|id| resumed(id)));
    let (first, second) = match resumed(&ids[0]) {
        true => (&ids[0], &ids[1]),
        false => (&ids[1], &ids[0]),
    };
    assert!(!resumed(second), "there is one place");
    service.api("POST", &format!("/api/v1/runs/{first}/cancel"), None);
    eventually("the second", || resumed(second));
}

#[test]
fn events_are_replayed_from_where_a_client_left() {
    let home = home_with(&["greet", "fail"]);
    let service = Service::start(&home, &[]);
    for (phase, end) in [("greet", "success"), ("fail", "failed")] {
        let id = start(&service, &json!({ "pipeline": phase }));
        let all = events(&service, &id, None);
        let journaled: Vec<_> = all.iter().filter(|event| event.id.is_some()).collect();
        assert_eq!(journaled[0].name, "run_created");
        let last = journaled.last().unwrap();
        assert_eq!(last.name, "run_finished");
        let data: Value = serde_json::from_str(&last.data).unwrap();
        assert_eq!(data["outcome"], end);
        let ids: Vec<u64> = journaled.iter().filter_map(|event| event.id).collect();
        let expected: Vec<u64> = (1..=ids.len() as u64).collect();
        assert_eq!(ids, expected, "no gap and nothing twice");

        let rest = events(&service, &id, Some(2));
        let rest: Vec<u64> = rest.iter().filter_map(|event| event.id).collect();
        assert_eq!(rest, expected[2..]);
    }
}

#[test]
fn silence_on_a_stream_is_filled() {
    let home = home_with(&["sleep"]);
    let service = Service::start(&home, &["--set", "server.event_heartbeat=200ms"]);
    let id = start(&service, &json!({ "pipeline": "sleep" }));
    let bearer = format!("Bearer {}", service.token);
    let path = format!("/api/v1/runs/{id}/events");
    let headers = [("Authorization", bearer.as_str())];
    let (_, reader) = http::open(&service.address, "GET", &path, &headers, b"");
    let mut lines = reader.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with(':')));
}

#[test]
fn a_run_is_cancelled_over_the_api() {
    let home = home_with(&["sleep"]);
    let service = Service::start(&home, &[]);
    let id = start(&service, &json!({ "pipeline": "sleep" }));
    let answer = service.api("POST", &format!("/api/v1/runs/{id}/cancel"), None);
    assert_eq!(answer.status, 202);
    eventually("the end of the run", || {
        outcome(&service, &id) == "cancelled"
    });
}

#[test]
fn too_many_runs_are_refused_with_when_to_come_back() {
    let home = home_with(&["sleep"]);
    let service = Service::start(&home, &["--set", "run.in_flight_max=1"]);
    start(&service, &json!({ "pipeline": "sleep" }));
    let refused = service.api(
        "POST",
        "/api/v1/runs",
        Some(&json!({ "pipeline": "sleep" })),
    );
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["code"], "ORC-4006");
}

#[test]
fn a_service_that_is_stopped_leaves_its_runs_to_the_next() {
    let home = home_with(&["sleep"]);
    let service = Service::start(&home, &["--set", "server.drain_grace=500ms"]);
    let id = start(&service, &json!({ "pipeline": "sleep" }));
    // A stream that is open must not hold up the end.
    let bearer = format!("Bearer {}", service.token);
    let path = format!("/api/v1/runs/{id}/events");
    let headers = [("Authorization", bearer.as_str())];
    let (_, mut stream) = http::open(&service.address, "GET", &path, &headers, b"");
    assert_eq!(http::next_event(&mut stream).unwrap().name, "run_created");

    let started = SystemTime::now();
    service.signal(Signal::TERM);
    service.wait().ok();
    let took = started.elapsed().unwrap();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(http::next_event(&mut stream).is_none_or(|event| event.id.is_some()));

    let service = Service::start(&home, &[]);
    assert_eq!(outcome(&service, &id), Value::Null, "it goes on");
    service.api("POST", &format!("/api/v1/runs/{id}/cancel"), None);
    eventually("the end of the run", || {
        outcome(&service, &id) == "cancelled"
    });
}

/// Journals of earlier versions hold content types that no header can have.
#[test]
fn an_output_of_a_type_that_is_none_is_fetched_as_bytes() {
    let home = home_with(&["greet"]);
    let file = home.pipeline("greet");
    let run = home.run(&["run", "start", &file, "--json"]).ok().json();
    let id = run["id"].as_str().unwrap().parse().unwrap();
    let copy = copied_with_type(&home, id, "text/plain\r\nX-Odd: 1");
    let service = Service::start(&home, &[]);
    let path = format!("/api/v1/runs/{copy}/outputs/GREETING.json");
    let output = service.api("GET", &path, None);
    assert_eq!(output.status, 200);
    assert_eq!(output.json(), json!({ "hello": "world" }));
    let kind = output.header("content-type");
    assert_eq!(kind, Some("application/octet-stream"));
    assert_eq!(output.header("x-odd"), None);
}

/// Writes the history of `run` again, with another type for what its steps made.
fn copied_with_type(home: &Home, run: RunId, content_type: &str) -> RunId {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let settings = Config::defaults().unwrap().journal;
        let dir = home.root().join("journal");
        let journal = SqliteJournal::open(dir, settings, Arc::new(NoEvents));
        let journal = journal.await.unwrap();
        let mut records = journal.load(run).await.unwrap().into_iter();
        let first = records.next().unwrap();
        let RecordBody::RunCreated(created) = first.body else {
            panic!("{first:?}");
        };
        let copy = RunId::from_parts(1, 1);
        let new = NewRun {
            run: copy,
            created: *created,
            input: first.payload.unwrap(),
            at_ms: first.at_ms,
            inherited: Vec::new(),
        };
        let Creation::Created { epoch, seq } = journal.create(new).await.unwrap() else {
            panic!("it is there already");
        };
        let rest = records.map(|record| NewRecord {
            body: record.body,
            payload: record.payload.map(|payload| {
                Payload::new(ContentType::new(content_type.to_owned()), payload.bytes)
            }),
        });
        journal
            .append(copy, seq, epoch, rest.collect())
            .await
            .unwrap();
        journal.close().await;
        copy
    })
}
