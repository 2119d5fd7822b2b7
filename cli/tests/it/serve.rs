use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Child,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    harness::{Done, Home, eventually, finish, pipeline, read, signal},
    http::{self, Response},
};

/// Serves on a free port and says which.
const SERVE: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--json"];

/// The service, until it is dropped.
pub(crate) struct Service {
    child: Option<Child>,
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Service {
    pub(crate) fn start(home: &Home, args: &[&str]) -> Self {
        let args = [&SERVE, args].concat();
        Self::of(home, home.command(&args).spawn().unwrap())
    }

    /// Starts it from a shell that has run `before`.
    pub(crate) fn start_after(home: &Home, before: &str, args: &[&str]) -> Self {
        let args = [&SERVE, args].concat();
        Self::of(home, home.command_after(before, &args).spawn().unwrap())
    }

    pub(crate) fn of(home: &Home, mut child: Child) -> Self {
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            panic!("{line:?}: {}", finish(child).stderr);
        };
        let token_file = home.root().join("api-token");
        let shown = token_file.display().to_string();
        assert_eq!(ready["token_file"], shown);
        Self {
            child: Some(child),
            address: ready["address"].as_str().unwrap().to_owned(),
            token: read(token_file).trim().to_owned(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        http::send(&self.address, "GET", path, &[], b"")
    }

    /// Sends a request with the token.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("Authorization", bearer.as_str())];
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        http::send(&self.address, method, path, &headers, body.as_bytes())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    /// How much memory it holds, in kB.
    pub(crate) fn resident_kb(&self) -> u64 {
        let status = read(format!("/proc/{}/status", self.pid()));
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn wait(mut self) -> Done {
        finish(self.child.take().unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[test]
fn probes_and_metrics_need_no_token() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/readyz").json()["ready"], true);
    let metrics = service.get("/metrics");
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains(
        r#"orchestrator_http_requests_total{route="/readyz",method="GET",status="200"} 1"#
    ));
    assert!(text.contains("orchestrator_build_info{version="));
}

#[test]
fn the_api_asks_for_the_token_of_the_home() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    let file = home.root().join("api-token");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let almost = format!("Bearer {}0", &service.token[..service.token.len() - 1]);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", almost.as_str())],
        &[("Authorization", "Basic Og==")],
        &[("Authorization", "")],
    ] {
        let answer = http::send(&service.address, "GET", "/api/v1/runs", headers, b"");
        // One token in sixteen ends with 0 already.
        if headers
            .iter()
            .any(|(_, value)| *value == format!("Bearer {}", service.token))
        {
            continue;
        }
        assert_eq!(answer.status, 401, "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        let problem = answer.json();
        assert_eq!(problem["code"], "ORC-5050");
        assert_eq!(problem["status"], 401);
        assert!(problem["help"].is_string(), "{problem}");
        assert!(!problem.to_string().contains(&service.token));
        let root = home.root().display().to_string();
        assert!(!problem.to_string().contains(&root), "{problem}");
    }
    assert_eq!(service.api("GET", "/api/v1/runs", None).status, 200);
}

#[test]
fn the_token_is_never_printed() {
    let home = Home::new();
    let service = Service::start(&home, &["-vvv"]);
    let token = service.token.clone();
    service.api("GET", "/api/v1/runs", None);
    let metrics = String::from_utf8(service.get("/metrics").body).unwrap();
    assert!(!metrics.contains(&token));
    service.signal(Signal::TERM);
    let done = service.wait().ok();
    assert!(!done.stderr.contains(&token));
    assert!(!done.stdout.contains(&token));
}

#[test]
fn requests_that_make_no_sense_get_a_problem_document() {
    let home = Home::new();
    let service = Service::start(&home, &["--set", "server.body_bytes_max=2KiB"]);
    let large = serde_json::json!({ "pipeline": "x".repeat(4_096) });
    let odd = serde_json::json!({ "pipeline": "x", "colour": "red" });
    let unknown = serde_json::json!({ "pipeline": "nightly" });
    let broken = serde_json::json!({ "pipeline": { "version": 1, "name": "x", "stepz": [] } });
    let number = serde_json::json!({ "pipeline": 5 });
    let cases: [(&str, &str, Option<&Value>, u16, &str); 12] = [
        ("GET", "/nowhere", None, 404, "ORC-5051"),
        ("GET", "/api/v1/nowhere", None, 404, "ORC-5051"),
        ("DELETE", "/api/v1/runs", None, 405, "ORC-5052"),
        ("POST", "/api/v1/runs", None, 415, "ORC-5059"),
        ("POST", "/api/v1/runs", Some(&large), 413, "ORC-5060"),
        ("POST", "/api/v1/runs", Some(&odd), 422, "ORC-5061"),
        ("POST", "/api/v1/runs", Some(&number), 422, "ORC-5055"),
        ("POST", "/api/v1/runs", Some(&unknown), 404, "ORC-5003"),
        ("POST", "/api/v1/runs", Some(&broken), 422, "ORC-1100"),
        ("GET", "/api/v1/runs?status=nonsense", None, 400, "ORC-5057"),
        ("GET", "/api/v1/runs?limit=0", None, 400, "ORC-5057"),
        (
            "GET",
            "/api/v1/runs/01JD3Y7ZJ6V4W2N9Q8K5T1R0BX",
            None,
            404,
            "ORC-4109",
        ),
    ];
    for (method, path, body, status, code) in cases {
        let answer = service.api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body:?}");
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{method} {path}");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], code, "{problem}");
        let is_helped = problem["help"].is_string() || problem["errors"].is_array();
        assert!(is_helped, "{problem}");
    }
    let json = ("Content-Type", "application/json");
    let token = format!("Bearer {}", service.token);
    let headers = [json, ("Authorization", token.as_str())];
    let cut = http::send(&service.address, "POST", "/api/v1/runs", &headers, b"{");
    assert_eq!((cut.status, &cut.json()["code"]), (400, &"ORC-5054".into()));
    let problem = service.api("POST", "/api/v1/runs", Some(&broken)).json();
    assert!(
        problem["errors"]
            .as_array()
            .is_some_and(|errors| !errors.is_empty()),
        "{problem}"
    );
}

#[test]
fn the_service_stays_on_loopback_unless_it_is_told_otherwise() {
    let home = Home::new();
    let done = home
        .run(&["serve", "--listen", "0.0.0.0:0", "--json"])
        .with_code(5);
    assert_eq!(done.error()["code"], "ORC-5006");
    let service = Service::start(&home, &[]);
    let taken = ["serve", "--listen", &service.address, "--json"];
    let done = home.run(&taken).with_code(7);
    assert_eq!(done.error()["code"], "ORC-5007");
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let home = Home::new();
    let settings = [
        "--set",
        "server.header_timeout=300ms",
        "--set",
        "server.connections_max=1",
    ];
    let service = Service::start(&home, &settings);
    let mut silent = TcpStream::connect(&service.address).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    silent.write_all(b"GET /livez HT").unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).ok();
    // The one place is free again.
    assert_eq!(service.get("/livez").status, 200);
}

/// Fills a file with nonsense, but for its first bytes.
fn spoil(path: &Path, keep: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[keep..].fill(0xa5);
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

#[test]
fn a_service_whose_journal_takes_nothing_any_more_is_not_ready() {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("greet.yaml"), pipeline("greet")).unwrap();
    let greet = json!({ "pipeline": "greet" });
    let service = Service::start(&home, &[]);
    assert_eq!(service.get("/readyz").status, 200);
    // Another process writes, so that the service reads the files again.
    home.run(&["run", "start", &home.pipeline("greet")]).ok();
    let journal = home.root().join("journal");
    spoil(&journal.join("journal.db"), 100);
    spoil(&journal.join("journal.db-wal"), 32);
    let refused = service.api("POST", "/api/v1/runs", Some(&greet));
    assert_eq!(refused.status, 503, "{}", refused.json());

    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503);
    let answer = ready.json();
    assert_eq!(answer["ready"], false);
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("journal"), "{reason}");
    assert_eq!(
        service.get("/livez").status,
        200,
        "it would not help to kill it"
    );
}

#[test]
fn a_stopped_service_ends_with_success_and_frees_its_port() {
    let home = Home::new();
    for which in [Signal::TERM, Signal::INT] {
        let service = Service::start(&home, &[]);
        let address = service.address.clone();
        service.signal(which);
        service.wait().ok();
        eventually("the port is free", || TcpStream::connect(&address).is_err());
    }
}
