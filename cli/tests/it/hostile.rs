//! The service and clients that mean it no good: that send slowly, never read,
//! or come in numbers.

use std::{
    fs,
    io::{BufRead as _, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::mpsc,
    time::Duration,
};

use orchestrator_testkit::{TestHome, TestPlugin};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::{
    harness::{Home, eventually, pipeline, read},
    http,
    serve::Service,
};

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(&service.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

/// Takes a place of the service and keeps it, with a request that was answered.
fn hold(service: &Service) -> TcpStream {
    let mut stream = connect(service);
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for nothing to happen, outside of any runtime"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let home = Home::new();
    let service = Service::start(&home, &["--set", "server.request_timeout=500ms"]);
    let head = format!(
        "POST /api/v1/runs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
        service.token
    );
    let mut stream = connect(&service);
    stream.write_all(head.as_bytes()).unwrap();
    let mut trickle = stream.try_clone().unwrap();
    let (_stop, stopped) = mpsc::channel::<()>();
    let trickling = std::thread::spawn(move || {
        // A byte now and then does not make it any longer.
        while let Err(mpsc::RecvTimeoutError::Timeout) =
            stopped.recv_timeout(Duration::from_millis(100))
        {
            if trickle.write_all(b" ").is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("ORC-5053"), "{answer}");
    trickling.join().unwrap();
}

/// A client that asks for much and reads nothing is dropped, for whichever of
/// the two limits it breaks.
#[test]
fn a_client_that_never_reads_is_dropped() {
    let home = Home::new();
    for (idle, whole) in [("500ms", "1h"), ("1h", "500ms")] {
        let idle = format!("server.write_idle_timeout={idle}");
        let whole = format!("server.write_timeout={whole}");
        let one = "server.connections_max=1";
        let service = Service::start(&home, &["--set", &idle, "--set", &whole, "--set", one]);
        let mut greedy = hold(&service);
        // More pages than the buffers in between can hold.
        let requests = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4_000);
        greedy.write_all(requests.as_bytes()).unwrap();
        let listed = || service.api("GET", "/api/v1/runs", None).status;
        eventually("the place is free again", || listed() == 200);
        let mut rest = Vec::new();
        greedy.read_to_end(&mut rest).ok();
        let pages = rest.windows(12).filter(|it| it == b"HTTP/1.1 200");
        assert!(pages.count() < 4_000, "everything was sent");
    }
}

/// The same of a stream of events, which otherwise may go on as long as its run.
#[test]
fn a_stream_that_nobody_reads_is_dropped() {
    let home = Home::new();
    let text = "line=$(head -c 15000 /dev/zero | tr '\\0' x); i=0\n\
        while [ $i -lt 900 ]; do echo \"WARN $line\" >&2; i=$((i + 1)); done\n\
        sleep 60; echo null";
    let talker = TestPlugin::shell("talker", json!([{ "name": "talk" }]), text);
    TestHome::at(home.root()).install(&talker);
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    let talk = "version: 1\nname: talk\nsteps:\n  - { id: a, plugin: talker, phase: talk }\n";
    fs::write(dir.join("talk.yaml"), talk).unwrap();
    let settings = [
        "--set",
        "server.write_idle_timeout=1s",
        "--set",
        "server.connections_max=1",
        "--set",
        "log.level=error",
    ];
    let service = Service::start(&home, &settings);
    let started = service.api("POST", "/api/v1/runs", Some(&json!({ "pipeline": "talk" })));
    let id = started.json()["id"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {}", service.token);
    let path = format!("/api/v1/runs/{id}/events");
    let headers = [("Authorization", bearer.as_str())];
    let mut unread = None;
    eventually("the stream", || {
        let (head, stream) = http::open(&service.address, "GET", &path, &headers, b"");
        unread = Some(stream);
        head.status == 200
    });
    let listed = || service.api("GET", "/api/v1/runs", None).status;
    assert_eq!(listed(), 503);
    eventually("the place is free again", || listed() == 200);
    let path = format!("/api/v1/runs/{id}");
    eventually("the run goes on", || {
        let run = service.api("GET", &path, None);
        run.status == 200 && run.json()["outcome"].is_null()
    });
    drop(unread);
}

#[test]
fn beyond_the_limit_clients_are_told_to_come_back() {
    let home = Home::new();
    let one = "server.connections_max=1";
    let long = "server.header_timeout=1h";
    let service = Service::start(&home, &["--set", one, "--set", long]);
    let held = hold(&service);
    for _ in 0..3 {
        let refused = service.api("GET", "/api/v1/runs", None);
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("connection"), Some("close"));
        assert_eq!(
            refused.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(refused.json()["code"], "ORC-5058");
    }
    // Whoever watches over the service is answered all the same.
    for probe in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(service.get(probe).status, 200, "{probe}");
    }
    drop(held);
    let listed = || service.api("GET", "/api/v1/runs", None).status;
    eventually("the place is free again", || listed() == 200);
}

/// Soft and hard limit of the descriptors of a process.
fn descriptors(pid: u32) -> (u64, u64) {
    let limits = read(format!("/proc/{pid}/limits"));
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = line.unwrap().split_whitespace().skip(3);
    let mut number = || numbers.next().unwrap().parse().unwrap();
    (number(), number())
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_connections_need() {
    let home = Home::new();
    let settings = ["--set", "server.connections_max=200"];
    let service = Service::start_after(&home, "ulimit -n 1000; ulimit -Sn 64", &settings);
    assert_eq!(descriptors(service.pid()), (400, 1000));
    let _held: Vec<_> = (0..60).map(|_| hold(&service)).collect();
    assert_eq!(service.api("GET", "/api/v1/runs", None).status, 200);
    service.signal(rustix::process::Signal::TERM);
    let done = service.wait().ok();
    assert!(!done.stderr.contains("descriptors"), "{}", done.stderr);
}

#[test]
fn where_descriptors_are_few_so_are_connections() {
    let home = Home::with_greeter();
    let dir = home.root().join("pipelines");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("greet.yaml"), pipeline("greet")).unwrap();
    let service = Service::start_after(&home, "ulimit -n 100", &[]);
    let held: Vec<_> = (0..50).map(|_| hold(&service)).collect();
    assert_eq!(service.api("GET", "/api/v1/runs", None).status, 503);
    drop(held);
    let greet = json!({ "pipeline": "greet" });
    eventually("a run", || {
        service.api("POST", "/api/v1/runs", Some(&greet)).status == 202
    });
    service.signal(rustix::process::Signal::TERM);
    let done = service.wait().ok();
    let line = done
        .stderr
        .lines()
        .find(|line| line.contains("descriptors"));
    let line = line.unwrap_or_else(|| panic!("{}", done.stderr));
    assert!(line.contains("\"connections\":50"), "{line}");
}

/// Ticks of the processor (100 a second) that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = read(format!("/proc/{pid}/stat"));
    let after_name = stat.rsplit(") ").next().unwrap();
    let numbers: Vec<&str> = after_name.split(' ').collect();
    numbers[11].parse::<u64>().unwrap() + numbers[12].parse::<u64>().unwrap()
}

#[test]
fn a_service_without_descriptors_waits_and_goes_on() {
    let home = Home::new();
    let service = Service::start(&home, &[]);
    let pid = service.pid();
    let limit = |current| {
        let process = Pid::from_raw(pid.cast_signed());
        let maximum = Some(descriptors(pid).1);
        let new = Rlimit {
            current: Some(current),
            maximum,
        };
        prlimit(process, Resource::Nofile, new).unwrap();
    };
    let open = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
    limit(open.unwrap().count() as u64);
    let mut waiting = connect(&service);
    waiting
        .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let before = ticks(pid);
    pause(Duration::from_secs(3));
    let used = ticks(pid) - before;
    assert!(used < 60, "{used} ticks in 3 s");
    limit(1_000);
    let mut line = String::new();
    let mut answer = std::io::BufReader::new(waiting);
    answer.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    service.signal(rustix::process::Signal::TERM);
    let done = service.wait().ok();
    let told = done.stderr.matches("not accepted").count();
    assert!((1..=3).contains(&told), "{}", done.stderr);
}
