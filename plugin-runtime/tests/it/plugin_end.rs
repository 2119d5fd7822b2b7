//! The plugin's end of a connection, for plugins that are this test executable, started
//! again by a signed shell script.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::exit,
};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{
    CallError,
    frame::{Chunk, Credit, Frame, FrameDecoder, PAYLOAD_PER_FRAME, ResultHeader},
};

/// A script that becomes `test` of this executable, with `variables` set.
pub(crate) fn script(test: &str, variables: &str) -> String {
    let program = std::env::current_exe().unwrap();
    // The socket becomes stdin, which can be taken over without unsafe code.
    format!(
        "{variables} exec '{}' --exact {test} --nocapture <&3 3<&-\n",
        program.display()
    )
}

pub(crate) struct PluginEnd {
    stream: UnixStream,
    decoder: FrameDecoder,
}

impl PluginEnd {
    /// The one that a [`script`] was given.
    pub(crate) fn of_stdin() -> Self {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        Self {
            stream: UnixStream::from(socket),
            decoder: FrameDecoder::new(),
        }
    }

    /// What the host says next; nothing once it has closed its end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
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

    pub(crate) fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        self.raw(&bytes);
    }

    /// Ends the process when the host is gone.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).is_err() {
            exit(0);
        }
    }

    /// Sends an output, whose length goes into its header, and takes one more call.
    pub(crate) fn reply(&mut self, mut header: ResultHeader, mut rest: Bytes) {
        let call = header.call;
        header.length = rest.len() as u64;
        let first = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
        self.send(&Frame::Result(header, first));
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
            self.send(&Frame::Chunk(Chunk { call }, piece));
        }
        self.send(&Frame::Credit(Credit { calls: 1 }));
    }

    pub(crate) fn fail(&mut self, call: u64, error: CallError) {
        let mut header = ResultHeader::of(call, 0);
        header.error = Some(error);
        self.reply(header, Bytes::new());
    }

    pub(crate) fn close(&self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }
}
