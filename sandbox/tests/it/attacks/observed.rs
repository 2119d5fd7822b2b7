//! What an observed process does is told, and nothing of it is refused.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use orchestrator_sandbox::{
    Confinement, ExitStatus, Grants, Layers, Network, Observed, Spec, spawn,
};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, time::timeout};

use crate::support::{PATIENCE, program, shell};

/// Runs `spec` observed, and returns what it wrote and what was seen.
async fn observe(spec: Spec) -> (ExitStatus, String, Vec<Observed>) {
    let grants = Grants::new().observed().network(Network::Gateway);
    let confinement = Confinement::new(&grants, Layers::NONE, Layers::ALL).expect("it is possible");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let errors: OwnedFd = writer.try_clone().expect("a descriptor");
    let spec = spec
        .confinement(&confinement)
        .variable("PATH", "/usr/bin:/bin")
        .descriptor(1, writer)
        .descriptor(2, errors);
    let mut child = spawn(spec).await.expect("it starts");
    let observer = child.take_observer().expect("it is observed");
    assert!(child.take_observer().is_none(), "there is one");
    let _gateway = child.take_gateway().expect("it has one");
    let (sender, seen) = mpsc::channel();
    let observing = thread::spawn(move || observer.run(|one| sender.send(one).unwrap_or(())));
    let mut reader = Receiver::from_owned_fd(reader).expect("a pipe");
    let mut said = String::new();
    let read = timeout(PATIENCE, reader.read_to_string(&mut said)).await;
    read.expect("it ends").expect("text");
    let status = child.ended().await.expect("it is our child");
    // It ends with the last process.
    observing.join().expect("it ends by itself");
    (status, said, seen.try_iter().collect())
}

#[tokio::test]
async fn what_it_does_with_files_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for name in ["read", "write", "seen", "gone", "old"] {
        std::fs::write(at(name), "text\n").expect("a file");
    }
    std::fs::create_dir(at("below")).expect("a directory");
    std::os::unix::fs::symlink(at("read"), at("link")).expect("a link");
    let script = "set -e; cd \"$0\"
        read -r x < read; read -r x < below/../link; echo new >> write; echo made > below/new
        test -e seen; test ! -e missing; { read -r y < missing; } 2> /dev/null || :
        rm gone; mv old below/old; mkdir below/deep; echo $x";
    let (status, said, seen) = observe(shell(script).argument(directory.path())).await;
    assert_eq!((status, &*said), (ExitStatus::Exited(0), "text\n"));
    let has = |one: &Observed| assert!(seen.contains(one), "{one:?} is not in {seen:#?}");
    for name in ["read", "link"] {
        has(&Observed::Read(at(name)));
    }
    has(&Observed::Written(at("write")));
    has(&Observed::Looked(at("seen")));
    has(&Observed::Changed(at("")));
    has(&Observed::Changed(at("below")));
    for made in ["below/new", "below/old", "below/deep"] {
        has(&Observed::Made(at(made)));
    }
    for program in ["rm", "mv", "mkdir"] {
        has(&Observed::Executed(PathBuf::from("/usr/bin").join(program)));
    }
    let text = format!("{seen:?}");
    for unseen in ["missing", "..", "libc", "ld.so", "/dev/null", "Unseen"] {
        assert!(!text.contains(unseen), "{unseen}: {seen:#?}");
    }
}

#[tokio::test]
async fn the_interpreters_of_scripts_are_told_too() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let [script, plain] = ["script", "plain"].map(|name| directory.path().join(name));
    std::fs::write(&script, "#! /usr/bin/env sh\nexit 3\n").expect("a file");
    std::fs::write(&plain, "").expect("a file");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let spec = shell("\"$1\"/plain; \"$1\"/script").arguments([Path::new("sh"), directory.path()]);
    let (status, _, seen) = observe(spec).await;
    assert_eq!(status, ExitStatus::Exited(3));
    let executed: BTreeSet<_> = seen
        .into_iter()
        .filter_map(|one| match one {
            Observed::Executed(path) => Some(path),
            _ => None,
        })
        .collect();
    let expected = [script, "/usr/bin/env".into(), "/usr/bin/sh".into()];
    assert_eq!(executed, expected.into());
}

#[tokio::test]
async fn what_it_connects_to_by_itself_is_told() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return;
    }
    let script = "
import os, socket
socket.create_connection(('127.0.0.1', 3128)).close()
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, '192.0.2.7'),
    (socket.AF_INET6, socket.SOCK_DGRAM, '2001:db8::7'),
):
    try:
        socket.socket(family, kind).connect((address, 443))
        print('connected')
    except OSError as error:
        print(error.errno)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    datagrams.sendto(b'', ('192.0.2.8', 53))
except OSError as error:
    print(error.errno)
ours, theirs = socket.socketpair()
ours.send(b'not told')
try:
    os.removexattr('/etc/passwd', 'user.no-such-one')
except OSError:
    print('removed')
os.sysconf('SC_PHYS_PAGES')
open('/proc/self/status').read()
print(open('/proc/loadavg').read() != '')
";
    let spec = Spec::new(&program("/usr/bin/python3"), "python3").arguments(["-I", "-c", script]);
    let (status, said, seen) = observe(spec).await;
    assert_eq!(status, ExitStatus::Exited(0), "{said}");
    assert_eq!(said, "101\n101\n101\nremoved\nTrue\n");
    let connected: Vec<_> = seen
        .iter()
        .filter_map(|one| match one {
            Observed::Connected(address) => Some(*address),
            _ => None,
        })
        .collect();
    let first = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 7), 443));
    let last = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 8), 53));
    let middle = "[2001:db8::7]:443".parse().expect("an address");
    assert_eq!(connected, [first, middle, last]);
    let removed = Path::new("/etc/passwd");
    assert!(
        seen.contains(&Observed::Written(removed.into())),
        "{seen:?}"
    );
    assert!(seen.contains(&Observed::SystemInformation), "{seen:?}");
    let text = format!("{seen:?}");
    assert!(
        !text.contains("/proc") && !text.contains("Unseen"),
        "{text}"
    );
}

/// Without anybody who looks, what would be told fails.
#[tokio::test]
async fn nothing_goes_on_unseen() {
    let grants = Grants::new().observed();
    let confinement = Confinement::new(&grants, Layers::NONE, Layers::ALL).expect("it is possible");
    let mut child = spawn(shell("exit 3").confinement(&confinement))
        .await
        .expect("it starts");
    drop(child.take_observer().expect("it is observed"));
    let status = timeout(PATIENCE, child.ended())
        .await
        .expect("it ends")
        .expect("it is ours");
    // Not even its libraries are there.
    assert_eq!(status, ExitStatus::Exited(127));
}
