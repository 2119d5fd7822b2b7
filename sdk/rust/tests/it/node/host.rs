//! The host's side of a connection to a plugin's process.
#![expect(
    clippy::disallowed_types,
    reason = "these tests are about processes, and what they wait for is real time"
)]

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    Criticality, JSON, RunId, SessionId, TraceContext,
    frame::{
        CallHeader, Cancel, CancelMode, Frame, FrameDecoder, PROTOCOL_VERSION, ResultHeader,
        Welcome,
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::programs::example;

/// Nothing that these tests wait for takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plugin's process and the host's end of its socket.
pub(crate) struct Host {
    child: Child,
    socket: Option<UnixStream>,
    decoder: FrameDecoder,
}

impl Host {
    /// Starts `program` with the socket as descriptor 3 and a closed stdin.
    pub(crate) fn start(program: &str) -> Self {
        Self::start_with(program, UnixStream::pair().unwrap())
    }

    fn start_with(program: &str, (ours, theirs): (UnixStream, UnixStream)) -> Self {
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", r#"exec 3<&0 </dev/null; exec "$0""#])
            .arg(example(program))
            .env("ORCHESTRATOR_NODE_FD", "3")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            socket: Some(ours),
            decoder: FrameDecoder::new(),
        }
    }

    /// Starts `tour`, greets it and takes its credit of four calls.
    pub(crate) fn greeted() -> Self {
        Self::start("tour").greet()
    }

    /// As [`Self::greeted`], but the plugin's socket takes a few kilobytes until they
    /// are read.
    pub(crate) fn with_small_buffers() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 1).unwrap();
        Self::start_with("tour", (ours, theirs)).greet()
    }

    fn greet(mut self) -> Self {
        assert!(matches!(self.next(), Frame::Hello(_)));
        self.send(&welcome(PROTOCOL_VERSION, json!({})));
        match self.next() {
            Frame::Credit(credit) => assert_eq!(credit.calls, 4),
            other => panic!("{other:?}"),
        }
        self
    }

    pub(crate) fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        self.send_bytes(&bytes);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let mut socket = self.socket.as_ref().unwrap();
        // A plugin that gave up is told apart by what it says, not by this.
        let _ = socket.write_all(bytes);
    }

    pub(crate) fn call(&mut self, call: u64, phase: &str, input: &'static str) {
        let header = header(call, phase, input.len() as u64);
        self.send(&Frame::Call(header, Bytes::from_static(input.as_bytes())));
    }

    pub(crate) fn cancel(&mut self, call: u64, mode: CancelMode) {
        self.send(&Frame::Cancel(Cancel { call, mode }));
    }

    /// The plugin's next frame.
    pub(crate) fn next(&mut self) -> Frame {
        self.try_next().expect("the plugin closed its end")
    }

    /// The plugin's next frame; `None` at the end of its stream.
    pub(crate) fn try_next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let mut piece = [0; 16 * 1024];
            let read = self.socket.as_ref().unwrap().read(&mut piece).unwrap();
            if read == 0 {
                return None;
            }
            self.decoder.push(&piece[..read]);
        }
    }

    /// The next `Result`; frames before it are skipped.
    pub(crate) fn result(&mut self) -> (ResultHeader, Bytes) {
        loop {
            if let Frame::Result(header, output) = self.next() {
                return (header, output);
            }
        }
    }

    /// Waits until the plugin has sent something, and leaves it unread.
    pub(crate) fn await_bytes(&self) {
        let socket = self.socket.as_ref().unwrap();
        let mut wanted = [PollFd::new(socket, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut wanted, Some(&patience)).unwrap(), 1);
    }

    /// Closes the host's end.
    pub(crate) fn hang_up(&mut self) {
        self.socket = None;
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the process to end by itself; its status and what it wrote to
    /// stdout and stderr.
    pub(crate) fn end(&mut self) -> (ExitStatus, String, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        };
        let mut out = String::new();
        let mut err = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (status, out, err)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn welcome(protocol: u32, config: Value) -> Frame {
    Frame::Welcome(Welcome {
        protocol,
        host: "1.0.0".into(),
        config,
        grants: vec!["system:info".into()],
    })
}

pub(crate) fn header(call: u64, phase: &str, length: u64) -> CallHeader {
    CallHeader {
        call,
        run: RunId::from_parts(1, 2),
        step: "step".into(),
        phase: phase.into(),
        attempt: 1,
        tenant: None,
        criticality: Criticality::Critical,
        timeout_ms: Some(60_000),
        idempotency_key: "key".into(),
        traceparent: TraceContext::from_random(1, 2, true),
        session: SessionId::from_parts(1, 3),
        content_type: JSON,
        length,
    }
}
