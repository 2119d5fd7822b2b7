//! One start of a process: socket, pipes, handshake.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::BytesMut;
use orchestrator_contract::{
    CallError, LogStream,
    frame::{Frame, FrameDecoder, Hello, PROTOCOL_VERSION, Welcome},
};
use orchestrator_sandbox::refuse_descriptors;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    NodeParts,
    connection::Connection,
    intake::{READ_BYTES, unexpected},
    reader::{End, read},
    socket::Socket,
};
use crate::{
    error::LifecycleError,
    exec::same_phases,
    logs::{Tail, drain},
    monitor::WatchGuard,
    outlet::Outlet,
    process::{DRAIN_AFTER_END, Process, StartError, describe, explain, output_pipe},
};

/// The number of the plugin's end of the socket pair.
const NODE_FD: i32 = 3;
/// Where a sealed script is for its interpreter.
const SCRIPT_FD: i32 = 4;

/// A process that takes calls. Dropping it kills the process and ends every call.
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) connection: Arc<Connection>,
    pub(super) watch: WatchGuard,
    pub(super) reader: JoinSet<End>,
    pub(super) writer: JoinSet<io::Result<()>>,
    drains: JoinSet<()>,
    pub(super) tail: Arc<Tail>,
    /// Where to say that its filter of system calls has ended it, if it has one.
    filtered: Option<Arc<Outlet>>,
}

/// Why a start failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another start may work.
    Passing { reason: String, tail: String },
    /// Program and manifest do not belong together; another start would end the same.
    Lasting {
        error: CallError,
        cause: LifecycleError,
    },
}

/// A process before its handshake.
struct Hatching {
    process: Process,
    watch: WatchGuard,
    drains: JoinSet<()>,
    tail: Arc<Tail>,
    socket: Socket,
    filtered: Option<Arc<Outlet>>,
}

/// Starts the process and shakes hands. Dropping the future kills it; when it is given
/// up otherwise, the process is gone by the time that the failure is there.
pub(super) async fn launch(
    parts: &NodeParts,
    waiting: Arc<AtomicU64>,
    given_up: &CancellationToken,
) -> Result<Running, Failure> {
    let hatched = hatch(parts).await;
    let mut hatching = hatched.map_err(|error| Failure::Passing {
        reason: explain(&error),
        tail: String::new(),
    })?;
    let mut decoder = FrameDecoder::new();
    let limit = parts.settings.handshake_timeout;
    let Hatching { socket, watch, .. } = &mut hatching;
    let shaken = tokio::select! {
        shaken = timeout(limit, shake(parts, socket, &mut decoder)) => shaken
            .unwrap_or(Err(Handshake::Late)),
        error = watch.violated() => Err(Handshake::Fault(error)),
        () = given_up.cancelled() => Err(Handshake::Late),
    };
    match shaken {
        Ok(hello) => Ok(hatching.run(parts, waiting, decoder, &hello)),
        Err(fault) => Err(hatching.fail(fault, limit).await),
    }
}

/// What can go wrong in a handshake.
enum Handshake {
    Late,
    /// The plugin closed its end.
    Gone,
    Fault(CallError),
    /// Rule and what was seen.
    Mismatch(&'static str, String),
}

/// The host's end of a connection, and the plugin's.
fn pair() -> io::Result<(Socket, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Where the kernel cannot, the filter keeps a plugin from what makes a close wait.
    let _ = refuse_descriptors(ours.as_fd());
    Ok((Socket::new(ours.into())?, theirs))
}

async fn hatch(parts: &NodeParts) -> Result<Hatching, StartError> {
    let (socket, theirs) = pair()?;
    let (stdout, stdout_end) = output_pipe()?;
    let (stderr, stderr_end) = output_pipe()?;
    let mut spec = parts
        .program
        .spec(SCRIPT_FD, [])?
        .descriptor(1, stdout_end)
        .descriptor(2, stderr_end)
        .descriptor(NODE_FD, theirs)
        .variable("ORCHESTRATOR_NODE_FD", NODE_FD.to_string());
    for (name, value) in parts.identity.variables() {
        spec = spec.variable(name, value);
    }
    let process = Process::start(spec, &parts.program).await?;
    let watch = parts.monitor.watch(&process, &parts.outlet, &parts.bounds);
    let tail = Arc::new(Tail::new(parts.crash_output_bytes));
    let mut drains = JoinSet::new();
    let outlet = || (Arc::clone(&parts.outlet), Arc::clone(&tail));
    let (log, keep) = outlet();
    drains.spawn(drain(stdout, LogStream::Stdout, log, keep, None));
    let (log, keep) = outlet();
    drains.spawn(drain(stderr, LogStream::Stderr, log, keep, None));
    Ok(Hatching {
        process,
        watch,
        drains,
        tail,
        socket,
        filtered: parts
            .program
            .filters_calls()
            .then(|| Arc::clone(&parts.outlet)),
    })
}

async fn shake(
    parts: &NodeParts,
    socket: &Socket,
    decoder: &mut FrameDecoder,
) -> Result<Hello, Handshake> {
    let mut space = vec![0; READ_BYTES];
    let hello = loop {
        let next = decoder.next();
        match next.map_err(|error| {
            Handshake::Fault(CallError::protocol(error.rule(), error.to_string()))
        })? {
            Some(Frame::Hello(hello)) => break hello,
            Some(frame) => return Err(Handshake::Fault(unexpected(&frame))),
            None => match socket.read(&mut space).await {
                Ok(count @ 1..) => decoder.push(&space[..count]),
                Ok(0) if decoder.pending() > 0 => {
                    return Err(Handshake::Fault(half_frame(decoder.pending())));
                }
                Ok(0) | Err(_) => return Err(Handshake::Gone),
            },
        }
    };
    compare(parts, &hello)?;
    let welcome = Frame::Welcome(Welcome {
        protocol: PROTOCOL_VERSION,
        host: parts.host_version.clone(),
        config: (*parts.config).clone(),
        grants: parts.grants.clone(),
    });
    let mut bytes = BytesMut::new();
    welcome.encode(&mut bytes).map_err(|error| {
        Handshake::Mismatch(
            "welcome_too_long",
            format!("configuration and grants: {error}"),
        )
    })?;
    let written = socket.write_all(&bytes).await;
    written.map(|()| hello).map_err(|_| Handshake::Gone)
}

fn compare(parts: &NodeParts, hello: &Hello) -> Result<(), Handshake> {
    let manifest = &parts.manifest;
    if hello.protocol != PROTOCOL_VERSION {
        let message = format!("protocol {} instead of {PROTOCOL_VERSION}", hello.protocol);
        return Err(Handshake::Mismatch("wrong_version", message));
    }
    let version = manifest.version.to_string();
    if hello.plugin.as_str() != manifest.id.as_str() || hello.version != version {
        let message = format!(
            "plugin {} {} instead of {} {version}",
            hello.plugin, hello.version, manifest.id
        );
        return Err(Handshake::Mismatch("wrong_plugin", message));
    }
    let phases: Vec<_> = hello.phases.iter().map(|phase| phase.as_str()).collect();
    same_phases(manifest, &phases).map_err(|message| Handshake::Mismatch("wrong_phases", message))
}

pub(super) fn half_frame(pending: usize) -> CallError {
    CallError::protocol(
        "half_frame",
        format!("the connection ended {pending} bytes into a frame"),
    )
}

impl Hatching {
    fn run(
        self,
        parts: &NodeParts,
        waiting: Arc<AtomicU64>,
        decoder: FrameDecoder,
        hello: &Hello,
    ) -> Running {
        let outlet = Arc::clone(&parts.outlet);
        let settings = parts.settings.clone();
        let socket = self.socket;
        let connection = Connection::new(outlet, settings, waiting, socket, decoder, hello);
        let mut reader = JoinSet::new();
        reader.spawn(read(Arc::clone(&connection)));
        let mut writer = JoinSet::new();
        let writing = Arc::clone(&connection);
        writer.spawn(async move { writing.outbox.write().await });
        Running {
            process: self.process,
            connection,
            watch: self.watch,
            reader,
            writer,
            drains: self.drains,
            tail: self.tail,
            filtered: self.filtered,
        }
    }

    async fn fail(mut self, fault: Handshake, limit: Duration) -> Failure {
        // A process that closed its end mostly is about to end by itself; how it
        // ends says more than that it was killed.
        let gone = matches!(fault, Handshake::Gone);
        let by_itself = timeout(DRAIN_AFTER_END, self.process.wait());
        let status = match gone {
            true => by_itself.await.ok().and_then(Result::ok),
            false => None,
        };
        end(&self.process, self.filtered.as_deref()).await;
        self.watch
            .ended(self.process.cpu_time().unwrap_or_default());
        finish_drains(&mut self.drains).await;
        let tail = self.tail.text();
        let fault = match (self.watch.killed_for_memory(), gone) {
            (Some(error), true) => Handshake::Fault(error),
            _ => fault,
        };
        let reason = match fault {
            Handshake::Mismatch(rule, message) => {
                let cause = LifecycleError::Handshake {
                    message: message.clone(),
                };
                let error = CallError::protocol(rule, message);
                return Failure::Lasting { error, cause };
            }
            Handshake::Late => format!("it did not say who it is within {limit:?}"),
            Handshake::Gone => match status {
                Some(status) => format!("it {} before its handshake", describe(status)),
                None => "it closed its connection before its handshake".to_owned(),
            },
            Handshake::Fault(error) => error.to_string(),
        };
        Failure::Passing { reason, tail }
    }
}

impl Running {
    /// Kills the process, reads what it still wrote, and ends every call. `error`
    /// gets the process's last output and makes the calls' error of it.
    pub(super) async fn end(mut self, error: impl FnOnce(String) -> CallError, after: &CallError) {
        end(&self.process, self.filtered.as_deref()).await;
        self.watch
            .ended(self.process.cpu_time().unwrap_or_default());
        finish_drains(&mut self.drains).await;
        self.connection.close(&error(self.tail.text()), after);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let error = CallError::Cancelled {
            reason: "the plugin's process was ended by its host".to_owned(),
        };
        self.connection.close(&error, &error);
    }
}

/// Ends the process, and says so where its filter of system calls did that before.
async fn end(process: &Process, filtered: Option<&Outlet>) {
    // Fails only when nothing is left to end.
    if let (Ok(status), Some(outlet)) = (process.end().await, filtered) {
        outlet.ended_in_filter(status);
    }
}

/// Reads the pipes to their ends. What the process left behind is being killed, and
/// somebody else who was given a pipe is not waited for.
async fn finish_drains(drains: &mut JoinSet<()>) {
    let finish = async { while drains.join_next().await.is_some() {} };
    let _ = timeout(DRAIN_AFTER_END, finish).await;
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, mem::MaybeUninit, os::fd::BorrowedFd};

    use rustix::{
        io::Errno,
        net::{
            RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
        },
    };

    use super::*;

    fn send_descriptor(through: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [through];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [IoSlice::new(b"x")];
        sendmsg(through, &bytes, &mut control, SendFlags::empty())
    }

    #[tokio::test]
    async fn nobody_can_make_the_host_close_what_it_was_sent() {
        let flags = SocketFlags::CLOEXEC;
        let (probe, _other) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        if refuse_descriptors(probe.as_fd()).is_err() {
            // Before Linux 6.16.
            return;
        }
        let (socket, theirs) = pair().unwrap();
        assert_eq!(send_descriptor(theirs.as_fd()), Err(Errno::PERM));
        send(&theirs, b"bytes", SendFlags::empty()).unwrap();
        let mut space = [0; 8];
        assert_eq!(socket.read(&mut space).await.unwrap(), 5);
        socket.write_all(b"back").await.unwrap();
        assert_eq!(recv(&theirs, &mut space, RecvFlags::empty()).unwrap().0, 4);
    }
}
