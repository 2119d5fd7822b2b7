//! A plugin of kind `node` that counts its calls and hands the count on. It is this
//! test executable, started again by a signed shell script.

use std::{
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::PathBuf,
    process::exit,
    thread::sleep,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    CallError, PhaseName, Usage,
    frame::{
        CallHeader, Chunk, Credit, Frame, FrameDecoder, Hello, PAYLOAD_PER_FRAME, RestoreState,
        ResultHeader,
    },
};
use serde_json::json;

use crate::support::{File, Home};

/// How the plugin behaves, and which version it says it is.
const MODE: &str = "TEST_COUNTER_MODE";
const VERSION: &str = "TEST_COUNTER_VERSION";
/// Calls it takes at once.
const CREDIT: u32 = 8;
/// What follows the count in a state, so that one takes several frames.
const PADDING: usize = PAYLOAD_PER_FRAME + 7;

/// `count` counts, `later` answers when `now` comes, `version` says which it is.
const PHASES: [&str; 4] = ["count", "later", "now", "version"];

/// Installs a release of the plugin: `counts`, `forgets` (keeps no state), `exits` at
/// its start, `refuses` a state, is `silent` when asked for its own, has a `large` one,
/// is `slow` to start.
pub(crate) fn release(home: &Home, id: &str, version: &str, mode: &str, serial: u64) -> PathBuf {
    release_of(home, id, version, mode, serial, json!({}))
}

/// The same with keys of its own in the manifest.
pub(crate) fn release_of(
    home: &Home,
    id: &str,
    version: &str,
    mode: &str,
    serial: u64,
    keys: serde_json::Value,
) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    // The socket becomes stdin, which can be taken over without unsafe code.
    let script = format!(
        "{MODE}={mode} {VERSION}={version} exec '{}' --exact counter_plugin::process --nocapture <&3 3<&-\n",
        program.display()
    );
    let phases: Vec<_> = PHASES.iter().map(|name| json!({ "name": name })).collect();
    let mut manifest = json!({ "kind": "node", "version": version, "phases": phases });
    for (key, value) in keys.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    let (path, content) = ("main.sh", &*script);
    let dir = home.unsigned_package(id, manifest, &[File { path, content }]);
    home.sign_as_release(&dir, serial);
    home.grant_all(&dir);
    dir
}

/// Not a test: the plugin, when started as one.
#[test]
fn process() {
    if let Ok(mode) = std::env::var(MODE) {
        Counter::connect(mode).serve();
    }
}

struct Counter {
    stream: UnixStream,
    decoder: FrameDecoder,
    mode: String,
    version: String,
    count: u64,
    waiting: Vec<u64>,
    restoring: Option<(RestoreState, BytesMut)>,
}

impl Counter {
    fn connect(mode: String) -> Self {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        Self {
            stream: UnixStream::from(socket),
            decoder: FrameDecoder::new(),
            mode,
            version: std::env::var(VERSION).unwrap(),
            count: 0,
            waiting: Vec::new(),
            restoring: None,
        }
    }

    fn serve(mut self) -> ! {
        if self.mode == "exits" {
            eprintln!("nothing works here");
            exit(3);
        }
        if self.mode == "slow" {
            #[expect(
                clippy::disallowed_methods,
                reason = "a process of its own, without a runtime"
            )]
            sleep(Duration::from_secs(1));
        }
        let id = std::env::var("ORCHESTRATOR_PLUGIN").unwrap();
        let hello = Frame::Hello(Hello {
            protocol: 1,
            plugin: (&*id).into(),
            version: self.version.clone(),
            phases: PHASES.map(PhaseName::from).to_vec(),
            health: false,
            state: self.mode != "forgets",
        });
        self.send(&hello);
        let Some(Frame::Welcome(_)) = self.next() else {
            exit(9)
        };
        self.send(&Frame::Credit(Credit { calls: CREDIT }));
        while let Some(frame) = self.next() {
            self.take(frame);
        }
        exit(0)
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Call(header, _) => self.call(&header),
            Frame::GetState(question) if self.mode != "silent" => {
                let mut state = BytesMut::from(&self.count.to_be_bytes()[..]);
                state.resize(8 + PADDING, b'.');
                if self.mode == "large" {
                    state.resize(2 << 20, b'.');
                }
                self.reply(question.call, state.freeze());
            }
            Frame::RestoreState(header, beginning) => {
                self.restoring = Some((header, BytesMut::from(&beginning[..])));
                self.restore();
            }
            Frame::Chunk(chunk, more) => {
                let (header, state) = self.restoring.as_mut().unwrap();
                assert_eq!(chunk.call, header.call);
                state.extend_from_slice(&more);
                self.restore();
            }
            Frame::GetState(_) | Frame::Cancel(_) => {}
            Frame::Drain(_) => exit(0),
            _ => exit(8),
        }
    }

    fn restore(&mut self) {
        let Some((header, state)) = self
            .restoring
            .take_if(|(header, state)| header.length == state.len() as u64)
        else {
            return;
        };
        let call = header.call;
        if self.mode == "refuses" {
            let mut answer = result(call, 0);
            let message = format!("a state of {} is too old", header.from_version);
            answer.error = Some(CallError::permanent(message));
            self.send(&Frame::Result(answer, Bytes::new()));
            self.send(&Frame::Credit(Credit { calls: 1 }));
            return;
        }
        assert_eq!(state.len(), 8 + PADDING);
        self.count = u64::from_be_bytes(state[..8].try_into().unwrap());
        self.reply(call, Bytes::new());
    }

    fn call(&mut self, header: &CallHeader) {
        let call = header.call;
        match header.phase.as_str() {
            "count" => {
                self.count += 1;
                self.reply(call, Bytes::from(self.count.to_string()));
            }
            "later" => self.waiting.push(call),
            "now" => {
                self.waiting.push(call);
                for call in std::mem::take(&mut self.waiting) {
                    self.say_version(call);
                }
            }
            _ => self.say_version(call),
        }
    }

    fn say_version(&mut self, call: u64) {
        let version = json!(self.version).to_string();
        self.reply(call, Bytes::from(version));
    }

    fn reply(&mut self, call: u64, mut rest: Bytes) {
        let header = result(call, rest.len() as u64);
        let first = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
        self.send(&Frame::Result(header, first));
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
            self.send(&Frame::Chunk(Chunk { call }, piece));
        }
        self.send(&Frame::Credit(Credit { calls: 1 }));
    }

    fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        if self.stream.write_all(&bytes).is_err() {
            exit(0);
        }
    }

    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(count @ 1..) => self.decoder.push(&piece[..count]),
                _ => return None,
            }
        }
    }
}

fn result(call: u64, length: u64) -> ResultHeader {
    ResultHeader {
        call,
        error: None,
        reconcile: None,
        content_type: orchestrator_contract::JSON,
        length,
        metadata: std::collections::BTreeMap::new(),
        usage: Usage::default(),
    }
}
