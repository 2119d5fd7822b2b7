//! What the tests share. Every wait is bounded.

use std::{
    ffi::OsStr,
    fs,
    io::Cursor,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use orchestrator_sandbox::{Child, ExitStatus, Image, Spec, spawn};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, time::timeout};

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn program(path: &str) -> Image {
    Image::interpreter(Path::new(path)).expect("the program is installed")
}

pub(crate) fn sealed(name: &str, bytes: impl AsRef<[u8]>) -> Image {
    let bytes = bytes.as_ref();
    Image::seal(name, Cursor::new(bytes), bytes.len() as u64).expect("the bytes are sealed")
}

/// A shell that runs `script`.
pub(crate) fn shell(script: impl AsRef<OsStr>) -> Spec {
    Spec::new(&program("/bin/sh"), "sh")
        .argument("-c")
        .argument(script.as_ref())
}

/// This test binary as the helper `name`.
pub(crate) fn helper(name: &str) -> Spec {
    let itself = std::env::current_exe().expect("the test binary has a path");
    Spec::new(&Image::interpreter(&itself).expect("the test binary"), "it").arguments([
        "--ignored",
        "--exact",
        "--nocapture",
        name,
    ])
}

/// This test binary as the helper `name` that nobody keeps: started as an operator
/// starts a host. It is killed when the test ends.
pub(crate) struct Host(std::process::Child);

impl Host {
    pub(crate) fn start(name: &str, run: &Path, stdout: OwnedFd) -> Self {
        #[expect(
            clippy::disallowed_types,
            reason = "what the sandbox starts leaves nothing behind, which is to be seen of a host"
        )]
        let started = std::process::Command::new(
            std::env::current_exe().expect("the test binary has a path"),
        )
        .args(["--ignored", "--exact", "--nocapture", name])
        .env(crate::helper::RUN_DIRECTORY, run)
        .stdout(stdout)
        .spawn();
        Self(started.expect("it starts"))
    }

    /// Kills the host alone, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it is our child");
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> std::process::ExitStatus {
        self.0.wait().expect("it is our child")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process between this one and all that it starts, once there is one.
pub(crate) fn keeper() -> u32 {
    keeper_of(std::process::id())
}

/// The process between the host `pid` and all that it starts, once there is one.
pub(crate) fn keeper_of(pid: u32) -> u32 {
    let own = pid.to_string();
    let is_keeper = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.split_once("(orch-keeper) ").is_some_and(|(_, rest)| {
            let mut fields = rest.split(' ');
            fields.next() != Some("Z") && fields.next() == Some(&own)
        })
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(is_keeper)
        .expect("something was started")
}

/// A pipe as its reading end, for this runtime, and its writing end, for a process.
pub(crate) fn pipe() -> (Receiver, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    (Receiver::from_owned_fd(reader).expect("a pipe"), writer)
}

/// An input to wait for, and what ends the wait when it is dropped.
pub(crate) fn gate() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
}

/// Waits until the process has ended.
pub(crate) async fn ended(child: &Child) -> ExitStatus {
    let ended = timeout(PATIENCE, child.ended()).await;
    ended
        .expect("the process has not ended")
        .expect("it is our child")
}

/// Waits until the process of `pidfd` has ended.
pub(crate) async fn gone(pidfd: impl AsFd) {
    let pidfd = pidfd.as_fd().try_clone_to_owned().expect("a descriptor");
    let wait = move || {
        let patience = Timespec::try_from(PATIENCE).expect("a time");
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).expect("a pidfd")
    };
    let ready = tokio::task::spawn_blocking(wait).await.expect("it returns");
    assert_eq!(ready, 1, "the process has not ended");
}

/// A descriptor of a process that is not a child of this one.
pub(crate) fn stranger(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    pidfd_open(pid, PidfdFlags::empty()).expect("the process is there")
}

/// Runs `spec` to its end and returns what it wrote to stdout and stderr.
pub(crate) async fn output(spec: Spec) -> (ExitStatus, String) {
    let (mut reader, writer) = pipe();
    let both = writer.try_clone().expect("a descriptor");
    let spec = spec.descriptor(1, writer).descriptor(2, both);
    let child = spawn(spec).await.expect("it starts");
    let mut text = String::new();
    timeout(PATIENCE, reader.read_to_string(&mut text))
        .await
        .expect("stdout is closed")
        .expect("text");
    (ended(&child).await, text)
}

/// Reads until `enough` says so.
pub(crate) async fn read_until(reader: &mut Receiver, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !enough(&text) {
        let count = timeout(PATIENCE, reader.read(&mut piece))
            .await
            .expect("more text comes")
            .expect("a pipe");
        assert!(count > 0, "the text ended: {text}");
        text.push_str(str::from_utf8(&piece[..count]).expect("UTF-8"));
    }
    text
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The numbers of the descriptors that this process has open.
pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}
