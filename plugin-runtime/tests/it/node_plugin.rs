//! A plugin of kind `node` that behaves as its phase says, badly in most.

use std::{collections::HashMap, io::BufRead as _, process::exit, time::Duration};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    CallError, ContentType, HostOperation, LogLevel, PhaseName, Usage,
    frame::{
        CallHeader, Chunk, Credit, Frame, Health, Hello, HostCall, Log, Progress, ReconcileStatus,
        ResultHeader,
    },
};
use serde_json::json;

use crate::{
    plugin_end::{PluginEnd, script},
    support::{File, Home},
};

/// How the plugin behaves before any call.
const MODE: &str = "TEST_NODE_MODE";
/// Calls it takes at once.
const CREDIT: u32 = 4;

pub(crate) const PHASES: [&str; 27] = [
    "echo",
    "pid",
    "hang",
    "ignore-cancel",
    "fail",
    "claims-open-circuit",
    "progress",
    "session",
    "big",
    "too-big",
    "two-replies",
    "unknown-call",
    "length",
    "chunk-first",
    "over-credit",
    "garbage",
    "half-frame",
    "wrong-direction",
    "exit3",
    "crash",
    "flood",
    "close",
    "memory",
    "wrong-answer",
    "start",
    "typed",
    "progress-flood",
];

/// Installs the plugin.
pub(crate) fn install(home: &Home, id: &str, mode: &str, manifest: serde_json::Value) {
    let becomes = script("node_plugin::process", &format!("{MODE}={mode}"));
    let script = format!("echo 'DEBUG starting as {mode}' >&2\n{becomes}");
    let phases: Vec<_> = PHASES.iter().map(|name| json!({ "name": name })).collect();
    let mut whole = json!({ "kind": "node", "phases": phases });
    for (key, value) in manifest.as_object().unwrap() {
        whole[key] = value.clone();
    }
    home.package(
        id,
        whole,
        &[File {
            path: "main.sh",
            content: &script,
        }],
    );
}

/// Not a test: the plugin, when started as one.
#[test]
fn process() {
    if let Ok(mode) = std::env::var(MODE) {
        Node::connect().serve(&mode);
    }
}

struct Node {
    host: PluginEnd,
    /// Inputs of which more is to come.
    partial: HashMap<u64, (CallHeader, BytesMut)>,
    /// Calls that wait for a host's answer.
    asking: HashMap<u64, u64>,
    hanging: Vec<u64>,
    /// Closes its end long before it is done, when it is asked to finish.
    closes_first: bool,
    /// Answers the calls that hang, when it is asked to finish.
    finishes: bool,
    /// Does not end, when it is asked to finish.
    deaf: bool,
    /// What it says is wrong with it.
    problem: Option<String>,
    /// What it does instead of saying whether it is well.
    instead: Option<Instead>,
}

#[derive(Clone, Copy)]
enum Instead {
    Work,
    Garbage,
    Silence,
}

impl Node {
    fn connect() -> Self {
        Self {
            host: PluginEnd::of_stdin(),
            partial: HashMap::new(),
            asking: HashMap::new(),
            hanging: Vec::new(),
            closes_first: false,
            finishes: false,
            deaf: false,
            problem: None,
            instead: None,
        }
    }

    fn serve(mut self, mode: &str) -> ! {
        match mode {
            "exit-at-once" => exit(3),
            "silent" => self.linger(),
            "garbage" => {
                self.host.raw(b"GET / HTTP/1.1\r\n\r\n");
                self.linger();
            }
            "half-hello" => {
                self.host.raw(&[0, 0, 1, 0, 1]);
                exit(0);
            }
            "not-hello" => {
                self.host.send(&Frame::Credit(Credit { calls: 1 }));
                self.linger();
            }
            "closes-first" => self.closes_first = true,
            "finishes" => {
                self.finishes = true;
                std::thread::park_timeout(Duration::from_millis(300));
            }
            "health-sick" => self.problem = Some("the disk is gone".to_owned()),
            "health-works" => self.instead = Some(Instead::Work),
            "health-garbage" => self.instead = Some(Instead::Garbage),
            "health-silent" => self.instead = Some(Instead::Silence),
            "deaf" => self.deaf = true,
            "slow-start" => std::thread::park_timeout(Duration::from_millis(500)),
            _ => {}
        }
        let id = std::env::var("ORCHESTRATOR_PLUGIN").unwrap();
        let mut phases: Vec<_> = PHASES.iter().map(|name| PhaseName::from(*name)).collect();
        if mode == "fewer-phases" {
            phases.pop();
        }
        self.host.send(&Frame::Hello(Hello {
            protocol: if mode == "wrong-version" { 99 } else { 1 },
            plugin: if mode == "wrong-plugin" {
                "somebody-else".into()
            } else {
                (&*id).into()
            },
            version: "1.0.0".to_owned(),
            phases,
            health: mode.starts_with("health"),
            state: false,
        }));
        let Some(Frame::Welcome(welcome)) = self.host.next() else {
            exit(9)
        };
        println!(
            "welcome by {} with {}",
            welcome.host,
            welcome.grants.join(" ")
        );
        self.host.send(&Frame::Credit(Credit { calls: CREDIT }));
        while let Some(frame) = self.host.next() {
            self.take(frame);
        }
        exit(0)
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Call(header, input) => {
                let mut whole = BytesMut::from(&input[..]);
                if (whole.len() as u64) < header.length {
                    whole.reserve(header.length as usize);
                    self.partial.insert(header.call, (header, whole));
                } else {
                    self.call(&header, &whole.freeze());
                }
            }
            Frame::Chunk(chunk, more) => {
                let (header, mut whole) = self.partial.remove(&chunk.call).unwrap();
                whole.extend_from_slice(&more);
                if (whole.len() as u64) < header.length {
                    self.partial.insert(chunk.call, (header, whole));
                } else {
                    self.call(&header, &whole.freeze());
                }
            }
            Frame::Cancel(cancel) => {
                if let Some(at) = self.hanging.iter().position(|call| *call == cancel.call) {
                    self.hanging.remove(at);
                    let reason = "as told".to_owned();
                    self.host.fail(cancel.call, CallError::Cancelled { reason });
                }
            }
            Frame::HostResult(answer) => {
                let call = self.asking.remove(&answer.id).unwrap();
                let seen = json!({ "value": answer.value, "error": answer.error });
                self.reply(call, &Bytes::from(seen.to_string()));
            }
            Frame::Reconcile(question) => {
                let mut header = ResultHeader::of(question.call, 0);
                let (status, output) = match &*question.idempotency_key {
                    "done" => (ReconcileStatus::Done, &b"true"[..]),
                    "done-with-garbage" => (ReconcileStatus::Done, &b"[1, "[..]),
                    _ => (ReconcileStatus::NotDone, &b"true"[..]),
                };
                header.reconcile = Some(status);
                self.host.reply(header, Bytes::from_static(output));
            }
            Frame::HealthCheck(question) => self.health(question.check),
            Frame::Drain(_) => {
                println!("draining");
                if self.deaf {
                    self.linger();
                }
                if self.finishes {
                    for call in std::mem::take(&mut self.hanging) {
                        self.reply(call, &Bytes::from_static(b"\"finished\""));
                    }
                }
                if self.closes_first {
                    self.host.close();
                    std::thread::park_timeout(Duration::from_secs(1));
                    println!("tidied up");
                }
                exit(0)
            }
            _ => exit(8),
        }
    }

    fn health(&mut self, check: u64) {
        let problem = self.problem.clone();
        match self.instead {
            None => self.host.send(&Frame::Health(Health { check, problem })),
            Some(Instead::Work) => work(),
            Some(Instead::Garbage) => self.host.raw(&[0xff; 64]),
            Some(Instead::Silence) => {}
        }
    }

    fn call(&mut self, header: &CallHeader, input: &Bytes) {
        let call = header.call;
        match header.phase.as_str() {
            "echo" => self.reply(call, input),
            "pid" => self.reply(call, &Bytes::from(std::process::id().to_string())),
            "hang" => self.hanging.push(call),
            "ignore-cancel" => {}
            "fail" => self.host.fail(call, CallError::invalid_input("not this")),
            "claims-open-circuit" => self
                .host
                .fail(call, CallError::CircuitOpen { retry_after_ms: 5 }),
            "progress" => {
                let message = "half way".to_owned();
                self.host.send(&Frame::Progress(Progress {
                    call,
                    percent: Some(50),
                    message,
                }));
                let message = "said in a call".to_owned();
                self.host.send(&Frame::Log(Log {
                    call: Some(call),
                    level: LogLevel::Warn,
                    message,
                }));
                self.reply(call, input);
            }
            "session" => {
                let request = HostOperation::SessionGet {
                    key: "colour".to_owned(),
                };
                self.asking.insert(77, call);
                self.host.send(&Frame::HostCall(HostCall {
                    id: 77,
                    call,
                    request,
                }));
            }
            "big" => {
                let length: usize = serde_json::from_slice(input).unwrap();
                let text = format!("\"{}\"", "x".repeat(length - 2));
                self.reply(call, &Bytes::from(text));
            }
            "too-big" => self.host.send(&Frame::Result(
                ResultHeader::of(call, 1 << 40),
                Bytes::new(),
            )),
            "flood" => {
                for _ in 0..100_000 {
                    println!("a line of the flood");
                }
                self.reply(call, input);
            }
            "memory" => {
                let hoard = vec![1_u8; 300 << 20];
                std::thread::park_timeout(Duration::from_secs(60));
                drop(hoard);
            }
            other => self.odd(other, call, input),
        }
    }

    fn odd(&mut self, phase: &str, call: u64, input: &Bytes) {
        match phase {
            "start" => {
                let script: String = serde_json::from_slice(input).unwrap();
                let said = first_line_of(&script);
                self.reply(call, &Bytes::from(said));
            }
            "typed" => {
                let (of, output): (String, Vec<u8>) = serde_json::from_slice(input).unwrap();
                let mut header = ResultHeader::of(call, 0);
                header.content_type = ContentType::new(of);
                self.host.reply(header, Bytes::from(output));
            }
            "progress-flood" => {
                let count: u32 = serde_json::from_slice(input).unwrap();
                for n in 1..=count {
                    self.host.send(&Frame::Progress(Progress {
                        call,
                        percent: None,
                        message: format!("{n} done"),
                    }));
                }
                self.hanging.push(call);
            }
            other => self.misbehave(other, call, input),
        }
    }

    fn misbehave(&mut self, phase: &str, call: u64, input: &Bytes) {
        match phase {
            "two-replies" => {
                self.reply(call, input);
                self.reply(call, input);
            }
            "unknown-call" => self.reply(call + (1 << 40), input),
            "length" => self.host.send(&Frame::Result(
                ResultHeader::of(call, 2),
                Bytes::from_static(b"long"),
            )),
            "chunk-first" => self.host.send(&Frame::Chunk(Chunk { call }, input.clone())),
            "over-credit" => self.host.send(&Frame::Credit(Credit { calls: 1000 })),
            "garbage" => self.host.raw(&[0xff; 64]),
            "half-frame" => {
                self.host.raw(&[0, 0, 1, 0, 8]);
                exit(0);
            }
            "wrong-direction" => self.host.send(&Frame::Call(
                CallHeader {
                    call,
                    run: "00000000000000000000000000".parse().unwrap(),
                    step: "s".into(),
                    phase: "echo".into(),
                    attempt: 1,
                    tenant: None,
                    criticality: orchestrator_contract::Criticality::Critical,
                    timeout_ms: None,
                    idempotency_key: String::new(),
                    traceparent: orchestrator_contract::TraceContext::from_random(1, 1, false),
                    session: "00000000000000000000000000".parse().unwrap(),
                    content_type: orchestrator_contract::JSON,
                    length: 0,
                },
                Bytes::new(),
            )),
            "wrong-answer" => {
                let mut header = ResultHeader::of(call, 0);
                header.reconcile = Some(ReconcileStatus::Done);
                self.host.send(&Frame::Result(header, Bytes::new()));
            }
            "exit3" => {
                eprintln!("last words");
                exit(3);
            }
            "crash" => {
                eprintln!("about to abort");
                std::process::abort();
            }
            "close" => {
                self.host.close();
                self.linger();
            }
            _ => exit(7),
        }
    }

    fn linger(&self) -> ! {
        std::thread::park_timeout(Duration::from_secs(60));
        exit(6)
    }

    fn reply(&mut self, call: u64, output: &Bytes) {
        let mut header = ResultHeader::of(call, 0);
        header.metadata.insert("by".to_owned(), "node".to_owned());
        header.usage = Usage {
            cpu_ms: 1,
            memory_bytes: 2,
        };
        self.host.reply(header, output.clone());
    }
}

/// Keeps a processor busy for longer than any test takes.
fn work() {
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        std::hint::spin_loop();
    }
}

/// Starts a shell that nobody waits for, and returns the first line it writes.
fn first_line_of(script: &str) -> String {
    #[expect(clippy::disallowed_types, reason = "this is a plugin, not the host")]
    let shell = std::process::Command::new("/bin/sh")
        .args(["-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut line = String::new();
    std::io::BufReader::new(shell.unwrap().stdout.unwrap())
        .read_line(&mut line)
        .unwrap();
    line
}
