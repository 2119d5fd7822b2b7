//! A plugin of kind `node` that counts its calls and hands the count on.

use std::{path::PathBuf, process::exit, time::Duration};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    CallError, PhaseName,
    frame::{CallHeader, Credit, Frame, Hello, PAYLOAD_PER_FRAME, RestoreState, ResultHeader},
};
use serde_json::json;

use crate::{
    plugin_end::{PluginEnd, script},
    support::{File, Home},
};

/// How the plugin behaves, and which version it says it is.
const MODE: &str = "TEST_COUNTER_MODE";
const VERSION: &str = "TEST_COUNTER_VERSION";
/// Calls it takes at once.
const CREDIT: u32 = 8;
/// What follows the count in a state, so that one takes several frames.
const PADDING: usize = PAYLOAD_PER_FRAME + 7;

/// `count` counts, `later` answers when `now` comes, `version` says which it is.
const PHASES: [&str; 4] = ["count", "later", "now", "version"];

/// Installs a release of the plugin, which behaves as `mode` says:
///
/// | mode | does |
/// |---|---|
/// | `counts` | nothing wrong |
/// | `forgets` | keeps no state |
/// | `exits` | ends at its start |
/// | `slow`, `slower` | takes a second, or some, to start |
/// | `large` | has a large state |
/// | `silent`, `silent-later` | does not tell its state; the second time |
/// | `dies`, `dies-later` | ends when it is asked for its state; the second time |
/// | `refuses` | takes no state |
/// | `hangs`, `hangs-later` | does not answer when it is given a state; the second time |
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
    let variables = format!("{MODE}={mode} {VERSION}={version}");
    let script = script("counter_plugin::process", &variables);
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
    host: PluginEnd,
    mode: String,
    version: String,
    count: u64,
    /// How often it was asked for its state, and given one.
    told: u32,
    given: u32,
    waiting: Vec<u64>,
    restoring: Option<(RestoreState, BytesMut)>,
}

impl Counter {
    fn connect(mode: String) -> Self {
        Self {
            host: PluginEnd::of_stdin(),
            mode,
            version: std::env::var(VERSION).unwrap(),
            count: 0,
            told: 0,
            given: 0,
            waiting: Vec::new(),
            restoring: None,
        }
    }

    fn serve(mut self) -> ! {
        if self.mode == "exits" {
            eprintln!("nothing works here");
            exit(3);
        }
        match &*self.mode {
            "slow" => std::thread::park_timeout(Duration::from_secs(1)),
            "slower" => std::thread::park_timeout(Duration::from_secs(4)),
            _ => {}
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
        self.host.send(&hello);
        let Some(Frame::Welcome(_)) = self.host.next() else {
            exit(9)
        };
        self.host.send(&Frame::Credit(Credit { calls: CREDIT }));
        while let Some(frame) = self.host.next() {
            self.take(frame);
        }
        exit(0)
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Call(header, _) => self.call(&header),
            Frame::GetState(question) => self.tell_state(question.call),
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
            Frame::Cancel(_) => {}
            Frame::Drain(_) => exit(0),
            _ => exit(8),
        }
    }

    fn tell_state(&mut self, call: u64) {
        self.told += 1;
        match &*self.mode {
            "silent" => return,
            "silent-later" if self.told > 1 => return,
            "dies" => exit(5),
            "dies-later" if self.told > 1 => exit(5),
            _ => {}
        }
        let mut state = BytesMut::from(&self.count.to_be_bytes()[..]);
        state.resize(8 + PADDING, b'.');
        if self.mode == "large" {
            state.resize(2 << 20, b'.');
        }
        self.reply(call, state.freeze());
    }

    fn restore(&mut self) {
        let Some((header, state)) = self
            .restoring
            .take_if(|(header, state)| header.length == state.len() as u64)
        else {
            return;
        };
        let call = header.call;
        self.given += 1;
        match &*self.mode {
            "hangs" => return,
            "hangs-later" if self.given > 1 => return,
            "refuses" => {
                let message = format!("a state of {} is too old", header.from_version);
                self.host.fail(call, CallError::permanent(message));
                return;
            }
            _ => {}
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

    fn reply(&mut self, call: u64, output: Bytes) {
        self.host.reply(ResultHeader::of(call, 0), output);
    }
}
